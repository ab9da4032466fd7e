"""Overlap of single frames as integers, and the ratios image protocols make of them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

OVERLAPS = ("inter", "union", "area_gt", "area_pred")
"""Columns of a row: pixels."""

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def overlap_counts(
    target: Bool[Tensor, "frames height width"], prediction: Bool[Tensor, "frames height width"]
) -> Int64[Tensor, "frames 4"]:
    """`OVERLAPS` of every frame pair, on the masks' device."""
    if target.device.type == "cpu":
        pairs = zip(target.numpy(), prediction.numpy(), strict=True)
        rows = [[np.count_nonzero(m) for m in (t & p, t | p, t, p)] for t, p in pairs]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
    columns = (target & prediction, target | prediction, target, prediction)
    return torch.stack([column.sum((-2, -1)) for column in columns], dim=-1)


def iou(inter: np.ndarray, union: np.ndarray, empty: float) -> np.ndarray:
    """I / U in float64, `empty` where U = 0."""
    return np.where(union == 0, empty, inter / np.maximum(union, 1))


def iou_float32(inter: np.ndarray | np.generic, union: np.ndarray | np.generic) -> np.ndarray | np.generic:
    """IoU as ReferFormer's A2D code has it, (I + 1e-6) / (U + 1e-6) in float32; it decides ties at thresholds."""
    epsilon = np.float32(1e-6)
    return (inter.astype(np.float32) + epsilon) / (union.astype(np.float32) + epsilon)


def precision_at(values: np.ndarray, thresholds: Sequence[float], strict: bool) -> dict[str, float]:
    """Share of IoUs above (`strict`) or at least at each threshold, compared in float64."""
    wide = values.astype(np.float64)
    passed = [wide > t if strict else wide >= t for t in thresholds]
    return {f"p@{t:.1f}": float(p.mean()) if len(p) else float("nan") for t, p in zip(thresholds, passed, strict=True)}


def ratio(numerator: float | np.integer, denominator: float | np.integer) -> float:
    """Plain division; NaN by zero."""
    return float(numerator) / float(denominator) if denominator else float("nan")


def generalised(
    inter: np.ndarray, union: np.ndarray, gt_none: np.ndarray, predicted_none: np.ndarray
) -> dict[str, float]:
    """gRefCOCO scores as ReLA's evaluator counts them (fractions).

    Both without target: IoU 1, nothing summed. Truth without target but a mask: IoU 0, its area joins the union.
    "No target" said of a target: I = 0 and the union of the mask it drew all the same. Pr@K over targets, at least K.
    """
    hit = ~gt_none & ~predicted_none
    both = gt_none & predicted_none
    counted = np.where(hit, inter, 0)
    each = np.where(both, 1.0, np.where(hit, iou(inter, union, 0.0), 0.0))
    targets = each[~gt_none]
    return {
        "g_iou": float(each.mean()) if len(each) else float("nan"),
        "c_iou": ratio(counted.sum(), np.where(both, 0, union).sum()),
        "n_acc": ratio(both.sum(), gt_none.sum()) if gt_none.any() else 0.0,
        "t_acc": ratio(hit.sum(), (~gt_none).sum()) if gt_none.any() else 0.0,
        **precision_at(targets, (0.7, 0.8, 0.9), strict=False),
    }
