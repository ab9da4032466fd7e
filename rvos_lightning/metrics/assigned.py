"""Protocols in which predictions are assigned to objects: DAVIS-2017 unsupervised, Ref-DAVIS17 protocol A."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rvos_lightning.core.types import SegmentedWindow
from rvos_lightning.metrics.id_maps import id_map_masks, together
from rvos_lightning.metrics.objects import ObjectRows, grouped
from rvos_lightning.metrics.region_boundary import frame_counts
from rvos_lightning.metrics.rows import Unit, mean

MAX_PROPOSALS = 20


class DAVISUnsupervised(ObjectRows):
    """DAVIS-2017 unsupervised: predictions of a sequence are matched to its objects by Hungarian assignment.

    All items of a sequence must come in one batch (`items_per_video_eval: null`), since every prediction is compared
    with every object. An item with `Facts.proposal` has a mask but no object; void comes in `Targets.void`. All frames
    count; an object without a prediction scores as an empty one.
    """

    id_maps = True
    rule = "DAVIS-2017 unsupervised: mean over objects after Hungarian assignment, all frames, void left out"

    def _take(self, window: SegmentedWindow) -> None:
        """Count every pair of the window."""
        targets, masks, meta = self._check(window), id_map_masks(window), window.meta
        keys, void = self._keys(meta), targets.void
        for items in together(meta).values():
            frames = targets.annotated[items].any(0).cpu()
            own = torch.tensor([index for index in items if not meta[index].facts.proposal])
            for index in items:
                chosen = frames[None].expand(len(own), -1)
                truth = targets.masks[own][:, frames].flatten(0, 1)
                predicted = masks[index, frames].repeat(len(own), 1, 1)
                none = None if void is None else void[index, frames].repeat(len(own), 1, 1)
                counts = frame_counts(truth, predicted, none)
                gt_meta = [meta[i] for i in own.tolist()]
                self._append([keys[i] for i in own.tolist()], [keys[index]] * len(own), chosen, gt_meta, counts)

    def scored(self, units: list[Unit]) -> list[Unit]:
        """The matched pairs in the order the tool lists them: by the prediction's place."""
        return [unit for own in grouped(units, _sequence) for unit in assign(own)]

    def row(self, unit: Unit) -> dict[str, Any]:
        """Adds the item whose masks were assigned."""
        return {**super().row(unit), "assigned": unit.other or unit.item, **_annotator(unit)}


class RefDAVISA(DAVISUnsupervised):
    """Ref-DAVIS17 as ReferFormer, SgMg and SAMWISE score it: the four annotators' objects are merged to one id map
    each, scored by the unsupervised DAVIS program (so swapped expressions cost nothing), and averaged.

    Facts: `annotator` and `object`. All expressions of a video must come in
    one batch. A network's probabilities are merged exactly as published (`id_map_masks`); of masks from disk, should
    they overlap, the lowest object number wins.
    """

    rule = (
        "Ref-DAVIS17 protocol A (ReferFormer, SAMWISE): per annotator id maps, DAVIS unsupervised with Hungarian "
        "assignment, mean over objects, then over annotators"
    )

    def _take(self, window: SegmentedWindow) -> None:
        """Merge each annotator's objects, then count every pair."""
        self._check(window)
        super()._take(replace(window, masks=id_map_masks(window, probable=True)))

    def scored(self, units: list[Unit]) -> list[Unit]:
        """The matched pairs, each also in the subset `annotator_<n>`."""
        pairs = super().scored(units)
        return [replace(u, subsets=(*u.subsets, f"annotator_{u.facts.annotator or 0}")) for u in pairs]

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Mean over annotators of the mean over objects."""
        runs = [super(RefDAVISA, self).score(own) for own in grouped(units, lambda u: u.facts.annotator or 0)]
        return {key: mean(run[key] for run in runs) for key in (runs or [super().score([])])[0]}


def assign(units: list[Unit]) -> list[Unit]:
    """The pairs of one sequence that maximise the summed J&F; objects left over keep an empty prediction.

    Raises:
        ValueError: too many proposals, or pairs are missing since the sequence came in several batches.
    """
    from scipy.optimize import linear_sum_assignment

    predicted = sorted({u.other or u.item for u in units}, key=_natural)
    objects = sorted({u.item for u in units}, key=_natural)
    pairs = {(u.other or u.item, u.item): u for u in units}
    if len(pairs) != len(predicted) * len(objects):
        raise ValueError(
            f"{units[0].video}: only {len(pairs)} of {len(predicted)} x {len(objects)} pairs of prediction and object "
            "were seen; score all items of a video in one batch (data.items_per_video_eval: null)"
        )
    if len(predicted) > MAX_PROPOSALS:
        raise ValueError(f"{units[0].video}: {len(predicted)} proposals; the protocol allows {MAX_PROPOSALS}")
    value = np.zeros((max(len(predicted), len(objects)), len(objects)))
    for i, name in enumerate(predicted):
        value[i, : len(objects)] = [(mean(pairs[name, o].j) + mean(pairs[name, o].f)) / 2 for o in objects]
    rows, columns = linear_sum_assignment(-value)
    return [
        pairs[predicted[row], objects[column]]
        if row < len(predicted)
        else _unpredicted(pairs[predicted[0], objects[column]])
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def _unpredicted(unit: Unit) -> Unit:
    """The object against an empty mask."""
    counts = unit.counts.copy()
    empty = counts[:, 2] == 0
    nothing = (counts[:, 6] == 0).astype(np.float64)
    counts[:, [0, 3, 4, 5, 7]] = 0
    counts[:, 1] = counts[:, 6]
    return replace(unit, counts=counts, j=nothing, f=empty.astype(np.float64), other="(none)")


def _sequence(unit: Unit) -> tuple[Any, ...]:
    return unit.source, unit.video, unit.facts.annotator


def _annotator(unit: Unit) -> dict[str, Any]:
    return {key: value for key, value in unit.facts.known().items() if key in ("annotator", "object")}


def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
