"""Memory attention: the current feature reads selected memories; layout and keys of SAM 2's."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.parts.segmenters.aligned import start_memory
from rvos_lightning.systems.sam_i2v.rope_attention import Phases, RotaryAttention, Rotation, table_of


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to memory, feed-forward; normalised before each."""

    def __init__(self, dim: int, memory_dim: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = RotaryAttention(dim, dropout=dropout)
        self.cross_attn_image = RotaryAttention(dim, memory_dim, dropout)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "#batch tokens dim"],
        key: Float[Tensor, "batch keys memory_dim"],
        value: Float[Tensor, "batch keys memory_dim"],
        table: Rotation | Phases,
        spatial: int,
        bias: Float[Tensor, "#batch 1 keys"] | None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """One block; `spatial` leading keys are rotated."""
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn(y, y, y, table, table))
        x = x.expand(len(key), -1, -1)  # of one row where no item has looked at its memory yet
        x = x + self.dropout(self.cross_attn_image(self.norm2(x), key, value, table, table, spatial, bias))
        y = functional.relu(self.linear1(self.norm3(x)))
        return x + self.dropout(self.linear2(self.dropout(y)))


class MemoryAttention(nn.Module):
    """A stack of memory-attention layers.

    Args:
        dim: feature width.
        memory_dim: memory width.
        hidden: feed-forward width.
        layers: how many.
        dropout: everywhere, in training.
        aligned: start so that every place reads memory at the same place (see `start_memory`).
    """

    def __init__(
        self,
        dim: int = 256,
        memory_dim: int = 64,
        hidden: int = 512,
        layers: int = 4,
        dropout: float = 0.1,
        aligned: bool = False,
    ):
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(MemoryAttentionLayer(dim, memory_dim, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        if aligned:
            for layer in self.layers:
                start_memory(layer.cross_attn_image)

    def forward(
        self,
        feature: Float[Tensor, "batch dim h w"],
        position: Float[Tensor, "dim h w"],
        memory: Float[Tensor, "batch keys memory_dim"],
        memory_position: Float[Tensor, "batch keys memory_dim"],
        pointers: int,
        bias: Float[Tensor, "#batch 1 keys"] | None = None,
    ) -> Float[Tensor, "batch dim h w"]:
        """The feature conditioned on memory.

        Args:
            feature: integrated image feature of the frame.
            position: its sine code.
            memory: spatial tokens of all blocks, then `pointers` pointer tokens.
            memory_position: their codes.
            pointers: trailing keys without rotation.
            bias: added to the cross-attention logits (a memory that counts several times).
        """
        height, width = feature.shape[-2:]
        if not self.training and feature.stride(0) == 0:  # all items look at one frame: their paths part at memory
            feature = feature[:1]
        x = (feature + 0.1 * position).flatten(2).transpose(1, 2)
        table = table_of(self.dim, width, height, x.device)
        key = memory + memory_position
        for layer in self.layers:
            x = layer(x, key, memory, table, memory.shape[1] - pointers, bias)
        return self.norm(x).transpose(1, 2).unflatten(2, (height, width))


def build_memory_encoder(dim: int, memory_dim: int, stride: int) -> nn.Module:
    """SAM 2's memory encoder; its mask input has `stride` times the feature grid."""
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder

    from rvos_lightning.systems.sam_i2v.rope_attention import SinePosition

    return MemoryEncoder(
        out_dim=memory_dim,
        mask_downsampler=MaskDownSampler(dim, kernel_size=3, stride=2, padding=1, total_stride=stride),
        fuser=Fuser(CXBlock(dim), num_layers=2),
        position_encoding=SinePosition(memory_dim),
        in_dim=dim,
    )


def multiplicity_bias(counts: Float[Tensor, "keys"]) -> Float[Tensor, "1 1 keys"]:
    """Keys that stand for several equal ones: the softmax over the copies equals one key with log(count) added."""
    return torch.log(counts)[None, None]
