"""What every video metric keeps: integer rows per frame and facts per item, exact on any number of processes.

A row is (item, other item, frame, proposal, counts...), with a confidence beside it. Repeats are dropped and everything
is sorted before a single division, so neither the number of processes (`metrics.torch_metric` gathers their rows) nor
the order of batches can change a digit. No torchmetrics here: `score` starts without it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from rvos_lightning.core.types import ClipMeta, Facts, SegmentedWindow, Targets
from rvos_lightning.metrics.id_maps import id_map_masks
from rvos_lightning.metrics.region_boundary import COUNTS, boundary_measure, frame_counts, region_similarity

Scores = dict[str, Float64[Tensor, ""]]

STATES = ("rows", "confidence", "facts")
"""What a metric has counted: three lists of tensors."""

HEADS = 4
"""Columns of a row before its counts: item, other item, frame, proposal."""


EMPTY = "; THE TRUTH IS EMPTY on every scored frame, so that an empty mask is perfect"


@dataclass(frozen=True)
class Unit:
    """One expression or object and its counted frames, in temporal order.

    Attributes:
        frames: positions in the video [n].
        counts: one row a frame [n, columns], named by the metric's `columns`.
        j: region similarity per frame.
        f: boundary measure per frame.
        scores: confidence per row, 1 where nobody said; several rows a frame where proposals are ranked.
        other: the item that predicted, where it is not this one (assignment protocols).
    """

    source: str
    video: str
    item: str
    subsets: tuple[str, ...]
    facts: Facts
    no_target: bool
    frames: np.ndarray
    counts: np.ndarray
    j: np.ndarray
    f: np.ndarray
    scores: np.ndarray
    other: "str | None" = None

    @cached_property
    def seen_gt(self) -> np.ndarray:
        """Frames with truth."""
        return self.counts[:, COUNTS.index("area_gt")] > 0

    @cached_property
    def seen_pred(self) -> np.ndarray:
        """Frames with a predicted pixel."""
        return self.counts[:, COUNTS.index("area_pred")] > 0

    @property
    def names(self) -> dict[str, str]:
        """Columns that open a table row."""
        return {"source": self.source, "video": self.video, "item": self.item}


class FrameRows(ABC):
    """Base of all metrics of masks. `update` once a window of a video, `compute` once an evaluation.

    Of one process; `TorchMetric` makes any of them a torchmetrics metric, whose processes share what they counted.

    Only frames with `targets.annotated` count. Repeats of one (source, video, item, frame) count once, whichever
    process saw them. Scores are fractions of 1 in float64, and for every name in `ClipMeta.subsets` (and "no_target")
    the same scores again as `<score>/<subset>`.

    Attributes:
        rule: the averaging rule in one sentence, to print beside the number.
        headline: the score that a paper's abstract quotes.
        id_maps: the objects of a video share one map of numbers a frame, so all must come in one batch; where masks
            overlap, the lowest number keeps the pixel.
        nothing: no annotated frame was scored, as `compute` found.
        by_source: each data set is a named subset, too.
        only: count windows of this data set alone, and name scores `<score>/<only>`; "" counts all.
        columns: names of the integers kept per frame.
        rows: int64 [frames, columns], a tensor a window.
        confidence: float64 [frames], beside them.
        facts: uint8, lines of JSON.
    """

    rule: str = ""
    headline = "j_and_f"
    id_maps = False
    only: str = ""
    by_source: bool = False
    columns: tuple[str, ...] = COUNTS

    rows: list[Tensor]
    confidence: list[Tensor]
    facts: list[Tensor]

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.remark, self.nothing = "", True
        self._known: dict[tuple[str, str, str], int] = {}
        # Typed although empty: a process that sees nothing must still gather int64 rows.
        self.rows = [torch.zeros(0, HEADS + len(self.columns), dtype=torch.int64)]
        self.confidence = [torch.zeros(0, dtype=torch.float64)]
        self.facts = [torch.zeros(0, dtype=torch.uint8)]

    def update(self, window: SegmentedWindow) -> None:
        """Count one window that has targets.

        Raises:
            ValueError: masks and targets differ in size, or a frame's position is unknown.
        """
        if not self.only or window.meta[0].source == self.only:
            self._take(window)

    def join(self, other: "FrameRows") -> None:
        """Add what a metric of the same protocol, perhaps of another process, has counted."""
        for name in STATES:  # copied: a tensor of another process keeps a file open
            getattr(self, name).extend(part.clone() for part in getattr(other, name))

    def _take(self, window: SegmentedWindow) -> None:
        targets = self._check(window)
        if self.id_maps:
            window = replace(window, masks=id_map_masks(window))
        keys = self._keys(window.meta)
        self._append(keys, keys, targets.annotated, window.meta, self._count(window, targets))

    def _count(self, window: SegmentedWindow, targets: Targets) -> Int64[Tensor, "frames columns"]:
        """`columns` of the annotated frames, batch before time."""
        chosen = targets.annotated
        return frame_counts(pick(targets.masks, chosen), pick(window.masks, chosen))

    @property
    def main_score(self) -> str:
        """The headline as `compute` names it."""
        return f"{self.headline}/{self.only}" if self.only else self.headline

    def _check(self, window: SegmentedWindow) -> Targets:
        masks, targets = window.masks, window.targets
        if targets is None:
            raise ValueError(f"{type(self).__name__}: the window has no targets: its truth is hidden")
        if tuple(masks.shape) != tuple(targets.masks.shape) or len(window.meta) != len(masks):
            raise ValueError(
                f"{type(self).__name__}: masks {tuple(masks.shape)}, targets {tuple(targets.masks.shape)}, "
                f"{len(window.meta)} metas; resize predictions to the targets (their original size) before scoring"
            )
        return targets

    def _keys(self, meta: Sequence[ClipMeta]) -> list[int]:
        """A stable 64-bit number of each item; a new item's facts are kept as one line of JSON."""
        keys = []
        for entry in meta:
            name = (entry.source, entry.video, entry.item)
            if name not in self._known:
                digest = blake2b("\x1f".join(name).encode(), digest_size=8).digest()
                self._known[name] = int.from_bytes(digest, "little", signed=True)
                subsets = dict.fromkeys((*entry.subsets, *(["no_target"] if entry.no_target else [])))
                said = [self._known[name], *name, list(subsets), entry.facts.known(), entry.no_target]
                text = torch.frombuffer(bytearray((json.dumps(said) + "\n").encode()), dtype=torch.uint8)
                self.facts.append(text)
            keys.append(self._known[name])
        return keys

    def _append(
        self,
        keys: Sequence[int],
        others: Sequence[int],
        chosen: Bool[Tensor, "batch time"],
        meta: Sequence[ClipMeta],
        counts: Int64[Tensor, "frames columns"],
        proposal: int = 0,
        scores: Float[Tensor, "frames"] | None = None,
    ) -> None:
        where = chosen.cpu().nonzero().tolist()
        heads = [[keys[item], others[item], position_of(meta[item], frame), proposal] for item, frame in where]
        if heads:
            self.rows.append(torch.cat([torch.tensor(heads), counts.cpu()], dim=1))
            self.confidence.append(torch.ones(len(heads)).double() if scores is None else scores.double().cpu())

    def units(self) -> list[Unit]:
        """Every item (or pair of items) with its frames, sorted by source, video and item; repeats dropped."""
        facts = self._facts()
        rows, scores = torch.cat(self.rows).numpy(), torch.cat(self.confidence).numpy()
        if not len(rows):
            return []
        order = np.lexsort((scores, *rows.T[::-1]))
        rows, scores = rows[order], scores[order]
        new = np.r_[True, (rows[1:, :HEADS] != rows[:-1, :HEADS]).any(1)]
        rows, scores = rows[new], scores[new]
        counts = torch.from_numpy(rows[:, HEADS : HEADS + len(COUNTS)])
        j, f = region_similarity(counts).numpy(), boundary_measure(counts).numpy()
        starts = np.flatnonzero(np.r_[True, (rows[1:, :2] != rows[:-1, :2]).any(1)])
        units = []
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            key, other = rows[start, :2].tolist()
            own = slice(start, stop)
            values = rows[own, 2], rows[own, HEADS:], j[own], f[own], scores[own]
            units.append(Unit(*facts[key], *values, other=None if key == other else facts[other][2]))
        return sorted(units, key=lambda unit: (unit.source, unit.video, unit.item, unit.other or ""))

    def _facts(self) -> dict[int, tuple[str, str, str, tuple[str, ...], Facts, bool]]:
        """Source, video, item, subsets, facts and whether there is no target, of every number.

        Raises:
            RuntimeError: two items share a number (one chance in 2^64 a pair).
        """
        found: dict[int, tuple[str, str, str, tuple[str, ...], Facts, bool]] = {}
        for line in bytes(torch.cat(self.facts).numpy()).decode().splitlines():
            key, source, video, item, subsets, facts, no_target = json.loads(line)
            if key in found and found[key][:3] != (source, video, item):
                raise RuntimeError(f"items {found[key][:3]} and {(source, video, item)} share a hash: rename one")
            found[key] = (source, video, item, tuple(subsets), Facts(**facts), no_target)
        return found

    def compute(self) -> Scores:
        """Scores of everything and of every subset, as float64 scalars."""
        units = self.units()
        self.remark = EMPTY if units and not any(unit.seen_gt.any() for unit in units) else ""
        kept = self.scored(units)
        self.nothing = not kept
        if self.by_source:
            kept = [replace(unit, subsets=(unit.source, *unit.subsets)) for unit in kept]
        scores = by_subset(kept, self.score)
        return {f"{key}/{self.only}": value for key, value in scores.items()} if self.only else scores

    @property
    def said(self) -> str:
        """The rule, and what `compute` found that makes its numbers mean nothing."""
        return self.rule + self.remark

    def table(self) -> list[dict[str, Any]]:
        """One row a unit, for `tables.write_table`."""
        return [self.row(unit) for unit in self.scored(self.units())]

    def scored(self, units: list[Unit]) -> list[Unit]:
        """The units and frames the protocol scores."""
        return units

    @abstractmethod
    def score(self, units: list[Unit]) -> dict[str, float]:
        """Average over units; NaN where there is none."""

    def row(self, unit: Unit) -> dict[str, Any]:
        """One line of the table."""
        return {**unit.names, "frames": len(unit.frames), "j": mean(unit.j), "f": mean(unit.f)}


def by_subset(units: list[Unit], score: Callable[[list[Unit]], dict[str, float]]) -> Scores:
    """Scores of all units, then those of each named subset as `<score>/<subset>`."""
    scores = score(units)
    for name in sorted({subset for unit in units for subset in unit.subsets}):
        own = score([unit for unit in units if name in unit.subsets])
        scores |= {f"{key}/{name}": value for key, value in own.items()}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in scores.items()}


def pick(masks: Tensor, chosen: Bool[Tensor, "batch time"]) -> Tensor:
    """The chosen frames [frames, height, width]; no copy where all are chosen."""
    return masks.flatten(0, 1) if bool(chosen.all()) else masks[chosen.to(masks.device)]


def frames_of(unit: Unit, keep: np.ndarray | slice) -> Unit:
    """The unit with some of its frames only."""
    cut = {name: getattr(unit, name)[keep] for name in ("frames", "counts", "j", "f", "scores")}
    return replace(unit, **cut)


def position_of(meta: ClipMeta, frame: int) -> int:
    """Position in the whole video of a frame of the window.

    Raises:
        ValueError: the meta names fewer positions than the window has frames.
    """
    if frame < len(meta.positions):
        return meta.positions[frame]
    raise ValueError(f"{meta.video}/{meta.item}: ClipMeta.positions has no entry for frame {frame} of the window")


def mean(values: Iterable[float] | np.ndarray) -> float:
    """Plain mean in float64; NaN of nothing."""
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")
