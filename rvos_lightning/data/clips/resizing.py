"""Sizes of pictures and masks under the resize rules of published systems."""

from typing import Literal

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

Resize = Literal["letterbox", "short_side", "squash", "none"]
"""letterbox: keep the aspect, fit inside `size` (batches pad right and bottom with zeros); short_side: keep the
aspect, short side `size[0]` unless the long side exceeds `size[1]` (torchvision's rule); squash: exactly `size`;
none: as it is, where an augmentation resizes."""


def inference_size(width: int, height: int, shortest: int = 1020, longest: int = 1024) -> tuple[int, int]:
    """(width, height) by SAMWISE's rule (torchvision's): short side `shortest`, unless the long exceeds `longest`."""
    small, large = min(width, height), max(width, height)
    short, long = shortest, int(shortest * large / small)
    if long > longest:
        short, long = int(longest * short / long), longest
    return (short, long) if width <= height else (long, short)


def fit_size(original: tuple[int, int], size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Height and width, in pixels, that a picture of size `original` is resized to."""
    height, width = original
    if resize == "squash":
        return size
    if resize == "none":
        return original
    if resize == "short_side":
        wide, high = inference_size(width, height, *size)
        return high, wide
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_frames(frames: UInt8[Tensor, "*time 3 _h _w"], size: tuple[int, int]) -> UInt8[Tensor, "*time 3 _H _W"]:
    """Bilinear with antialiasing, rounded to whole grey levels; contiguous, however the axes lay in memory before."""
    return (frames if tuple(frames.shape[-2:]) == size else _bilinear(frames, size)).contiguous()


def resize_masks(masks: Bool[Tensor, "*lead _h _w"], size: tuple[int, int]) -> Bool[Tensor, "*lead _H _W"]:
    """Antialiased bilinear on 0/255, True from one half on; thinner than nearest's jagged edges, and no shift.

    Four masks go as the channels of one picture, which is what the operator is fastest at.
    """
    if tuple(masks.shape[-2:]) == size:
        return masks
    flat = masks.reshape(-1, *masks.shape[-2:])
    channels = 1 if len(flat) == 1 else 4
    grey = flat.new_zeros(-(-len(flat) // channels), channels, *flat.shape[1:], dtype=torch.uint8)
    grey.flatten(0, 1)[: len(flat)] = flat
    resized = _bilinear(grey.mul_(255), size).flatten(0, 1)[: len(flat)] > 127
    return resized.reshape(*masks.shape[:-2], *size)


def _bilinear(pictures: UInt8[Tensor, "*time _channels _h _w"], size: tuple[int, int]) -> Tensor:
    from torchvision.transforms.v2 import functional  # takes as long as torch: not for those who only look at data

    return functional.resize(pictures, list(size), antialias=True)
