"""Hiera's windows (sam2 package) on real cells only.

Where a map does not fill its last windows, sam2 pads it with zeros, sends the padding through both linear layers of
the attention and lets it ask, too: at 1024 pixels a fifth more cells in the third and fourth stage, at 256 pixels three
times as many. What zeros become behind a linear layer is its bias, which needs no product, and what padding would read
is cut off again. So padding only answers here, and the results are the same.
"""

import torch
from jaxtyping import Float
from sam2.modeling.backbones.hieradet import MultiScaleAttention, MultiScaleBlock, do_pool
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.parts.layers.lean import LeanMaxPool
from rvos_lightning.parts.segmenters.windows import joined, parts, windows


class RealCellsAttention(MultiScaleAttention):
    """Attention inside windows that the map does not fill; padding is attended as sam2 does."""

    def forward(self, x: Float[Tensor, "images h w c"], window: int | None = None) -> Float[Tensor, "images _h _w _c"]:
        """Attend in windows of so many cells a side; None: as sam2, where `x` is windows already."""
        if window is None:
            return super().forward(x)
        widths = [self.dim_out, 2 * self.dim_out]
        queries, pairs = self.qkv(x).split(widths, -1)
        nothing = self.qkv(x.new_zeros(1, x.shape[-1])).split(widths, -1)[1]
        if self.q_pool:
            queries = do_pool(queries, self.q_pool)
        asked = window * queries.shape[1] // x.shape[1]
        rows = []
        for band, beside in zip(parts(queries, 1, asked), parts(pairs, 1, window), strict=True):
            pieces = zip(parts(band, 2, asked), parts(beside, 2, window), strict=True)
            rows.append(torch.cat([self._attend(*piece, nothing, asked, window) for piece in pieces], 2))
        return self.proj(torch.cat(rows, 1))

    def _attend(
        self,
        queries: Float[Tensor, "images _h _w c"],
        pairs: Float[Tensor, "images h w twice"],
        nothing: Float[Tensor, "1 twice"],
        asked: int,
        window: int,
    ) -> Float[Tensor, "images _h _w c"]:
        """What queries read of keys and values in a part of the map whose windows are all filled alike."""
        tall, wide = (min(side, asked) for side in queries.shape[1:3])
        q = windows(queries, tall, wide)
        kv = windows(pairs, min(pairs.shape[1], window), min(pairs.shape[2], window))
        if missing := window * window - kv.shape[1]:
            kv = torch.cat([kv, nothing.expand(len(kv), missing, -1)], 1)
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).transpose(1, 3).unbind(2)
        q = q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return joined(mixed.flatten(2), queries.shape[:3], tall, wide)


class RealCellsBlock(MultiScaleBlock):
    """A block of Hiera that hands its attention the map instead of padded windows, where windows would be padded."""

    def forward(self, x: Float[Tensor, "images h w c"]) -> Float[Tensor, "images _h _w _c"]:
        """See `MultiScaleBlock`."""
        window, stride = self.window_size, max(self.q_stride or (1,))
        filled = window == 0 or not any(side % window for side in x.shape[1:3])
        if filled or any(side % stride for side in (window, *x.shape[1:3])):
            return super().forward(x)
        normed = self.norm1(x)
        if self.dim != self.dim_out:
            x = do_pool(self.proj(normed), self.pool)
        x = x + self.drop_path(self.attn(normed, window))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def on_real_cells(trunk: nn.Module) -> nn.Module:
    """Let every block of a Hiera that sam2 has built skip padding, and pool leanly; parameters and their names stay."""
    for block in trunk.blocks:  # type: ignore[union-attr]
        if type(block) is MultiScaleBlock and type(block.attn) is MultiScaleAttention:
            block.__class__, block.attn.__class__ = RealCellsBlock, RealCellsAttention
            if block.pool is not None:
                block.pool = block.attn.q_pool = LeanMaxPool(block.q_stride)
    return trunk
