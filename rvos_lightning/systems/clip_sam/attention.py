"""Attention blocks after whose residual comes the norm, and the sine code of positions."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

Tokens = Float[Tensor, "rows _tokens c"]


class Attention(nn.Module):
    """Multi-head attention with the parameters of `nn.MultiheadAttention`, and one mask for all heads.

    Args:
        width: channels.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tokens, key: Tokens, value: Tokens, allowed: Bool[Tensor, "rows _queries _keys"] | None = None
    ) -> Tokens:
        """Queries read where `allowed`; without it everywhere. One row of keys serves any number of query rows."""
        projections = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        parts = [functional.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2) for x, w, b in projections]
        mask = None if allowed is None else allowed[:, None]
        read = functional.scaled_dot_product_attention(*parts, attn_mask=mask)
        return self.out_proj(read.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """Norm(query + attention)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width, heads), nn.LayerNorm(width)

    def forward(
        self,
        x: Tokens,
        key: Tokens,
        value: Tokens,
        place: Float[Tensor, "_tokens c"] | None = None,
        allowed: Bool[Tensor, "rows _queries _keys"] | None = None,
    ) -> Tokens:
        """`place` is added to the queries, not to what they carry on."""
        query = x if place is None else x + place
        return self.norm(x + self.attention(query, key, value, allowed))


class SelfBlock(CrossBlock):
    """Norm(x + self-attention); queries and keys get `place`, values do not."""

    def forward(self, x: Tokens, place: Float[Tensor, "_tokens c"] | None = None) -> Tokens:  # type: ignore[override]
        """Same shape."""
        query = x if place is None else x + place
        return self.norm(x + self.attention(query, query, x))


class FeedForward(nn.Module):
    """Norm(x + two linear layers around a ReLU)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tokens) -> Tokens:
        """Same shape."""
        return self.norm(x + self.linear2(functional.relu(self.linear1(x))))


def sine_code(
    height: int, width: int, channels: int, device: torch.device, temperature: float = 10000.0
) -> Float[Tensor, "positions channels"]:
    """DETR's sine positions: y in the first half of the channels, x in the second, sine and cosine interleaved."""
    steps = torch.arange(channels // 2, device=device)
    rates = temperature ** (2 * (steps // 2) / (channels // 2))
    halves = []
    for size in (height, width):
        along = torch.arange(1, size + 1, device=device, dtype=torch.float32) / (size + 1e-6) * 2 * math.pi
        angle = along[:, None] / rates
        halves.append(torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), 2).flatten(1))
    rows, columns = halves
    grid = (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1))
    return torch.cat(grid, -1).flatten(0, 1)
