"""MOSEv2: smoothed J, F with a radius that follows the object's size, and scores of vanishing and returning."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rvos_lightning.core.types import SegmentedWindow, Targets
from rvos_lightning.metrics.region_boundary import COUNTS, boundary_measure
from rvos_lightning.metrics.rows import FrameRows, Unit, frames_of, mean, pick
from rvos_lightning.metrics.shifted_planes import boundary_map

EXTRA = ("match_gt_adaptive", "match_pred_adaptive", "capped")


class MOSEv2(FrameRows):
    """MOSEv2: mean over objects, first and last frame of a video left out.

    Scores: `j` (smoothed, (I + 1) / (U + 1), empty on both sides 1), `f` (adaptive radius), `j_and_f` of these two,
    `f_standard` (the usual F, except on frames whose adaptive radius is capped); `j_disappear`, `f_disappear` over
    segments without object after a visible one, `j_reappear`, `f_reappear` over segments visible again, the
    first sighting of an object that is absent at first included (NaN where no object does so).
    """

    id_maps = True
    columns = COUNTS + EXTRA
    rule = (
        "MOSEv2: mean over objects, first and last frame left out; J smoothed, F with a radius from the object's area"
    )

    def _count(self, window: SegmentedWindow, targets: Targets) -> Int64[Tensor, "frames columns"]:
        counts, chosen = super()._count(window, targets).cpu(), targets.annotated
        pairs = zip(pick(targets.masks, chosen).cpu(), pick(window.masks, chosen).cpu(), strict=True)
        matched = [adaptive_counts(truth, predicted) for truth, predicted in pairs]
        return torch.cat([counts, torch.tensor(matched, dtype=torch.int64).reshape(-1, len(EXTRA))], dim=1)

    def scored(self, units: list[Unit]) -> list[Unit]:
        """Drops two frames an object."""
        inner = [frames_of(unit, (unit.frames > unit.frames[0]) & (unit.frames < unit.frames[-1])) for unit in units]
        return [unit for unit in inner if len(unit.frames)]

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Means over the objects for which a score exists."""
        each = [object_scores(unit) for unit in units]
        names = object_scores_names()
        scores = {name: mean(own[name] for own in each if not math.isnan(own[name])) for name in names}
        return {"j_and_f": (scores["j"] + scores["f"]) / 2, **scores}

    def row(self, unit: Unit) -> dict[str, Any]:
        """All scores of the object."""
        return {**unit.names, "frames": len(unit.frames), **object_scores(unit)}


def object_scores_names() -> tuple[str, ...]:
    """Names of an object's scores, in the order of the official merged vector."""
    return ("j", "f", "f_standard", "j_disappear", "f_disappear", "j_reappear", "f_reappear")


def object_scores(unit: Unit) -> dict[str, float]:
    """The seven numbers of one object."""
    j, f = smoothed_similarity(unit.counts), adaptive_measure(unit.counts)
    gone, back = segments(unit.seen_gt)
    parts = [mean(mean(values[s]) for s in own) for own in (gone, back) for values in (j, f)]
    whole = mean(j), mean(f), mean(standard_measure(unit))
    return dict(zip(object_scores_names(), (*whole, *parts), strict=True))


def smoothed_similarity(counts: np.ndarray) -> np.ndarray:
    """(I + 1) / (U + 1), which is 1 where both are empty."""
    return (counts[:, 0] + 1) / (counts[:, 1] + 1)


def adaptive_measure(counts: np.ndarray) -> np.ndarray:
    """F from the matches within the adaptive radius."""
    swapped = counts[:, : len(COUNTS)].copy()
    swapped[:, 4:6] = counts[:, len(COUNTS) : len(COUNTS) + 2]
    return boundary_measure(torch.from_numpy(swapped)).numpy()


def standard_measure(unit: Unit) -> np.ndarray:
    """The usual F; where the adaptive radius is capped the tool keeps that (lopsided) one."""
    return np.where(unit.counts[:, -1] == 1, adaptive_measure(unit.counts), unit.f)


def segments(visible: np.ndarray) -> tuple[list[slice], list[slice]]:
    """Runs of frames in which the object is gone, and in which it is back; not the run that starts at frame 0."""
    edges = np.flatnonzero(np.r_[True, visible[1:] != visible[:-1], True])
    later = [slice(a, b) for a, b in zip(edges[1:-1].tolist(), edges[2:].tolist(), strict=True)]
    return [run for run in later if not visible[run][0]], [run for run in later if visible[run][0]]


def adaptive_radius(area: int, height: int, width: int) -> float:
    """ceil(0.1 sqrt(area)), for an empty object 0.1 of the diagonal; at most 0.008 of the diagonal."""
    diagonal = math.sqrt(height * height + width * width)
    radius = math.ceil(0.1 * math.sqrt(area)) if area else 0.1 * diagonal
    return min(radius, 0.008 * diagonal)


def lopsided_disk(radius: float) -> np.ndarray:
    """The official footprint: a grid from -r in steps of 1, so not symmetric unless r is whole."""
    steps = np.arange(-radius, radius + 1)
    return (steps[None] ** 2 + steps[:, None] ** 2 <= radius**2).astype(np.uint8)


def adaptive_counts(truth: Bool[Tensor, "height width"], predicted: Bool[Tensor, "height width"]) -> list[int]:
    """`EXTRA`: boundary pixels within the adaptive radius of the other's boundary, and whether it is capped."""
    import cv2

    radius = adaptive_radius(int(truth.sum()), *truth.shape)
    capped = int(radius == adaptive_radius(0, *truth.shape))
    edges = [boundary_map(mask).numpy().astype(np.uint8) for mask in (truth, predicted)]
    if not edges[0].any() or not edges[1].any():
        return [0, 0, capped]
    grown = [cv2.dilate(edge, lopsided_disk(radius)) for edge in edges]
    return [int((edges[0] & grown[1]).sum()), int((edges[1] & grown[0]).sum()), capped]
