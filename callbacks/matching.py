"""Matching a network's candidates with the truth, and the losses of what was matched."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rvos_lightning.core.bounds import Share
from rvos_lightning.core.objectives import Chooser
from rvos_lightning.core.types import Batch, Candidates, Prediction
from rvos_lightning.parts.losses import (
    class_costs,
    corners,
    dice_loss,
    focal_loss,
    focal_values,
    generalised_iou,
    mask_boxes,
    mask_costs,
    object_count,
)
from rvos_lightning.systems.sgmg.outputs import FrameCandidates


@dataclass(frozen=True)
class Truth:
    """One object an item, on the frames that a network answered.

    Attributes:
        masks: on the padded frame.
        boxes: centre form relative to the picture; zeros where the object is absent.
        present: the object is visible.
        known: frames with truth; nothing is asked of the others.
    """

    masks: Float[Tensor, "batch time height width"]
    boxes: Float[Tensor, "batch time 4"]
    present: Bool[Tensor, "batch time"]
    known: Bool[Tensor, "batch time"]


class SetMatching(Chooser):
    """One query an item is matched over the whole clip, at each decoder layer; all losses follow from the match.

    With one object an item the Hungarian algorithm comes down to the cheapest query. Costs and losses share their
    weights. Terms, each weighted, `_0`, `_1`, ... for the layers before the last: `ce` (focal, of every query), `bbox`
    (L1) and `giou` of the matched query, `mask` (focal) and `dice` of its refined mask, `mask_low` and `dice_low` of
    its coarse one. As released, all are divided by the number of frames with the object, averaged over ranks; boxes
    count on frames without it, too, where the target is a zero box; masks count on padding. Other than released:
    boxes are the masks' exact extents (released: a pixel less), frames without truth take no part, and a term that is
    not a number stops the run instead of counting as zero.

    The defaults are SgMg's (ICCV 2023, released code).

    Args:
        classes, boxes, giou, masks, dice: weights.
        auxiliary: factor on the losses of the layers before the last.
        alpha, gamma: of the focal terms.
    """

    def __init__(
        self,
        classes: float = 2.0,
        boxes: float = 5.0,
        giou: float = 2.0,
        masks: float = 2.0,
        dice: float = 5.0,
        auxiliary: float = 1.0,
        alpha: Share = 0.25,
        gamma: float = 2.0,
    ) -> None:
        self.weights = {"ce": classes, "bbox": boxes, "giou": giou, "mask": masks, "dice": dice}
        self.auxiliary, self.focal = auxiliary, {"alpha": alpha, "gamma": gamma}

    def choose(self, batch: Batch, candidates: Candidates) -> Int[Tensor, "layers batch"]:
        """The cheapest query of every layer and item."""
        costs = self.costs(candidates, truth_of(batch, candidates))
        return sum(self.weights[name] * cost for name, cost in costs.items()).argmin(-1)

    def costs(self, candidates: Candidates, truth: Truth) -> dict[str, Float[Tensor, "layers batch queries"]]:
        """Costs of every query by name, before weighting."""
        known = truth.known.float()
        frames = known.sum(-1).clamp(min=1)[:, None]
        scores = class_costs(candidates.logits.float(), **self.focal)
        present = truth.present.float()[..., None]
        ours, theirs = candidates.boxes.float(), truth.boxes[:, :, None]
        distance = (ours - theirs).abs().sum(-1)
        overlap = generalised_iou(corners(ours), corners(theirs).expand_as(ours))
        focal, dice = mask_costs(candidates.mask_logits.float(), halved(truth.masks), known, **self.focal)
        return {
            "ce": (scores * present).sum(2) / present.sum(1).clamp(min=1),
            "bbox": (distance * known[..., None]).sum(2) / frames,
            "giou": (-overlap * known[..., None]).sum(2) / frames,
            "mask": focal,
            "dice": dice,
        }

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """Seven terms a layer."""
        truth = truth_of(batch, prediction.candidates)
        count = object_count(truth.present.sum(), truth.boxes.device)
        layers = self.layer_terms(prediction, truth)
        last, terms = len(prediction.chosen) - 1, {}
        for name, values in layers.items():
            weight = self.weights[name.removesuffix("_low")]
            for layer, value in enumerate(values):
                scale = weight if layer == last else weight * self.auxiliary
                terms[name if layer == last else f"{name}_{layer}"] = scale * value / count
        return terms

    def layer_terms(self, prediction: Prediction, truth: Truth) -> dict[str, Float[Tensor, "layers"]]:
        """Every term of every layer, unweighted, before division by the number of objects."""
        candidates, chosen = prediction.candidates, prediction.chosen
        known = truth.known.float()
        matched = F.one_hot(chosen, candidates.logits.shape[-1])[:, :, None]
        wanted = (matched * truth.present[..., None]).float()
        scores = focal_values(candidates.logits.float(), wanted, **self.focal) * known[..., None]
        boxes = pick(candidates.boxes.float().transpose(2, 3), chosen)
        target = truth.boxes.expand_as(boxes)
        overlap = generalised_iou(corners(boxes), corners(target))
        mask, dice = self.mask_terms(prediction.refined, truth.masks, known)
        low, dice_low = self.mask_terms(
            pick(candidates.mask_logits.transpose(2, 3), chosen), halved(truth.masks), known
        )
        return {
            "ce": scores.sum((1, 2, 3)),
            "bbox": ((boxes - target).abs().sum(-1) * known).sum((1, 2)),
            "giou": ((1 - overlap) * known).sum((1, 2)),
            "mask": mask,
            "dice": dice,
            "mask_low": low,
            "dice_low": dice_low,
        }

    def mask_terms(
        self,
        logits: Float[Tensor, "layers batch time h w"],
        targets: Float[Tensor, "batch time h w"],
        known: Float[Tensor, "batch time"],
    ) -> tuple[Float[Tensor, "layers"], Float[Tensor, "layers"]]:
        """Focal and dice losses of one mask an item, each clip flattened, summed over items; none without truth."""
        layers = len(logits)
        rows = logits.float().flatten(2).flatten(0, 1)
        wanted = targets.flatten(1).repeat(layers, 1)
        weights = None if bool(known.all()) else known[:, :, None, None].expand_as(targets).flatten(1).repeat(layers, 1)
        some = known.any(1).float()
        focal = focal_loss(rows, wanted, weights, **self.focal).view(layers, -1) * some
        return focal.sum(1), (dice_loss(rows, wanted, weights).view(layers, -1) * some).sum(1)


def truth_of(batch: Batch, candidates: Candidates) -> Truth:
    """The batch's targets on the frames and the grid of the candidates' masks."""
    targets, known = batch.targets.masks, batch.targets.annotated
    if isinstance(candidates, FrameCandidates) and candidates.answered is not None:
        answered = list(candidates.answered)
        targets, known = targets[:, answered], known[:, answered]
    height, width = (2 * side for side in candidates.mask_logits.shape[-2:])
    targets = targets & known[..., None, None]
    sizes = torch.tensor([meta.size for meta in batch.clip.meta], device=targets.device)
    boxes, present = mask_boxes(targets, sizes[:, None].expand(*targets.shape[:2], 2))
    masks = F.pad(targets.float(), (0, width - targets.shape[-1], 0, height - targets.shape[-2]))
    return Truth(masks, boxes, present, known)


def halved(masks: Float[Tensor, "batch time height width"]) -> Float[Tensor, "batch time h w"]:
    """Every second pixel, beginning with the second."""
    return masks[..., 1::2, 1::2]


def pick(
    values: Float[Tensor, "layers batch queries *rest"], chosen: Int[Tensor, "layers batch"]
) -> Float[Tensor, "layers batch *rest"]:
    """The chosen query's values."""
    layers, items = chosen.shape
    rows = torch.arange(layers, device=chosen.device)[:, None], torch.arange(items, device=chosen.device)
    return values[rows[0], rows[1], chosen]
