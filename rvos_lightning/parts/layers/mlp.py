"""A few linear layers with ReLU between them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Module):
    """`depth` linear layers, ReLU between, nothing after the last.

    Args:
        width: channels in.
        hidden: channels between.
        out: channels out.
        depth: number of linear layers, at least 1.
    """

    def __init__(self, width: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        widths = [width, *[hidden] * (depth - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows out"]:
        """`x` through all layers."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)
