"""Mask logits from whatever a network returns to the size at which somebody compares them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize_logits(
    mask_logits: Float[Tensor, "batch time h w"],
    frame_size: tuple[int, int] | None,
    picture_sizes: Sequence[tuple[int, int]],
    target_size: tuple[int, int],
) -> Float[Tensor, "batch time height width"]:
    """Bilinearly to the padded frame, crop each item's picture, bilinearly to the target size.

    In one step where nothing is padded, as SAM 2 and SAM-I2V resize their masks.

    Args:
        mask_logits: cover the padded frame, at any resolution.
        frame_size: (height, width) of the padded frame; None: the logits cover the picture alone, one step suffices.
        picture_sizes: (height, width) of the picture inside it, one per item.
        target_size: (height, width) to return.
    """
    if frame_size is None or all(tuple(size) == tuple(frame_size) for size in picture_sizes):
        return _bilinear(mask_logits.float(), target_size)
    full = _bilinear(mask_logits.float(), frame_size)
    if len(set(picture_sizes)) == 1:
        height, width = picture_sizes[0]
        return _bilinear(full[..., :height, :width], target_size)
    items = zip(full.split(1), picture_sizes, strict=True)
    return torch.cat([_bilinear(item[..., :height, :width], target_size) for item, (height, width) in items])


def logits_like_targets(
    mask_logits: Float[Tensor, "batch time h w"],
    frame_size: tuple[int, int],
    picture_sizes: Sequence[tuple[int, int]],
    target_size: tuple[int, int],
) -> Float[Tensor, "batch time height width"]:
    """As `resize_logits`, except that targets of the padded frame's own size keep their padding (training)."""
    if tuple(target_size) == tuple(frame_size):
        return _bilinear(mask_logits.float(), frame_size)
    return resize_logits(mask_logits, frame_size, picture_sizes, target_size)


def _bilinear(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear")
