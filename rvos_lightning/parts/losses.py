"""Losses and matching costs as pure functions of tensors: masks, boxes, sets."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Flat = Float[Tensor, "rows pixels"]
Boxes = Float[Tensor, "*lead 4"]


def dice_loss(logits: Flat, targets: Flat, weights: Flat | None = None) -> Float[Tensor, "rows"]:
    """1 - (2 overlap + 1) / (areas + 1) of every row; `weights` 0 leaves pixels out."""
    probs = logits.sigmoid()
    if weights is not None:
        probs, targets = probs * weights, targets * weights
    return 1 - (2 * (probs * targets).sum(1) + 1) / (probs.sum(1) + targets.sum(1) + 1)


def focal_loss(
    logits: Flat, targets: Flat, weights: Flat | None = None, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "rows"]:
    """Mean over each row of alpha_t (1 - p_t)^gamma times the cross-entropy; `weights` 0 leaves pixels out."""
    loss = focal_values(logits, targets, alpha, gamma)
    if weights is None:
        return loss.mean(1)
    return (loss * weights).sum(1) / weights.sum(1).clamp(min=1)


def focal_values(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*shape"]:
    """The focal loss of every element (RetinaNet, arXiv 1708.02002)."""
    probs = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = probs + targets - 2 * probs * targets  # 1 - p_t
    return (1 - alpha + (2 * alpha - 1) * targets) * missed**gamma * cross


def object_count(objects: Tensor | float, device: torch.device) -> Float[Tensor, ""]:
    """Objects a rank, averaged over all ranks, at least 1."""
    count = torch.as_tensor(objects, dtype=torch.float32, device=device).clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


def mask_boxes(
    masks: Bool[Tensor, "*lead height width"], pictures: Int[Tensor, "*lead 2"]
) -> tuple[Boxes, Bool[Tensor, "*lead"]]:
    """Boxes around masks: centre x, centre y, width, height relative to the picture, and which masks have any pixel.

    Args:
        masks: True on the object; may be padded right and bottom.
        pictures: (height, width) of the picture in each.

    Returns:
        Exact extents (a single pixel has width 1), zeros for empty masks.
    """
    ends = []
    for axis in (-1, -2):
        along = masks.any(-2 if axis == -1 else -1)
        size = along.shape[-1]
        first = along.int().argmax(-1)
        last = size - along.flip(-1).int().argmax(-1)
        ends.append((first, last, pictures[..., axis]))
    (left, right, width), (top, bottom, height) = ends
    present = masks.flatten(-2).any(-1)
    boxes = torch.stack(
        [
            (left + right) / (2 * width),
            (top + bottom) / (2 * height),
            (right - left) / width,
            (bottom - top) / height,
        ],
        -1,
    )
    return boxes.float() * present[..., None], present


def corners(boxes: Boxes) -> Boxes:
    """Centre form to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def generalised_iou(a: Boxes, b: Boxes) -> Float[Tensor, "*lead"]:
    """GIoU of pairs of boxes in corner form (arXiv 1902.09630); 1e-6 in both ratios, so that two empty boxes give 0.

    Raises:
        ValueError: a right or bottom side lies before a left or top one, or a number is not finite.
    """
    for name, boxes in (("first", a), ("second", b)):
        wrong = ~(boxes[..., 2:] >= boxes[..., :2]).all(-1)
        if not wrong.is_meta and bool(wrong.any()):
            found = [round(x, 4) for x in boxes[wrong][0].tolist()]
            raise ValueError(
                f"{int(wrong.sum())} {name} boxes out of order, first {found}: give left, top, right, bottom with "
                "right >= left and bottom >= top; not-a-number means that training diverged: lower the learning rate"
            )
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    return (inner + 1e-6) / (union + 1e-6) - ((hull - union) + 1e-6) / (hull + 1e-6)


def class_costs(logits: Float[Tensor, "*shape"], alpha: float = 0.25, gamma: float = 2.0) -> Float[Tensor, "*shape"]:
    """What it costs to call a query the object: its focal loss as object minus that as background."""
    probs = logits.sigmoid()
    positive = alpha * (1 - probs) ** gamma * -(probs + 1e-8).log()
    return positive - (1 - alpha) * probs**gamma * -(1 - probs + 1e-8).log()


def mask_costs(
    logits: Float[Tensor, "*lead time queries h w"],
    targets: Float[Tensor, "*#lead time h w"],
    frames: Float[Tensor, "*#lead time"],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[Float[Tensor, "*lead queries"], Float[Tensor, "*lead queries"]]:
    """Focal and dice costs of every query against one target, over a clip's frames with truth.

    Args:
        logits: of the queries' masks.
        targets: 1 on the object.
        frames: 1 on frames with truth, 0 on others.

    Returns:
        The mean focal loss, and minus (2 overlap + 1) / (areas + 1).
    """
    count = frames.sum(-1).clamp(min=1)[..., None] * logits.shape[-1] * logits.shape[-2]
    targets = targets * frames[..., None, None]
    probs, there = logits.sigmoid(), frames[..., None]
    background = (1 - alpha) * probs**gamma * F.softplus(logits)
    change = alpha * (1 - probs) ** gamma * F.softplus(-logits) - background
    inside = torch.einsum("...tqhw,...thw->...q", change, targets.expand(*change.shape[:-3], *change.shape[-2:]))
    focal = ((background.sum((-2, -1)) * there).sum(-2) + inside) / count
    overlap = torch.einsum("...tqhw,...thw->...q", probs, targets.expand(*probs.shape[:-3], *probs.shape[-2:]))
    areas = (probs.sum((-2, -1)) * there).sum(-2) + targets.sum((-3, -2, -1))[..., None]
    return focal, -(2 * overlap + 1) / (areas + 1)
