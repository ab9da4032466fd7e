"""What every video metric keeps: integer rows per frame and facts per item, exact on any number of processes.

A row is (item, other item, frame, counts...). Rows are gathered, repeats dropped and everything sorted before a
single division, so neither the number of processes nor the order of batches can change a digit.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rvos_lightning.core.types import ClipMeta, Targets
from rvos_lightning.metrics.region_boundary import COUNTS, boundary_measure, frame_counts, region_similarity

Scores = dict[str, Float64[Tensor, ""]]


@dataclass(frozen=True)
class FullTargets(Targets):
    """Targets with what a few protocols need besides; metrics that need nothing more take plain `Targets`, too.

    Attributes:
        void: pixels nobody is scored on (255 in DAVIS).
        foreground: all objects of the frame (ReVOS' robustness divides by it).
        multiplicity: how many annotations of the expression cover a pixel (ReVOS' official arithmetic sums them).
    """

    void: Bool[Tensor, "batch time height width"] | None = None
    foreground: Bool[Tensor, "batch time height width"] | None = None
    multiplicity: Int64[Tensor, "batch time height width"] | None = None


@dataclass(frozen=True)
class Unit:
    """One expression or object and its counted frames, in temporal order.

    Attributes:
        frames: positions in the video [n].
        counts: one row a frame [n, columns], named by the metric's `columns`.
        j: region similarity per frame.
        f: boundary measure per frame.
        other: the item that predicted, where it is not this one (assignment protocols).
    """

    source: str
    video: str
    item: str
    subsets: tuple[str, ...]
    group: dict[str, Any]
    frames: np.ndarray
    counts: np.ndarray
    j: np.ndarray
    f: np.ndarray
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


class FrameRows(Metric, ABC):
    """Base of all metrics of masks. `update` once a window of a video, `compute` once an evaluation.

    Only frames with `targets.annotated` count. Repeats of one (source, video, item, frame) count once, whichever
    process saw them. Scores are fractions of 1 in float64, and for every name in `ClipMeta.subsets` the same scores
    again as `<score>/<subset>`.

    Attributes:
        rule: the averaging rule in one sentence, to print beside the number.
        columns: names of the integers kept per frame.
    """

    rule: str = ""
    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    columns: tuple[str, ...] = COUNTS

    rows: list[Tensor]
    facts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("facts", [], dist_reduce_fx="cat")
        self._known: dict[tuple[str, str, str], int] = {}
        self._seed()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._known = {}
        self._seed()

    def _seed(self) -> None:
        """Typed empty states: a rank that sees nothing must still gather int64 rows, not torchmetrics' float ones."""
        self.rows.append(torch.zeros(0, 3 + len(self.columns), dtype=torch.int64, device=self.device))
        self.facts.append(torch.zeros(0, dtype=torch.uint8, device=self.device))

    def update(
        self, masks: Bool[Tensor, "batch time height width"], targets: Targets, meta: Sequence[ClipMeta]
    ) -> None:
        """Count one window.

        Raises:
            ValueError: masks and targets differ in size, or a frame's position is unknown.
        """
        self._check(masks, targets, meta)
        keys = self._keys(meta)
        chosen = targets.annotated
        counts = self._count(masks, targets, chosen)
        self._append(keys, keys, chosen, meta, counts)

    def _count(
        self, masks: Bool[Tensor, "batch time height width"], targets: Targets, chosen: Bool[Tensor, "batch time"]
    ) -> Int64[Tensor, "frames columns"]:
        """`columns` of the chosen frames, batch before time."""
        void = getattr(targets, "void", None)
        truth, predicted = pick(targets.masks, chosen), pick(masks, chosen)
        return frame_counts(truth, predicted, None if void is None else pick(void, chosen))

    def _check(self, masks: Tensor, targets: Targets, meta: Sequence[ClipMeta]) -> None:
        if tuple(masks.shape) != tuple(targets.masks.shape) or len(meta) != len(masks):
            raise ValueError(
                f"{type(self).__name__}: masks {tuple(masks.shape)}, targets {tuple(targets.masks.shape)}, "
                f"{len(meta)} metas; resize predictions to the targets (their original size) before scoring"
            )

    def _keys(self, meta: Sequence[ClipMeta]) -> list[int]:
        """A stable 64-bit number of each item; a new item's facts are kept as one line of JSON."""
        keys = []
        for entry in meta:
            name = (entry.source, entry.video, entry.item)
            if name not in self._known:
                digest = blake2b("\x1f".join(name).encode(), digest_size=8).digest()
                self._known[name] = int.from_bytes(digest, "little", signed=True)
                group = {key: value for key, value in entry.group.items() if key != "context"}
                line = json.dumps([self._known[name], *name, entry.subsets, group], default=str) + "\n"
                text = torch.frombuffer(bytearray(line.encode()), dtype=torch.uint8)
                self.facts.append(text.to(self.device))
            keys.append(self._known[name])
        return keys

    def _append(
        self,
        keys: Sequence[int],
        others: Sequence[int],
        chosen: Bool[Tensor, "batch time"],
        meta: Sequence[ClipMeta],
        counts: Int64[Tensor, "frames columns"],
    ) -> None:
        where = chosen.cpu().nonzero().tolist()
        heads = [[keys[item], others[item], position_of(meta[item], frame)] for item, frame in where]
        if heads:
            self.rows.append(torch.cat([torch.tensor(heads).to(self.device), counts.to(self.device)], dim=1))

    def units(self) -> list[Unit]:
        """Every item (or pair of items) with its frames, sorted by source, video and item; repeats dropped."""
        facts = self._facts()
        rows = dim_zero_cat(self.rows).cpu()
        if not len(rows):
            return []
        rows = rows[torch.from_numpy(np.lexsort(rows.numpy().T[::-1]))]
        heads = rows[:, :3]
        new = torch.ones(len(rows), dtype=torch.bool)
        new[1:] = (heads[1:] != heads[:-1]).any(1)
        rows = rows[new]
        counts = rows[:, 3 : 3 + len(COUNTS)]
        j, f = region_similarity(counts).numpy(), boundary_measure(counts).numpy()
        table = rows.numpy()
        starts = np.flatnonzero(np.r_[True, (table[1:, :2] != table[:-1, :2]).any(1)])
        units = []
        for start, stop in zip(starts, [*starts[1:], len(table)], strict=True):
            key, other = table[start, :2].tolist()
            values = table[start:stop, 2], table[start:stop, 3:], j[start:stop], f[start:stop]
            units.append(Unit(*facts[key], *values, other=None if key == other else facts[other][2]))
        return sorted(units, key=lambda unit: (unit.source, unit.video, unit.item, unit.other or ""))

    def _facts(self) -> dict[int, tuple[str, str, str, tuple[str, ...], dict[str, Any]]]:
        """Source, video, item, subsets and group of every number.

        Raises:
            RuntimeError: two items share a number (one chance in 2^64 a pair).
        """
        found: dict[int, tuple[str, str, str, tuple[str, ...], dict[str, Any]]] = {}
        for line in bytes(dim_zero_cat(self.facts).cpu().numpy()).decode().splitlines():
            key, source, video, item, subsets, group = json.loads(line)
            if key in found and found[key][:3] != (source, video, item):
                raise RuntimeError(f"items {found[key][:3]} and {(source, video, item)} share a hash: rename one")
            found[key] = (source, video, item, tuple(subsets), group)
        return found

    def compute(self) -> Scores:
        """Scores of everything and of every subset, as float64 scalars."""
        return by_subset(self.scored(self.units()), self.score)

    def table(self) -> list[dict[str, Any]]:
        """One row a unit, for `tables.write_table`; under several processes every one must call it, and gets all."""
        with self.sync_context():
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
