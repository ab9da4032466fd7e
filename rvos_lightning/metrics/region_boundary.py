"""Region similarity J and boundary measure F as pure functions of integers, equal to the DAVIS evaluator.

Eight integers of a frame pair (one truth mask, one predicted mask) determine every J and F of every protocol;
they are counted exactly on any device and divided in float64 at the very end.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from rvos_lightning.metrics.packed_bits import packed_counts
from rvos_lightning.metrics.shifted_planes import plane_counts

COUNTS = ("inter", "union", "nb_gt", "nb_pred", "match_gt", "match_pred", "area_gt", "area_pred")
"""Columns of a row of counts: pixels (inter, union, area_*) and boundary pixels (nb_*, match_*)."""


def boundary_radius(height: int, width: int) -> int:
    """Tolerance of F in pixels: ceil(0.008 * diagonal), as the smallest r with (125 r)^2 >= h^2 + w^2.

    In integers, because single precision gives r + 1 on some sizes (225x300 is one).
    """
    square = height * height + width * width
    radius = math.isqrt(square) // 125
    while (125 * radius) ** 2 < square:
        radius += 1
    return radius


def frame_counts(
    target: Bool[Tensor, "*batch height width"],
    prediction: Bool[Tensor, "*batch _height _width"],
    void: Bool[Tensor, "*batch height width"] | None = None,
) -> Int64[Tensor, "*batch 8"]:
    """Count `COUNTS` for every frame pair; void pixels are cleared in both masks before boundaries are drawn.

    On a CPU the masks are packed to bits and cropped, elsewhere whole planes are shifted; both are exact.

    Raises:
        ValueError: the shapes differ (masks are scored at the size of the truth, never resized here).
    """
    if target.shape != prediction.shape:
        raise ValueError(
            f"target masks are {tuple(target.shape)}, predicted masks {tuple(prediction.shape)}: "
            "bring the prediction to the size of the truth before scoring"
        )
    if void is not None:
        target, prediction = target & ~void, prediction & ~void
    lead, (height, width) = target.shape[:-2], target.shape[-2:]
    radius = boundary_radius(height, width)
    flat_target, flat_prediction = target.reshape(-1, height, width), prediction.reshape(-1, height, width)
    if target.device.type == "cpu":
        counted = torch.from_numpy(packed_counts(flat_target.numpy(), flat_prediction.numpy(), radius))
    else:
        counted = plane_counts(flat_target, flat_prediction, radius)
    return counted.reshape(*lead, len(COUNTS))


def region_similarity(counts: Int64[Tensor, "*batch 8"]) -> Float64[Tensor, "*batch"]:
    """J = I / U, and 1 where both masks are empty."""
    inter, union = counts[..., 0].double(), counts[..., 1].double()
    return torch.where(union == 0, 1.0, inter / union.clamp_min(1.0))


def boundary_measure(counts: Int64[Tensor, "*batch 8"]) -> Float64[Tensor, "*batch"]:
    """F = 2PR / (P + R) of matched boundary pixels; decided on boundary pixels, so a full frame counts as empty."""
    nb_gt, nb_pred, match_gt, match_pred = counts[..., 2:6].double().unbind(-1)
    precision = torch.where(nb_pred == 0, 1.0, match_pred / nb_pred.clamp_min(1.0))
    recall = torch.where(nb_gt == 0, 1.0, match_gt / nb_gt.clamp_min(1.0))
    precision = torch.where((nb_pred > 0) & (nb_gt == 0), 0.0, precision)
    recall = torch.where((nb_gt > 0) & (nb_pred == 0), 0.0, recall)
    both = precision + recall
    return torch.where(both == 0, 0.0, 2 * precision * recall / torch.where(both == 0, 1.0, both))


class JF(NamedTuple):
    """J and F of every frame pair."""

    j: Any
    f: Any


def j_and_f(prediction: Any, truth: Any, void: Any = None) -> JF:
    """J and F of every frame pair, as the DAVIS program (`davis2017-evaluation`) computes them.

    Args:
        prediction: masks [..., height, width], a numpy array or a torch tensor on any device; anything but 0 is inside.
        truth: the same of the truth.
        void: pixels that count on neither side.

    Returns:
        Float64 arrays [...] of the prediction's kind (numpy, or torch on the CPU); floats for a single pair.

    Raises:
        ValueError: the shapes differ.
    """
    device = prediction.device if isinstance(prediction, Tensor) else "cpu"
    planes = [
        each if each is None or isinstance(each, Tensor) else np.asarray(each) for each in (truth, prediction, void)
    ]
    masks = [None if each is None else torch.as_tensor(each != 0, device=device) for each in planes]
    counts = frame_counts(*masks).cpu()
    found = JF(region_similarity(counts), boundary_measure(counts))
    if counts.ndim == 1:
        return JF(float(found.j), float(found.f))
    return found if isinstance(prediction, Tensor) else JF(found.j.numpy(), found.f.numpy())


def mean_recall_decay(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall (share above 0.5) and decay (first less last quarter) of one object's values per frame.

    NaN frames are skipped by the mean and fail in the recall. Quarters share their border frames, and their edges
    are 64-bit; the DAVIS program cuts them to 8 bits and so breaks from 256 frames on.

    Raises:
        ValueError: no frame at all.
    """
    if len(values) == 0:
        raise ValueError("mean, recall and decay of an object need at least one scored frame")
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return _mean(values), float(np.mean(values > 0.5)), _mean(first) - _mean(last)


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if nothing is (without numpy's warning)."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan
