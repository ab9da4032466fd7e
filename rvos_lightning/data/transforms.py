"""Changes to a training clip: resizing, and augmentations that treat frames, masks and words as one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from rvos_lightning.data.resize_rules import inference_size
from rvos_lightning.types import ClipMeta

Resize = Literal["letterbox", "short_side", "squash"]
"""letterbox: keep the aspect, fit inside `size` (batches pad right and bottom with zeros); short_side: keep the
aspect, short side `size[0]` unless the long side then exceeds `size[1]` (torchvision's rule); squash: exactly `size`."""


@dataclass
class ClipSample:
    """One training clip of one video with some of its items, before batching."""

    frames: UInt8[Tensor, "time 3 height width"]
    masks: Bool[Tensor, "items time height width"]
    annotated: Bool[Tensor, "items time"]
    expressions: list[str | None]
    meta: list[ClipMeta]
    context: UInt8[Tensor, "few 3 height width"] | None = None
    no_target: bool = False  # an item means nothing on purpose: an empty mask is then no reason to redraw
    seed: tuple[int, ...] = (0,)


class Augmentation(ABC):
    """A random change of a whole training clip, the same for all its frames unless it says otherwise."""

    @abstractmethod
    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """The changed clip; `random` is the only source of randomness."""


def fit_size(original: tuple[int, int], size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Height and width, in pixels, that a picture of size `original` is resized to."""
    height, width = original
    if resize == "squash":
        return size
    if resize == "short_side":
        wide, high = inference_size(width, height, *size)
        return high, wide
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_frames(frames: UInt8[Tensor, "*time 3 _h _w"], size: tuple[int, int]) -> UInt8[Tensor, "*time 3 _H _W"]:
    """Bilinear with antialiasing, rounded to whole grey levels."""
    return frames if tuple(frames.shape[-2:]) == size else F.resize(frames, list(size), antialias=True)


def resize_masks(masks: Bool[Tensor, "*lead _h _w"], size: tuple[int, int]) -> Bool[Tensor, "*lead _H _W"]:
    """Antialiased bilinear on 0/255, True from one half on; thinner than nearest's jagged edges, and no shift."""
    if tuple(masks.shape[-2:]) == size:
        return masks
    shape = masks.shape[:-2]
    grey = masks.reshape(-1, 1, *masks.shape[-2:]).to(torch.uint8) * 255
    return (F.resize(grey, list(size), antialias=True) > 127).reshape(*shape, *size)
