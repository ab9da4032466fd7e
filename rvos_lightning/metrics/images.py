"""Metrics of sentences on single frames: A2D and JHMDB, RefCOCO, gRefCOCO, Ref-ZOM."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.bounds import FromZero
from rvos_lightning.core.types import SegmentedWindow, Targets
from rvos_lightning.metrics.average_precision import mask_ap
from rvos_lightning.metrics.overlap import (
    THRESHOLDS,
    generalised,
    iou,
    iou_float32,
    overlap_counts,
    precision_at,
    ratio,
)
from rvos_lightning.metrics.region_boundary import COUNTS
from rvos_lightning.metrics.rows import FrameRows, Unit, mean, pick

EXTRA = ("no_target",)


class OverlapRows(FrameRows):
    """Metrics of overlap alone; every annotated frame of an item is a sample (an image is a video of one frame).

    Attributes:
        canvas: side of the square to which masks and truth are brought first (nearest pixels); 0: original size.
    """

    headline = "o_iou"
    columns = COUNTS + EXTRA
    canvas = 0

    def stated(self, rule: str) -> str:
        """The rule, and on what canvas."""
        return f"{rule}; on squares of {self.canvas} pixels" if self.canvas else rule

    def _count(self, window: SegmentedWindow, targets: Targets) -> Int64[Tensor, "frames columns"]:
        """`columns`, boundary counts 0; the flag is what the network's head said, -1 where it has none."""
        chosen = targets.annotated
        truth, masks = pick(targets.masks, chosen), pick(window.masks, chosen)
        if self.canvas:
            truth, masks = squared(truth, self.canvas), squared(masks, self.canvas)
        counts = _overlap(truth, masks)
        if window.no_target is not None:
            said = window.no_target.to(counts.device)
            counts[:, -1] = said.repeat_interleave(chosen.sum(1).to(counts.device))
        return counts

    def row(self, unit: Unit) -> dict[str, Any]:
        """Mean IoU and pixels of the item's samples."""
        inter, union, gt, predicted = unit.counts[:, [0, 1, 6, 7]].T
        sums = {"inter": inter.sum(), "union": union.sum(), "area_gt": gt.sum(), "area_pred": predicted.sum()}
        values = {name: int(value) for name, value in sums.items()}
        return {**unit.names, "frames": len(unit.frames), "iou": mean(iou(inter, union, 1.0)), **values}


class RefCOCO(OverlapRows):
    """RefCOCO, RefCOCO+, RefCOCOg: `o_iou` = sum I / sum U (others print it as cIoU), `m_iou`, `p@0.5` to `p@0.9`.

    Every sentence of a split is a sample.

    Args:
        strict: count IoU above a threshold (ReferFormer, CRIS) instead of at least at it (LAVT, ReLA).
        empty: IoU of a sample with neither truth nor mask.
        canvas: compare on squares of so many pixels, which weighs pictures otherwise: LAVT 480, DFAM's release 1024;
            0: at original size (CRIS, LISA).
    """

    def __init__(self, strict: bool = False, empty: float = 0.0, canvas: FromZero = 0) -> None:
        super().__init__()
        self.strict, self.empty, self.canvas = strict, empty, canvas
        sign = ">" if strict else ">="
        rule = f"RefCOCO: oIoU (= cIoU) = sum I / sum U, mIoU = mean over sentences, P@K: IoU {sign} K"
        self.rule = self.stated(rule)

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Scores over all samples."""
        inter, union = stacked(units)[:, :2].T
        each = iou(inter, union, self.empty)
        precisions = precision_at(each, THRESHOLDS, self.strict)
        return {"o_iou": ratio(inter.sum(), union.sum()), "m_iou": mean(each), **precisions}


class GRefCOCO(OverlapRows):
    """gRefCOCO as ReLA's evaluator: `g_iou`, `c_iou`, `n_acc`, `t_acc`, `p@0.7` to `p@0.9`; `m_iou` over targets.

    Where the network has a no-target head, the same decided by empty masks stands beside: `g_iou_mask`, `c_iou_mask`,
    `n_acc_mask`, `t_acc_mask`.

    Truth has no target where `ClipMeta.no_target` says so or its mask is empty. A prediction says "no target" by
    the flag given to `update`, else by a mask of fewer than `empty_pixels` pixels.

    Args:
        empty_pixels: 1 = only an empty mask; the paper clears masks below 50 pixels of methods without a head.
        canvas: compare on squares of so many pixels (ReLA: 480), on which `empty_pixels` counts; 0: original size.
    """

    headline = "g_iou"

    def __init__(self, empty_pixels: FromZero = 1, canvas: FromZero = 0) -> None:
        super().__init__()
        self.empty_pixels, self.canvas = empty_pixels, canvas
        self.rule = self._said_by("the no-target head, else by empty masks")

    def _said_by(self, whom: str) -> str:
        return self.stated(
            "gRefCOCO: gIoU = mean IoU over samples (no target on both sides 1), cIoU = sum I / sum U, N-acc and T-acc "
            f"by {whom}"
        )

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Scores over all samples."""
        counts = stacked(units)
        flags = [np.full(len(u.frames), u.no_target) for u in units]
        gt_none = np.concatenate([*flags, np.zeros(0, bool)]) | (counts[:, 6] == 0)
        empty = "empty masks" if self.empty_pixels == 1 else f"masks below {self.empty_pixels} pixels"
        if len(counts):
            heads = counts[:, -1] >= 0
            head = "the network's no-target head"
            self.rule = self._said_by(head if heads.all() else f"{head} or {empty}" if heads.any() else empty)
        scores = self._decided(counts, gt_none, counts[:, -1])
        if (counts[:, -1] >= 0).any():
            by_mask = self._decided(counts, gt_none, np.full(len(counts), -1))
            scores |= {f"{name}_mask": by_mask[name] for name in ("g_iou", "c_iou", "n_acc", "t_acc")}
        return scores

    def _decided(self, counts: np.ndarray, gt_none: np.ndarray, head: np.ndarray) -> dict[str, float]:
        """Scores where `head` (1 no target, 0 a target, -1 none there) decides, or else an empty mask."""
        small = counts[:, 7] < self.empty_pixels
        said = np.where(head < 0, small, head == 1)
        silent = (head < 0) & small  # without a head the small mask is cleared
        inter = np.where(gt_none | silent, 0, counts[:, 0])
        union = np.where(silent, counts[:, 6], np.where(gt_none, counts[:, 7], counts[:, 1]))
        targets = iou(np.where(said, 0, inter), union, 0.0)[~gt_none]
        return {**generalised(inter, union, gt_none, said), "m_iou": mean(targets)}


class RefZOM(OverlapRows):
    """Ref-ZOM: `o_iou`, `m_iou`, P@K over samples with targets; `acc` = share of the others with not one pixel.

    A sample has no target where `ClipMeta.no_target` says so (source "zero"). A no-target head that says so clears the
    mask first; `acc_mask` is then what the masks alone would give.

    Args:
        canvas: compare on squares of so many pixels (DMMI: 480); 0: original size.
    """

    def __init__(self, canvas: FromZero = 0) -> None:
        super().__init__()
        self.canvas = canvas
        self.rule = self.stated(
            "Ref-ZOM: oIoU, mIoU, P@K over one-to-one and one-to-many samples, Acc over samples without target"
        )

    def score(self, units: list[Unit]) -> dict[str, float]:
        """The two groups never mix."""
        zero = stacked([unit for unit in units if unit.no_target])
        counts = stacked([unit for unit in units if not unit.no_target])
        inter = np.where(counts[:, -1] == 1, 0, counts[:, 0])
        union = np.where(counts[:, -1] == 1, counts[:, 6], counts[:, 1])
        each = iou(inter, union, 0.0)
        scores = {
            "o_iou": ratio(inter.sum(), union.sum()),
            "m_iou": mean(each),
            **precision_at(each, THRESHOLDS, False),
        }
        empty = zero[:, 7] == 0
        scores["acc"] = mean(empty | (zero[:, -1] == 1))
        return {**scores, "acc_mask": mean(empty)} if (zero[:, -1] >= 0).any() else scores


class A2D(OverlapRows):
    """A2D-Sentences and JHMDB-Sentences: `map` (COCO mask AP), `p@0.5` to `p@0.9`, `o_iou`, `m_iou`.

    Precision and IoU look at the best scored candidate (the later one of equals), IoU in float32 and strictly above
    the threshold, as ReferFormer compares. AP ties are broken by the image id, v_<video>_f_<frame>_i_<item>.

    Args:
        dataset: names the rule; both sets are scored alike.
    """

    headline = "map"

    def __init__(self, dataset: Literal["A2D-Sentences", "JHMDB-Sentences"] = "A2D-Sentences") -> None:
        super().__init__()
        self.rule = f"{dataset}: mAP 0.5:0.95, P@K of IoU > K, oIoU = sum I / sum U, mIoU = mean over samples"

    def _take(self, window: SegmentedWindow) -> None:
        """The network's ranked proposals, where it has some, replace its masks."""
        if window.proposals is None:
            return super()._take(window)
        targets = self._check(window)
        keys, chosen = self._keys(window.meta), targets.annotated
        scores = torch.ones(window.proposals.shape[:3]) if window.scores is None else window.scores
        truth = pick(targets.masks, chosen)
        for number, masks in enumerate(window.proposals.unbind(2)):
            own = pick(scores[:, :, number], chosen)
            self._append(keys, keys, chosen, window.meta, _overlap(truth, pick(masks, chosen)), number, own)

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Scores over all samples."""
        samples = sorted((sample for unit in units for sample in _samples(unit)), key=lambda sample: sample[0])
        best = np.array([rows[_best(scores)] for _, rows, scores in samples]).reshape(-1, len(self.columns))
        each = iou_float32(best[:, 0], best[:, 1])
        values = {**precision_at(each, THRESHOLDS, strict=True), "o_iou": ratio(best[:, 0].sum(), best[:, 1].sum())}
        counts = np.concatenate([*(rows for _, rows, _ in samples), np.zeros((0, len(self.columns)), np.int64)])
        scores = np.concatenate([*(own for _, _, own in samples), np.zeros(0)])
        image = np.repeat(np.arange(len(samples)), [len(rows) for _, rows, _ in samples])
        return {**mask_ap(image, scores, *counts[:, [0, 1, 6, 7]].T), **values, "m_iou": mean(each.astype(np.float64))}


def squared(masks: Bool[Tensor, "frames height width"], side: int) -> Bool[Tensor, "frames side side"]:
    """Masks on a square; every pixel takes the nearest."""
    return functional.interpolate(masks[:, None].to(torch.uint8), (side, side), mode="nearest-exact")[:, 0].bool()


def stacked(units: list[Unit]) -> np.ndarray:
    """Rows of all samples [samples, columns]."""
    return np.concatenate([*(u.counts for u in units), np.zeros((0, len(COUNTS + EXTRA)), np.int64)])


def _overlap(
    target: Bool[Tensor, "frames height width"], prediction: Bool[Tensor, "frames height width"]
) -> Int64[Tensor, "frames columns"]:
    """Pixels in the columns of `COUNTS` that hold them; nobody said anything about no target."""
    overlap = overlap_counts(target, prediction)
    counts = torch.zeros(len(overlap), len(COUNTS + EXTRA), dtype=torch.int64, device=overlap.device)
    counts[:, [0, 1, 6, 7]] = overlap
    counts[:, -1] = -1
    return counts


def _samples(unit: Unit) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each frame's image id, rows and confidences of its proposals."""
    samples = []
    for frame in np.unique(unit.frames):
        own = unit.frames == frame
        image = unit.facts.image or f"v_{unit.video}_f_{frame}_i_{unit.item}"
        samples.append((str(image), unit.counts[own], unit.scores[own]))
    return samples


def _best(scores: np.ndarray) -> int:
    """The last after an ascending stable sort by score."""
    return int(np.argsort(scores, kind="stable")[-1])
