"""Sa2VA's mask losses on sampled points (PointRend's sampling), as published."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rvos_lightning.core.bounds import FromZero, Share
from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.types import Batch, Prediction
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt, TrackedPrediction, Tracks

_SMALL = 1e-4 + 1.1920929e-07  # what the released loss adds to its averaging factor

Masks = Float[Tensor, "masks h w"]
Points = Float[Tensor, "masks points"]


class PointMasks(Objective):
    """BCE and DICE at points where the mask is least certain (arXiv 2501.04001; weights of its released code).

    Terms: `mask`, `dice`; with `tracked` also `tracked_mask`, `tracked_dice` and `tracked_presence` (SAM 2's loss on
    the object score, by which Sa2VA-i's tracker empties masks). Items without [SEG] and frames without
    annotation count nothing but stay in the graph.

    Args:
        mask: weight of the BCE term.
        dice: weight of the DICE term.
        points: per mask; 0 takes every pixel of the truth, to whose size the logits are then brought.
        oversample: candidates per point among which the least certain are kept.
        importance: share of points taken among these; the rest is uniformly random.
        tracked: weight of the same terms on tracked masks, where the network gives them.
    """

    def __init__(
        self,
        mask: float = 2.0,
        dice: float = 0.5,
        points: FromZero = 12544,
        oversample: float = 3.0,
        importance: Share = 0.75,
        tracked: float = 0.0,
    ) -> None:
        self.mask, self.dice, self.points = mask, dice, points
        self.oversample, self.importance, self.tracked = oversample, importance, tracked

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms; zero, but attached to the graph, where nothing counts."""
        targets, counted = batch.targets.masks[:, :], batch.targets.annotated[:, :]
        meant = counted
        if isinstance(prediction.prompt, SpokenPrompt) and prediction.prompt.spoken is not None:
            meant = counted & prediction.prompt.spoken[:, None]
        mask, dice = self._on(prediction.mask_logits, targets, meant)
        terms = {"mask": self.mask * mask, "dice": self.dice * dice}
        if self.tracked and isinstance(prediction, TrackedPrediction) and prediction.tracks is not None:
            tracks = prediction.tracks
            mask, dice = self._on(tracks.mask_logits, targets[tracks.items], meant[tracks.items] & tracks.tracked)
            terms["tracked_mask"] = self.tracked * self.mask * mask
            terms["tracked_dice"] = self.tracked * self.dice * dice
            seen = counted[tracks.items] & tracks.tracked
            terms["tracked_presence"] = self.tracked * _presence(tracks, targets[tracks.items], seen)
        return terms

    def _on(
        self,
        logits: Float[Tensor, "items time h w"],
        truth: Bool[Tensor, "items time height width"],
        counted: Bool[Tensor, "items time"],
    ) -> tuple[Tensor, Tensor]:
        if self.points:  # published: truth at the decoder's resolution, nearest neighbours
            truth = F.interpolate(truth.to(logits.dtype), logits.shape[-2:], mode="nearest")
        else:
            logits = F.interpolate(logits, truth.shape[-2:], mode="bilinear")
        logits, targets = logits.float().flatten(0, 1), truth.float().flatten(0, 1)
        keep = counted.flatten()
        if not bool(keep.any()):
            return logits.sum() * 0, logits.sum() * 0
        logits, targets = logits[keep], targets[keep]
        if self.points:
            where = uncertain_points(logits.detach(), self.points, self.oversample, self.importance)
            return point_losses(at_points(logits, where), at_points(targets, where))
        return point_losses(logits.flatten(1), targets.flatten(1), small=0.0)


def _presence(
    tracks: Tracks, truth: Bool[Tensor, "items time height width"], counted: Bool[Tensor, "items time"]
) -> Float[Tensor, ""]:
    present = truth.flatten(2).any(2).float()
    loss = F.binary_cross_entropy_with_logits(tracks.presence_logits.float(), present, reduction="none") * counted
    return loss.sum() / counted.sum().clamp(min=1)


def at_points(maps: Masks, where: Float[Tensor, "masks points 2"]) -> Points:
    """Bilinear samples of each map at (x, y) in [0, 1]."""
    return F.grid_sample(maps[:, None], 2 * where[:, None] - 1, align_corners=False)[:, 0, 0]


@torch.no_grad()
def uncertain_points(
    logits: Masks, points: int, oversample: float, importance: float
) -> Float[Tensor, "masks points 2"]:
    """Of `oversample * points` random places those with the smallest |logit|, and fresh random ones."""
    masks, kept = len(logits), int(importance * points)
    where = torch.rand(masks, int(points * oversample), 2, device=logits.device)
    doubt = -at_points(logits, where).abs()
    best = doubt.topk(kept, dim=1).indices
    chosen = where.gather(1, best[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, torch.rand(masks, points - kept, 2, device=logits.device)], 1)


def point_losses(logits: Points, targets: Points, small: float = _SMALL) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Unweighted BCE averaged over masks and points, and DICE averaged over masks; `small` joins the counts."""
    masks, points = logits.shape
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (masks * points + small)
    probs = logits.sigmoid()
    overlap = 2 * (probs * targets).sum(1) + 1
    dice = 1 - overlap / (probs.sum(1) + targets.sum(1) + 1)
    return bce, dice.sum() / (masks + small)
