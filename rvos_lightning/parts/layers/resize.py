"""From a network's mask logits to the size somebody asks for."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def resize_logits(
    mask_logits: Float[Tensor, "batch time h w"],
    padded: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> Float[Tensor, "batch time height width"]:
    """Bilinear to the padded frame, crop the padding off, bilinear to `size` (corners not aligned throughout).

    Args:
        mask_logits: covering the padded frame, at any resolution.
        padded: (height, width) of the padded frame.
        sizes: (height, width) of each item's picture inside the padded frame.
        size: (height, width) wanted.
    """
    logits = bilinear(mask_logits, padded)
    if set(sizes) == {padded} or not sizes:
        return bilinear(logits, size)
    if len(set(sizes)) == 1:
        height, width = sizes[0]
        return bilinear(logits[..., :height, :width], size)
    return torch.cat([bilinear(item[None, :, :h, :w], size) for item, (h, w) in zip(logits, sizes, strict=True)])


def bilinear(logits: Float[Tensor, "batch time h w"], size: tuple[int, int]) -> Float[Tensor, "batch time H W"]:
    """Bilinear resize; nothing happens when the size fits."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
