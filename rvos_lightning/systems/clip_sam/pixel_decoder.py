"""CLIP's pyramid, made consistent over its levels (Mask2Former's pixel decoder, Cheng et al. 2022, section 3.2.1)."""

from types import SimpleNamespace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.systems.clip_sam.attention import Attention, FeedForward, sine_code
from rvos_lightning.systems.clip_sam.pyramid import Levels

EncoderKind = Literal["deformable", "dense"]


class DenseLayer(nn.Module):
    """Every position of every level attends to all others; 3,024 tokens are few enough for that."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width, heads), nn.LayerNorm(width)
        self.forward_layer = FeedForward(width, hidden)

    def forward(
        self, tokens: Float[Tensor, "pairs tokens c"], place: Float[Tensor, "1 tokens c"]
    ) -> Float[Tensor, "pairs tokens c"]:
        """Same shape."""
        query = tokens + place
        return self.forward_layer(self.norm(tokens + self.attention(query, query, tokens)))


class LateralLevel(nn.Module):
    """1x1 convolution and norm of a raw pyramid level; 3x3 convolution, norm and ReLU of what it is added to."""

    def __init__(self, inputs: int, width: int, groups: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, width, 1, bias=False)
        self.project_norm = nn.GroupNorm(groups, width)
        self.mix = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.mix_norm = nn.GroupNorm(groups, width)

    def forward(
        self, level: Float[Tensor, "pairs inputs h w"], above: Float[Tensor, "pairs c h w"]
    ) -> Float[Tensor, "pairs c h w"]:
        """One step of the way to the dense map."""
        return functional.relu(self.mix_norm(self.mix(self.project_norm(self.project(level)) + above)))


class PixelDecoder(nn.Module):
    """Attention over all levels, then a lateral path to the dense map.

    Args:
        inputs: channels of the pyramid's levels.
        width: channels inside and out.
        layers: attention layers.
        heads: attention heads.
        hidden: width of their feed-forward layers.
        encoder: deformable attention (as published), or `dense`: fused attention over all tokens.
        bottleneck: the released lateral path: it starts from the *fine* output, shrunk to the coarse size, and never
            sees the other two. Otherwise each level receives its own output.
    """

    def __init__(
        self,
        inputs: int,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        hidden: int = 1024,
        encoder: EncoderKind = "deformable",
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        groups = min(32, width // 2)
        self.bottleneck, self.encoder = bottleneck, encoder
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, width, 1), nn.GroupNorm(groups, width)) for _ in range(3)
        )  # coarse first, as the tokens
        self.level = nn.Parameter(torch.empty(3, width).normal_())
        make = deformable_layer if encoder == "deformable" else DenseLayer
        self.layers = nn.ModuleList(make(width, heads, hidden) for _ in range(layers))
        self.lateral = nn.ModuleList(LateralLevel(inputs, width, groups) for _ in range(3))  # fine first, as levels
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, levels: Levels) -> tuple[Levels, Float[Tensor, "pairs c h w"]]:
        """Maps for the queries, coarse to fine, and the dense map at the fine size."""
        scales = self.attend(levels)
        y = resize(scales[2], levels[2].shape[-2:]) if self.bottleneck else scales[0]
        for i in (2, 1, 0):
            if i < 2:
                y = resize(y, levels[i].shape[-2:])
                if not self.bottleneck:
                    y = y + scales[2 - i]
            y = self.lateral[i](levels[i], y)
        return scales, self.out(y)

    def attend(self, levels: Levels) -> Levels:
        """The attention layers over the tokens of all levels; maps come back coarse to fine."""
        maps = [project(level) for project, level in zip(self.project, reversed(levels), strict=True)]
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        codes = [sine_code(*size, tokens.shape[-1], tokens.device) + self.level[i] for i, size in enumerate(sizes)]
        place = torch.cat(codes)[None].to(tokens.dtype)
        for layer in self.layers:
            if self.encoder == "dense":
                tokens = layer(tokens, place)
            else:
                points = reference_points(sizes, tokens.device).expand(len(tokens), -1, -1, -1)
                tokens = layer(
                    tokens, None, position_embeddings=place, reference_points=points, spatial_shapes_list=sizes
                )[0]
        parts = tokens.split([h * w for h, w in sizes], 1)
        return tuple(p.transpose(1, 2).unflatten(2, size) for p, size in zip(parts, sizes, strict=True))


def deformable_layer(width: int, heads: int, hidden: int) -> nn.Module:
    """One layer of multi-scale deformable attention (transformers), three levels and four points."""
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoderEncoderLayer

    sizes = {"feature_size": width, "num_attention_heads": heads, "encoder_feedforward_dim": hidden, "dropout": 0.0}
    layer = Mask2FormerPixelDecoderEncoderLayer(SimpleNamespace(**sizes))
    start_around(layer.self_attn, heads)
    return layer


def start_around(attention: nn.Module, heads: int) -> None:
    """Deformable attention starts as a ring: head i looks in direction i, point j lies j + 1 cells away."""
    angles = torch.arange(heads, dtype=torch.float32) * (2 * torch.pi / heads)
    ring = torch.stack((angles.cos(), angles.sin()), -1)
    ring = ring / ring.abs().max(-1, keepdim=True).values
    steps = torch.arange(1, attention.n_points + 1, dtype=torch.float32)
    offsets = ring[:, None, None] * steps[:, None]
    with torch.no_grad():
        nn.init.zeros_(attention.sampling_offsets.weight)
        attention.sampling_offsets.bias.copy_(offsets.expand(-1, attention.n_levels, -1, -1).flatten())
        nn.init.zeros_(attention.attention_weights.weight)
        nn.init.zeros_(attention.attention_weights.bias)
        for linear in (attention.value_proj, attention.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)


def reference_points(sizes: list[tuple[int, int]], device: torch.device) -> Float[Tensor, "1 tokens 3 2"]:
    """Centre (x, y in [0, 1]) of every token's cell, the same for all levels that it looks at."""
    points = []
    for height, width in sizes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        points.append(torch.stack((x[None].expand(height, -1), y[:, None].expand(-1, width)), -1).flatten(0, 1))
    return torch.cat(points)[None, :, None].expand(-1, -1, len(sizes), -1)


def resize(x: Float[Tensor, "pairs c _h _w"], size: torch.Size) -> Float[Tensor, "pairs c h w"]:
    """Bilinear, corners not aligned, not antialiased."""
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
