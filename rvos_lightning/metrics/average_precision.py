"""COCO mask AP for one object an image, from overlaps alone: no masks need be kept or gathered."""

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"": (0.0, 1e10), "_small": (0.0, 32.0**2), "_medium": (32.0**2, 96.0**2), "_large": (96.0**2, 1e10)}


def mask_ap(
    image: np.ndarray, score: np.ndarray, inter: np.ndarray, union: np.ndarray, gt: np.ndarray, area: np.ndarray
) -> dict[str, float]:
    """AP at IoU 0.5:0.95, at 0.5 and 0.75, and by object area, as pycocotools gives them; NaN where undefined.

    One row a candidate mask: its image (every image holds exactly one object; rows ordered by image id, as ties in
    score are broken by that order), score, overlap with the object, the object's area and its own.
    """
    found = {}
    overlap = np.where(union > 0, inter / np.maximum(union, 1), 0.0)
    order = np.lexsort((np.arange(len(score)), -score, image))
    rank = np.empty(len(order), np.int64)
    starts = np.searchsorted(image[order], image[order])
    rank[order] = np.arange(len(order)) - starts
    keep = order[rank[order] < 100]
    for name, (low, high) in AREAS.items():
        precision = _precision(image[keep], score[keep], overlap[keep], gt[keep], area[keep], low, high)
        if name == "":
            found |= {"ap@0.5": float(precision[0].mean()), "ap@0.75": float(precision[5].mean())}
        found[f"map{name}"] = float(precision.mean())
    return found


def _precision(
    image: np.ndarray, score: np.ndarray, overlap: np.ndarray, gt: np.ndarray, area: np.ndarray, low: float, high: float
) -> np.ndarray:
    """Interpolated precision [thresholds, recalls]; rows come image by image, by falling score within one."""
    first = np.flatnonzero(np.r_[True, image[1:] != image[:-1]]) if len(image) else np.zeros(0, int)
    outside = (gt < low) | (gt > high)
    objects = int((~outside[first]).sum())
    if not objects:
        return np.full((len(IOU_THRESHOLDS), len(RECALLS)), np.nan)
    order = np.argsort(-score, kind="mergesort")
    curves = []
    for threshold in IOU_THRESHOLDS:
        enough = overlap >= min(threshold, 1 - 1e-10)
        matched = _first_of_image(image, enough)
        ignored = np.where(matched, outside, (area < low) | (area > high))
        curves.append(_curve(matched[order] & ~ignored[order], ~matched[order] & ~ignored[order], objects))
    return np.stack(curves)


def _first_of_image(image: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """The best scored candidate of an image that overlaps enough takes its only object."""
    where = np.flatnonzero(enough)
    _, first = np.unique(image[where], return_index=True)
    taken = np.zeros(len(image), bool)
    taken[where[first]] = True
    return taken


def _curve(true: np.ndarray, false: np.ndarray, objects: int) -> np.ndarray:
    """Precision at the 101 recalls, made monotone from the right."""
    hits, misses = np.cumsum(true), np.cumsum(false)
    recall, precision = hits / objects, hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")
    return np.where(place < len(precision), np.r_[precision, 0.0][np.minimum(place, len(precision))], 0.0)
