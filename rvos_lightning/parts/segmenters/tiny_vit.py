"""timm's TinyViT with attention biases in the shape that PyTorch's fast kernels take; imports timm."""

import torch
from jaxtyping import Float
from timm.models.tiny_vit import Attention, TinyVitBlock
from torch import Tensor, nn


class BroadcastAttention(Attention):
    """TinyViT's attention with a batch axis before its bias.

    Without it `scaled_dot_product_attention` takes the slow path of separate operators on a CPU.
    """

    def get_attention_biases(self, device: torch.device) -> Float[Tensor, "1 heads tokens tokens"]:
        """The bias of every head, query and key."""
        return super().get_attention_biases(device)[None]


def broadcast_biases(trunk: nn.Module) -> None:
    """Exchange the attentions of a trunk; parameters stay the same objects under the same names."""
    for block in trunk.modules():
        if isinstance(block, TinyVitBlock):
            old = block.attn
            with torch.device("meta"):
                new = BroadcastAttention(block.dim, old.key_dim, old.num_heads, old.attn_ratio, old.resolution)
            for name, value in (*old.named_parameters(recurse=False), *old.named_buffers(recurse=False)):
                setattr(new, name, value)
            for name, module in old.named_children():
                setattr(new, name, module)
            block.attn = new
