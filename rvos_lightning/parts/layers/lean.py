"""Layers that keep little for the backward pass; results and gradients are those of PyTorch's own.

PyTorch's ReLU keeps its output, its pooling the input and an int64 an output. The layer behind a ReLU keeps that
output, too, for the gradient of its weights; where those are frozen, nobody needs it.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def lean_relu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`F.relu` that keeps a byte a number, not its output."""
    return Rectified.apply(x) if _keeps(x) else x.relu()


def lean_where_frozen(layers: Iterable[nn.Module]) -> None:
    """Let transformer layers with a ReLU as `activation` use `lean_relu` where the `linear2` behind it is frozen."""
    for layer in layers:
        if not layer.linear2.weight.requires_grad:
            layer.activation = lean_relu


def _keeps(x: Tensor) -> bool:
    """Whether anything is kept for a backward pass, and nobody else decides what (`torch.compile` does)."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Rectified(torch.autograd.Function):
    """See `lean_relu`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Zero below zero."""
        out = x.relu()
        ctx.save_for_backward(out <= 0)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Nothing where the output is zero."""
        return grad.masked_fill(ctx.saved_tensors[0], 0)


class LeanMaxPool(nn.MaxPool2d):
    """Pooling in cells beside each other (stride and kernel alike, no padding) that keeps an int32 an output."""

    def forward(self, input: Float[Tensor, "images c h w"]) -> Float[Tensor, "images c _h _w"]:
        """See `nn.MaxPool2d`."""
        return Greatest.apply(input, self.kernel_size) if _keeps(input) else super().forward(input)


class Greatest(torch.autograd.Function):
    """See `LeanMaxPool`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cell: tuple[int, int]) -> Tensor:
        """The greatest of each cell."""
        ctx.size, ctx.cell = x.shape[-2:], cell
        best, where = F.max_pool2d(x, cell, return_indices=True)
        ctx.save_for_backward(where.int())
        return best

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """All of it to the greatest, which no two cells share."""
        return F.max_unpool2d(grad, ctx.saved_tensors[0].long(), ctx.cell, output_size=ctx.size), None
