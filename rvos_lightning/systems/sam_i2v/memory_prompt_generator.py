"""Memory prompt generator: three queries turn memory into prompts for the mask decoder."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.systems.sam_i2v.rope_attention import RotaryAttention, table_of


class MemoryPromptGenerator(nn.Module):
    """Cross-attention to foreground memory, self-attention, feed-forward.

    Args:
        dim: prompt width.
        memory_dim: memory width.
        queries: number of prompts.
        dropout: after each step and on attention weights, in training.
    """

    def __init__(self, dim: int = 256, memory_dim: int = 64, queries: int = 3, dropout: float = 0.1):
        super().__init__()
        self.dim = dim
        self.query_embedding_fg = nn.Embedding(queries, dim)
        self.no_memory_prompt_embeddings_fg = nn.Embedding(1, dim)
        self.cross_attn = RotaryAttention(dim, memory_dim, dropout)
        self.self_attn = RotaryAttention(dim, dropout=dropout)
        self.norm_fg_ca = nn.LayerNorm(dim)
        self.norm_fg_sa = nn.LayerNorm(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, dim)
        self.linear2 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        memory: Float[Tensor, "batch keys memory_dim"],
        memory_position: Float[Tensor, "batch keys memory_dim"],
        keep: Bool[Tensor, "batch keys"] | Float[Tensor, "batch keys"],
        pointers: int,
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch queries dim"]:
        """Prompts from the memory tokens in `keep` (at least one per row; pointers always are).

        Args:
            memory: spatial tokens of blocks of `grid`, then `pointers` pointer tokens.
            memory_position: their codes.
            keep: True on foreground tokens and pointers, or a number to add to each key's logit.
            pointers: trailing keys without rotation.
            grid: height and width of a block.
        """
        query = self.query_embedding_fg.weight.expand(len(memory), -1, -1)
        table = table_of(self.dim, query.shape[1], 1, memory.device)
        keys = table_of(self.dim, grid[1], grid[0], memory.device)
        spatial = memory.shape[1] - pointers
        y = self.norm_fg_ca(query)
        attended = self.cross_attn(y, memory + memory_position, memory, table, keys, spatial, keep[:, None])
        query = query + self.dropout(attended)
        y = self.norm_fg_sa(query)
        query = query + self.dropout(self.self_attn(y, y, y, table, table))
        y = functional.relu(self.linear1(self.norm1(query)))
        return query + self.dropout(self.linear2(self.dropout(y)))

    def no_memory(self, batch: int) -> Float[Tensor, "batch queries dim"]:
        """Prompts where there is no memory yet."""
        return self.no_memory_prompt_embeddings_fg.weight.expand(batch, self.query_embedding_fg.num_embeddings, -1)
