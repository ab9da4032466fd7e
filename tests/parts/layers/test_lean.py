"""Layers that keep little for the backward pass against PyTorch's own: the same numbers, fewer bytes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rvos_lightning.parts.layers.lean import LeanMaxPool, lean_relu


def run(layer, x):
    """Output, gradient, and bytes kept in between."""
    x, kept = x.clone().requires_grad_(), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x)
    torch.manual_seed(1)
    out.backward(torch.randn_like(out))
    return out.detach(), x.grad, sum(kept.values())


def assert_lean(lean, plain, x, least):
    ours, theirs = run(lean, x), run(plain, x)
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert theirs[2] >= least * ours[2] > 0
    with torch.no_grad():
        torch.testing.assert_close(lean(x), plain(x), rtol=0, atol=0, equal_nan=True)


def test_relu():
    x = torch.randn(7, 33)
    x[0, :4] = torch.tensor([0.0, -0.0, float("nan"), float("inf")])
    assert_lean(lean_relu, F.relu, x, 4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)], ids=str)
def test_pooling(size, channels_last):
    """Of equal numbers, the first; what fills no cell gets no gradient."""
    torch.manual_seed(0)
    x = torch.randint(-2, 2, (3, 5, *size)).float()
    x[0, 0, 0, 0] = float("nan")
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    assert_lean(LeanMaxPool((2, 2)), nn.MaxPool2d((2, 2)), x, 5)
