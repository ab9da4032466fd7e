"""Losses on masks and on the network's own words about them."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Bool, Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from rvos_lightning.core.bounds import Share
from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.types import Batch, Prediction
from rvos_lightning.parts.layers.resize import logits_like_targets
from rvos_lightning.parts.losses import dice_loss, focal_loss


class DiceFocal(Objective):
    """DICE plus focal loss, each clip flattened over its annotated frames, averaged over clips (as SAMWISE publishes).

    Terms: `dice`, `focal`.

    Args:
        dice: weight of the DICE term.
        focal: weight of the focal term.
        alpha: weight of foreground pixels in the focal term; background has 1 - alpha.
        gamma: how much easy pixels are discounted.
        average: flatten over the whole clip (`clip`, as published), or over each frame.
        parity: `official` compares on a grid rounded up to multiples of 32, logits stretched to it and targets
            padded, as the official code does (they then disagree a little unless both sides are such multiples).
    """

    def __init__(
        self,
        dice: float = 1.0,
        focal: float = 1.0,
        alpha: Share = 0.25,
        gamma: float = 2.0,
        average: Literal["clip", "frame"] = "clip",
        parity: Literal["fixed", "official"] = "fixed",
    ) -> None:
        self.dice, self.focal, self.alpha, self.gamma = dice, focal, alpha, gamma
        self.average, self.parity = average, parity

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The two weighted terms; zero, but attached to the graph, when no frame is annotated."""
        targets = batch.targets.masks
        logits = self.resized(batch, prediction)
        if self.parity == "official":
            logits, targets = to_multiples(logits, targets)
        weights = batch.targets.annotated[:, :, None].to(logits.dtype)
        logits, targets = logits.flatten(2), targets.flatten(2).to(logits.dtype)
        if self.average == "frame":
            rows = [x.flatten(0, 1) for x in (logits, targets, weights.expand_as(logits))]
        else:
            rows = [x.flatten(1) for x in (logits, targets, weights.expand_as(logits))]
        known = (rows[2].sum(1) > 0).to(logits.dtype)
        count = known.sum().clamp(min=1)
        dice = (dice_loss(*rows) * known).sum() / count
        focal = (focal_loss(*rows, self.alpha, self.gamma) * known).sum() / count
        return {"dice": self.dice * dice, "focal": self.focal * focal}

    @staticmethod
    def resized(batch: Batch, prediction: Prediction) -> Float[Tensor, "batch time height width"]:
        """Logits at the targets' size, in float32."""
        clip, size = batch.clip, tuple(batch.targets.masks.shape[-2:])
        pictures = [meta.size for meta in clip.meta]
        return logits_like_targets(prediction.mask_logits, tuple(clip.frames.shape[-2:]), pictures, size)


class Presence(Objective):
    """Binary cross-entropy on "is the object in this frame" (SAM 2's own occlusion loss).

    Term: `presence`.

    Args:
        weight: of the term.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the network before any batch.

        Raises:
            ValueError: it does not say whether the object is there.
        """
        if stage == "fit" and not pl_module.network.says_presence:
            raise ValueError(
                "objective Presence: the network gives no presence_logits. Take the objective away (--objectives.NAME "
                "null) or turn object scores on (--model.network.segmenter.occlusion true for Sam, object_scores for "
                "Sam2)"
            )

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted term over annotated frames."""
        logits = prediction.presence_logits.float()
        present = batch.targets.masks.flatten(2).any(2).to(logits.dtype)
        annotated = batch.targets.annotated.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, present, reduction="none") * annotated
        return {"presence": self.weight * loss.sum() / annotated.sum().clamp(min=1)}


def to_multiples(
    logits: Float[Tensor, "batch time h w"], targets: Bool[Tensor, "batch time h w"], multiple: int = 32
) -> tuple[Float[Tensor, "batch time height width"], Bool[Tensor, "batch time height width"]]:
    """The official code's common grid: logits stretched to the next multiples, targets padded to them."""
    height, width = (-(-side // multiple) * multiple for side in targets.shape[-2:])
    padded = F.pad(targets, (0, width - targets.shape[-1], 0, height - targets.shape[-2]))
    return F.interpolate(logits, size=(height, width), mode="bilinear"), padded
