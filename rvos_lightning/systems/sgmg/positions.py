"""Sine codes of places in a padded map and of words in a padded sentence (DETR, arXiv 2005.12872)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TEMPERATURE = 10000


def place_code(padding: Bool[Tensor, "images h w"], dim: int) -> Float[Tensor, "images dim h w"]:
    """Rows in the first half of the channels, columns in the second, counted over what is no padding."""
    real = (~padding).float()
    codes = [sines(share(real, axis, 0.5), dim // 2) for axis in (1, 2)]
    return torch.cat(codes, -1).permute(0, 3, 1, 2)


def word_code(real: Bool[Tensor, "batch words"], dim: int) -> Float[Tensor, "batch words dim"]:
    """Places of words in their sentence, from 1 to the last; unlike places in maps, not moved by one half."""
    return sines(share(real.float(), 1, 0.0), dim)


def share(real: Float[Tensor, "*shape"], axis: int, shift: float) -> Float[Tensor, "*shape"]:
    """How far along an axis each element lies, 1 for the last that is real."""
    count = real.cumsum(axis)
    return (count - shift) / (count.narrow(axis, count.shape[axis] - 1, 1) + 1e-6)


def sines(place: Float[Tensor, "*shape"], channels: int) -> Float[Tensor, "*shape channels"]:
    """Pairs of sine and cosine of `place`, once round the circle, at falling frequencies."""
    frequency = TEMPERATURE ** (2 * (torch.arange(channels, device=place.device) // 2) / channels)
    angle = (place * 2 * math.pi)[..., None] / frequency
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)
