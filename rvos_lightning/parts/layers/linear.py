"""Linear layers on a CPU as 1 x 1 convolutions, which oneDNN computes with the widest registers of any maker's CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LEAST = 20480
"""Numbers in the input from which PyTorch hands a convolution of one image to oneDNN (2.x, `ConvParams`)."""

GAP = (2, 1)
"""Between the rows of a kernel that has but one: changes only who computes. With a single thread PyTorch keeps plain
1 x 1 convolutions to itself, which are no faster than MKL."""


def linear(
    x: Float[Tensor, "*rows width"], weight: Float[Tensor, "out width"], bias: Float[Tensor, "out"] | None = None
) -> Float[Tensor, "*rows out"]:
    """`F.linear`, up to rounding.

    PyTorch multiplies float32 matrices with Intel's MKL, which leaves AVX-512 unused on AMD's CPUs: 80 to 110 GFLOP/s a
    core of an EPYC where oneDNN reaches 150 to 240, backward pass included. Rows of channels are an image of one row of
    pixels in PyTorch's channels-last format, so nothing is copied.
    """
    if not worthwhile(x, weight) or (bias is not None and bias.dtype != x.dtype):
        return F.linear(x, weight, bias)
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    trains = weight.requires_grad or (bias is not None and bias.requires_grad)
    if x.requires_grad and torch.is_grad_enabled() and not trains:
        mixed = FrozenRows.apply(rows, weight, bias)
    else:
        mixed = _convolved(rows, weight, bias)
    return mixed.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _convolved(rows: Float[Tensor, "1 width 1 rows"], weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(rows, weight[:, :, None, None], bias, dilation=GAP)


class FrozenRows(torch.autograd.Function):
    """Rows through weights that do not train: a convolution would keep them for the weights' gradient nonetheless."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `linear`."""
        ctx.save_for_backward(weight)
        return _convolved(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the rows."""
        return _convolved(grad, ctx.saved_tensors[0].t(), None), None, None


def pointwise(
    x: Float[Tensor, "images width h w"], weight: Float[Tensor, "out width 1 1"], bias: Tensor | None = None
) -> Float[Tensor, "images out h w"]:
    """`F.conv2d` with a 1 x 1 kernel, up to rounding, by oneDNN where that is faster."""
    if not worthwhile(x, weight):
        return F.conv2d(x, weight, bias)
    return F.conv2d(x, weight, bias, dilation=GAP)


def worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution is faster: float32 on a CPU with AVX-512, and enough of it."""
    return (
        plain_cpu(x)
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > LEAST
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
    )


def plain_cpu(x: Tensor) -> bool:
    """Whether a CPU computes `x` as it is written: no autocast, no `torch.compile`, which chooses its own ways."""
    return on_cpu(x) and not torch.compiler.is_compiling()


def on_cpu(x: Tensor) -> bool:
    """Whether a CPU computes `x`, in its own precision."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class OneDnnLinear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, input: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows out"]:
        """See `nn.Linear`."""
        return linear(input, self.weight, self.bias)


def through_onednn(network: nn.Module) -> None:
    """Let every linear layer, whoever built it, take the faster way; parameters and their names stay."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
