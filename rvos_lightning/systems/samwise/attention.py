"""Multi-head attention with torch's parameters and no attention matrix in memory."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class FusedAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention`, batch first, always through scaled-dot-product attention.

    torch's own forward keeps every attention matrix when weights are asked for (as the official SAMWISE does by
    default: 2 GB in the first adapter at 1024 px).
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout=dropout, batch_first=True)

    def forward(  # type: ignore[override]
        self,
        queries: Float[Tensor, "batch queries dim"],
        keys: Float[Tensor, "batch keys dim"],
        real: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attend from `queries` to `keys` (which are the values too); `real` is False on keys to leave out."""
        if queries is keys:
            q, k, v = F.linear(queries, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            d = self.embed_dim
            q = F.linear(queries, self.in_proj_weight[:d], self.in_proj_bias[:d])
            k, v = F.linear(keys, self.in_proj_weight[d:], self.in_proj_bias[d:]).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = None if real is None else real[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(out.transpose(1, 2).flatten(2))
