"""Attention in shifted windows of space and time (Video Swin, arXiv 2106.13230) on a CPU.

torchvision pads, rolls and cuts the map in three copies, adds biases and masks to products in two more and keeps the
softmax of all windows. Here one gather makes the windows, in an order in which windows of one mask follow each other;
their bias and mask are one array, with which PyTorch's fused attention needs no other. The backward pass goes through
a few windows at a time, which stay in the cache.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from rvos_lightning.parts.layers.linear import linear, plain_cpu

Three = tuple[int, int, int]
Bias = Float[Tensor, "heads cells cells"]
APART = -100.0
"""What is added between cells that only the shift has brought into one window (torchvision's)."""
CACHED = 2**19
"""Numbers of a step of the backward pass: 2 MiB, the cache of a core."""


class WindowAttention(ShiftedWindowAttention3d):
    """torchvision's attention: on a CPU with fewer copies, as it is elsewhere."""

    def forward(self, x: Float[Tensor, "videos time h w c"]) -> Float[Tensor, "videos time h w c"]:
        """Every cell attends to its window, padding of which is attended, too, as published."""
        if not plain_cpu(x) or self.attention_dropout or self.dropout:
            return super().forward(x)
        size = tuple(x.shape[1:4])
        window = tuple(min(a, b) for a, b in zip(self.window_size, size, strict=True))
        shift = tuple(s if a > b else 0 for s, a, b in zip(self.shift_size, size, window, strict=True))
        groups = by_mask(windows(len(x), size, window, shift), shift)
        cells = torch.cat([cells for cells, _ in groups]).flatten()
        home = torch.empty(x.shape[:4].numel(), dtype=torch.long)
        home[cells[cells >= 0]] = (cells >= 0).nonzero()[:, 0]
        inside = linear(Moved.apply(x.flatten(0, 3), cells, home), self.qkv.weight, self.qkv.bias)
        parts = inside.unflatten(1, (3, self.num_heads, -1)).unflatten(0, (-1, groups[0][0].shape[1]))
        bias = self.get_relative_position_bias(list(window))[0]
        mixed = [
            BiasedAttention.apply(part, bias + apart(window, shift, cut) if any(cut) else bias)
            for part, (_, cut) in zip(parts.split([len(cells) for cells, _ in groups]), groups, strict=True)
        ]
        mixed = (torch.cat(mixed) if len(mixed) > 1 else mixed[0]).flatten(0, 1)
        return linear(Moved.apply(mixed, home, cells), self.proj.weight, self.proj.bias).view(x.shape)


def windows(videos: int, size: Three, window: Three, shift: Three) -> Int[Tensor, "videos along down across cells"]:
    """Which cell of the flattened map lies where in which window of the padded and then rolled map; -1 on padding."""
    cells = torch.arange(videos * size[0] * size[1] * size[2]).view(videos, *size)
    missing = [-a % b for a, b in zip(size, window, strict=True)]
    cells = F.pad(cells, (0, missing[2], 0, missing[1], 0, missing[0]), value=-1)
    cells = cells.roll([-s for s in shift], (1, 2, 3))
    for axis in (3, 2, 1):
        cells = cells.unflatten(axis, (-1, window[axis - 1]))
    return cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)


def by_mask(cells: Int[Tensor, "videos along down across cells"], shift: Three) -> list[tuple[Tensor, tuple]]:
    """Windows in groups of one mask: their cells, and the axes along which the map's far ends meet in them.

    They meet in an axis' last windows where it was rolled.
    """
    groups = []
    for cut in product((False, True), repeat=3):
        if any(c and not s for c, s in zip(cut, shift, strict=True)):
            continue
        ranges = [slice(-1, None) if c else slice(-1 if s else None) for c, s in zip(cut, shift, strict=True)]
        group = cells[(slice(None), *ranges)].flatten(0, 3)
        if len(group):
            groups.append((group, cut))
    return groups


def apart(window: Three, shift: Three, cut: tuple[bool, bool, bool]) -> Float[Tensor, "cells cells"]:
    """`APART` between cells of different ends of the map, else 0."""
    ends = [torch.arange(w) >= (w - s if c else w) for w, s, c in zip(window, shift, cut, strict=True)]
    end = 4 * ends[0][:, None, None] + 2 * ends[1][:, None] + 1 * ends[2]
    return torch.where(end.flatten() == end.flatten()[:, None], 0.0, APART)


class Moved(torch.autograd.Function):
    """Rows at other places, zeros where `take` is -1; `back` says where each row went, for the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "rows c"], take: Tensor, back: Tensor) -> Float[Tensor, "_rows c"]:
        """Row `take[i]` becomes row i."""
        ctx.save_for_backward(take, back)
        return moved(x, take)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "_rows c"]) -> tuple[Tensor, None, None]:
        """Rows in their old places."""
        return moved(grad, ctx.saved_tensors[1]), None, None


def moved(x: Float[Tensor, "rows c"], take: Int[Tensor, "_rows"]) -> Float[Tensor, "_rows c"]:
    """Row `take[i]` as row i, zeros where it is -1."""
    empty = (take < 0).nonzero()[:, 0]
    rows = x.index_select(0, take.clamp(min=0) if len(empty) else take)
    return rows.index_fill_(0, empty, 0) if len(empty) else rows


class BiasedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(c) + bias) v of many windows; the backward pass computes the softmax again."""

    @staticmethod
    def forward(ctx: Any, qkv: Float[Tensor, "windows cells 3 heads c"], bias: Bias) -> Tensor:
        """Means of values, heads beside each other."""
        q, k, v = qkv.detach().permute(2, 0, 3, 1, 4).unbind(0)
        mask = bias.detach().expand(len(q), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        ctx.save_for_backward(qkv, bias, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "windows cells c"]) -> tuple[Tensor, Tensor]:
        """Gradients of queries, keys and values, and of the bias."""
        qkv, bias, mixed = ctx.saved_tensors
        step = max(1, CACHED // bias.numel())
        moves, slopes = torch.empty_like(qkv), torch.zeros_like(bias)
        for part, answer, asked, move in zip(*(x.split(step) for x in (qkv, mixed, grad, moves)), strict=True):
            found, slope = window_gradients(part, bias, answer, asked)
            move.copy_(found)
            slopes += slope
        return moves, slopes


def window_gradients(qkv: Tensor, bias: Bias, mixed: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a few windows."""
    count, _, _, heads, width = qkv.shape
    q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
    mixed, grad = (x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1) for x in (mixed, grad))
    scale = width**-0.5
    shares = torch.baddbmm(bias.repeat(count, 1, 1), q, k.transpose(1, 2), alpha=scale).softmax(-1)
    slope = torch.bmm(grad, v.transpose(1, 2)).sub_((grad * mixed).sum(-1, keepdim=True)).mul_(shares)
    found = torch.stack(
        [
            torch.bmm(slope, k).mul_(scale),
            torch.bmm(slope.transpose(1, 2), q).mul_(scale),
            shares.transpose(1, 2) @ grad,
        ]
    )
    found = found.unflatten(1, (count, heads)).permute(1, 3, 0, 2, 4)
    return found, slope.view(count, *bias.shape).sum(0)
