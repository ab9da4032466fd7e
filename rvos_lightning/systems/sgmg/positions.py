"""Sine codes of places in a padded map and of words in a padded sentence (DETR, arXiv 2005.12872)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrSinePositionEmbedding

TEMPERATURE = 10000


def place_code(padding: Bool[Tensor, "images h w"], dim: int) -> Float[Tensor, "images dim h w"]:
    """Rows in the first half of the channels, columns in the second, counted over what is no padding."""
    code = DeformableDetrSinePositionEmbedding(dim // 2, temperature=TEMPERATURE, normalize=True)
    shape = torch.Size((len(padding), dim, *padding.shape[-2:]))
    return code(shape, padding.device, torch.float32, mask=~padding)


def word_code(real: Bool[Tensor, "batch words"], dim: int) -> Float[Tensor, "batch words dim"]:
    """Places of words in their sentence, from 1 to the last, scaled to 2 pi; unlike places, not moved by one half."""
    count = real.to(torch.float32).cumsum(1)
    place = count / (count[:, -1:] + 1e-6) * 2 * math.pi
    pair = torch.arange(dim, device=real.device) // 2
    angle = place[..., None] / TEMPERATURE ** (2 * pair / dim)
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)
