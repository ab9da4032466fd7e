"""The loss SAM-I2V is trained with: structure, IoU and occlusion terms over all decoder steps."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.types import Batch, Prediction
from rvos_lightning.parts.losses import object_count
from rvos_lightning.systems.sam_i2v.outputs import DecoderStep, TrackedPrediction


class StructureLoss(Objective):
    """20 x structure + IoU + occlusion, summed over frames and decoder steps, per object.

    Terms: `structure`, `iou`, `occlusion`.

    Args:
        structure: weight of the structure term (weighted BCE + weighted IoU).
        iou: weight of the L1 between estimated and true IoU.
        occlusion: weight of the BCE on "the object is there".
        window: side of the averaging window behind the pixel weights.
    """

    def __init__(self, structure: float = 20.0, iou: float = 1.0, occlusion: float = 1.0, window: int = 31):
        self.structure, self.iou, self.occlusion, self.window = structure, iou, occlusion, window

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The three weighted sums.

        Raises:
            TypeError: the prediction carries no decoder steps.
        """
        if not isinstance(prediction, TrackedPrediction):
            raise TypeError(f"StructureLoss needs SAM-I2V's TrackedPrediction, not {type(prediction).__name__}")
        masks, known = batch.targets.masks, batch.targets.annotated
        count = object_count(len(masks), prediction.mask_logits.device)
        sums = [prediction.mask_logits.sum() * 0.0] * 3
        truths: dict[int, tuple[Tensor, Tensor]] = {}
        for step in prediction.steps:
            if step.time not in truths:
                target = masks[:, step.time].float()
                truths[step.time] = target, pixel_weights(target, self.window)
            target, weight = (value[step.items] for value in truths[step.time])
            parts = step_terms(step, target, weight)
            used = known[step.items, step.time]
            sums = [total + (part * used).sum() for total, part in zip(sums, parts, strict=True)]
        weights = (self.structure, self.iou, self.occlusion)
        names = ("structure", "iou", "occlusion")
        return {n: w * total / count for n, w, total in zip(names, weights, sums, strict=True)}


def pixel_weights(target: Float[Tensor, "batch h w"], window: int = 31) -> Float[Tensor, "batch h w"]:
    """1 + 5 |local average - target|: pixels near the border weigh more (zeros beyond the frame count)."""
    half = window // 2
    rows = functional.avg_pool2d(target[:, None], (window, 1), stride=1, padding=(half, 0))
    return 1 + 5 * (functional.avg_pool2d(rows, (1, window), stride=1, padding=(0, half))[:, 0] - target).abs()


def structure_loss(
    logits: Float[Tensor, "batch m h w"], target: Float[Tensor, "batch h w"], weight: Float[Tensor, "batch h w"]
) -> Float[Tensor, "batch m"]:
    """Weighted BCE plus weighted IoU loss of every candidate."""
    target, weight = target[:, None].expand_as(logits), weight[:, None]
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    bce = (weight * bce).sum((2, 3)) / (weight.sum((2, 3)) + 1e-6)
    probability = logits.sigmoid()
    both = (weight * probability * target).sum((2, 3))
    either = (weight * (probability + target)).sum((2, 3)) - both
    return bce + 1 - (both + 1e-6) / (either + 1e-6)


def iou_error(
    iou: Float[Tensor, "batch m"], predicted: Bool[Tensor, "batch m h w"], target: Bool[Tensor, "batch h w"]
) -> Float[Tensor, "batch m"]:
    """L1 between the estimated and the true IoU of every candidate."""
    truth = target[:, None]
    union = (predicted | truth).flatten(2).sum(2).clamp(min=1)
    return (iou - (predicted & truth).flatten(2).sum(2) / union).abs()


def step_terms(
    step: DecoderStep, target: Float[Tensor, "part h w"], weight: Float[Tensor, "part h w"]
) -> tuple[Float[Tensor, "part"], Float[Tensor, "part"], Float[Tensor, "part"]]:
    """Structure (of the best candidate), IoU (mean over candidates) and occlusion terms of one step."""
    logits = step.mask_logits.float()
    if logits.shape[-2:] != target.shape[-2:]:
        logits = functional.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    present = (target.flatten(1) > 0).any(1).float()
    masks = structure_loss(logits, target, weight).min(1).values
    estimates = iou_error(step.iou.float(), logits.detach() > 0, target > 0.5).mean(1)
    occlusion = functional.binary_cross_entropy_with_logits(
        step.presence_logits.float()[:, 0], present, reduction="none"
    )
    return masks * present, estimates * present, occlusion
