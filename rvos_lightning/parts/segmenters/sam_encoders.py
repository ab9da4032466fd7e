"""Image encoders of SAM and its small variants, built from timm and transformers.

Every encoder is called as `encoder(images, after_stage)` with normalised square images and returns all its levels,
fine to coarse in the order of computation, the 256-channel (neck) embedding last. `after_stage` sees stage outputs
0, 1, 2, ...; what it returns flows on.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.core.seams import Pyramid, StageHook

Resample = Literal["pillow", "torch"]


@dataclass(frozen=True)
class TinyVitShape:
    """Widths of a TinyViT trunk; the defaults are the 5M model of TinySAM and MobileSAM."""

    embed_dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: tuple[int, ...] = (7, 7, 14, 7)
    stride: int = 16  # 8: the first merge keeps the grid; 4: the patch embedding has stride 2, too


@dataclass(frozen=True)
class RepVitShape:
    """Widths of a RepViT trunk; the defaults are EdgeSAM's M1."""

    embed_dims: tuple[int, int, int, int] = (48, 96, 192, 384)
    depths: tuple[int, int, int, int] = (2, 2, 14, 2)
    stride: int = 16  # of the third stage, which the embedding has, too; 8: the stem starts with stride 1


@dataclass(frozen=True)
class VitShape:
    """Widths of a SAM ViT: uniform SlimSAM or SAM B, L, H."""

    hidden: int
    mlp: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    patch: int = 16
    window: int = 14


TINY_VITS = {
    "tiny_sam": TinyVitShape(),
    "mobile_sam": TinyVitShape(),
    "small": TinyVitShape((16, 32, 48, 64), (1, 1, 1, 1), (1, 2, 3, 4), (7, 8, 8, 8), stride=8),
}
REP_VITS = {"edge_sam": RepVitShape(), "small_edge_sam": RepVitShape((16, 32, 48, 64), (1, 1, 2, 1), stride=8)}
VITS = {
    "slim_sam": VitShape(384, 1536, 12, 12, (2, 5, 8, 11)),
    "slim_sam_77": VitShape(168, 696, 12, 12, (2, 5, 8, 11)),
    "sam_b": VitShape(768, 3072, 12, 12, (2, 5, 8, 11)),
    "sam_l": VitShape(1024, 4096, 24, 16, (5, 11, 17, 23)),
    "sam_h": VitShape(1280, 5120, 32, 16, (7, 15, 23, 31)),
    "small_slim_sam": VitShape(48, 192, 4, 3, (1, 3), patch=8, window=4),
    "small_sam_b": VitShape(96, 384, 4, 3, (1, 3), patch=8, window=4),
}


def _neck(channels: int, dim: int) -> nn.Sequential:
    """SAM's neck: 1x1 conv, norm, 3x3 conv, norm (keys `0` to `3` as in every official checkpoint)."""
    from sam2.modeling.sam2_utils import LayerNorm2d

    return nn.Sequential(
        nn.Conv2d(channels, dim, 1, bias=False),
        LayerNorm2d(dim),
        nn.Conv2d(dim, dim, 3, padding=1, bias=False),
        LayerNorm2d(dim),
    )


class TinyVitEncoder(nn.Module):
    """TinyViT of TinySAM and MobileSAM on timm; levels: three merged stages, embedding (so level i is stage i's)."""

    def __init__(self, shape: TinyVitShape, dim: int):
        super().__init__()
        # The class, not the registry: importing TinySAM or MobileSAM overwrites timm's entry `tiny_vit_5m_224`.
        from timm.models.tiny_vit import TinyVit

        from rvos_lightning.parts.segmenters.tiny_vit import without_needless_work

        self.trunk = TinyVit(
            num_classes=0,
            embed_dims=shape.embed_dims,
            depths=shape.depths,
            num_heads=shape.num_heads,
            window_sizes=shape.window_sizes,
            drop_path_rate=0.0,
        )
        self.trunk.head = nn.Identity()  # its norm is never used and would stay without gradient
        # The original's merge keeps the grid when it leads to the last stage.
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        if shape.stride <= 8:
            self.trunk.stages[1].downsample.conv2.conv.stride = (1, 1)
        if shape.stride <= 4:
            self.trunk.patch_embed.conv2.conv.stride = (1, 1)
        without_needless_work(self.trunk)
        self.stride = shape.stride
        self.neck = _neck(shape.embed_dims[-1], dim)
        widths = shape.embed_dims
        self.stage_channels = (*widths[1:], widths[-1])
        self.stage_strides = (shape.stride // 2, shape.stride, shape.stride, shape.stride)
        self.channels = (*widths[1:], dim)
        self.register_load_state_dict_post_hook(_forget_biases)

    @property
    def layers(self) -> int:
        """See `optim.Layered`: the neck's number, above all blocks."""
        return sum(len(stage.blocks) for stage in self.trunk.stages) + 1

    def layer_of(self, name: str) -> int:
        """0 for the patch embedding, then one a block; a merge goes with the block before it (released SAM-I2V)."""
        stage = re.match(r"trunk\.stages\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name)
        if stage is None:
            return 0 if name.startswith("trunk.patch_embed.") else self.layers
        before = sum(len(earlier.blocks) for earlier in list(self.trunk.stages)[: int(stage[1])])
        return before if stage[2] is None else before + int(stage[2]) + 1

    def forward(self, images: Float[Tensor, "images 3 h w"], after_stage: StageHook | None = None) -> Pyramid:
        """See the module docstring."""
        stages = self.trunk.stages
        levels: list[Tensor] = []
        x = stages[0](self.trunk.patch_embed(images))
        for i in range(1, len(stages)):
            x = stages[i].downsample(
                x
            )  # timm merges at the start of a stage, the original at the end of the one before
            x = after_stage(i - 1, x) if after_stage else x
            levels.append(x)
            x = stages[i].blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = after_stage(len(stages) - 1, x) if after_stage else x
        return (*levels, self.neck(x))


def _forget_biases(encoder: nn.Module, keys: object) -> None:
    """timm keeps expanded attention biases in eval mode until `train` is called; new weights make them stale.

    Called on the attentions themselves, since `train` of a frozen encoder does nothing.
    """
    from timm.models.tiny_vit import Attention

    for module in encoder.modules():
        if isinstance(module, Attention):
            module.train(module.training)


class RepVitEncoder(nn.Module):
    """RepViT-M1 of EdgeSAM on timm; levels: four stages (the coarsest at half the grid), embedding."""

    def __init__(self, shape: RepVitShape, dim: int):
        super().__init__()
        from timm.models.repvit import RepVit

        widths = shape.embed_dims
        self.trunk = RepVit(embed_dim=widths, depth=shape.depths, mlp_ratio=2, num_classes=0, legacy=True)
        if shape.stride <= 8:
            self.trunk.stem.conv1.c.stride = (1, 1)
        self.stride = shape.stride
        self.fuse_fine = nn.Conv2d(widths[2], dim, 1, bias=False)
        self.fuse_coarse = nn.Conv2d(widths[3], dim, 1, bias=False)
        self.neck = _neck(dim, dim)
        self.stage_channels = widths
        self.stage_strides = (shape.stride // 4, shape.stride // 2, shape.stride, 2 * shape.stride)
        self.channels = (*widths, dim)

    def forward(self, images: Float[Tensor, "images 3 h w"], after_stage: StageHook | None = None) -> Pyramid:
        """See the module docstring; a stage ends with the block timm counts to the next stage's downsampling."""
        levels: list[Tensor] = []
        x = self.trunk.stem(images)
        for i, stage in enumerate(self.trunk.stages):
            if i > 0:
                down = stage.downsample
                x = down.channel_downsample(down.spatial_downsample(x))
                x = x + down.ffn(x)
            x = stage.blocks(x)
            if i + 1 < len(self.trunk.stages):
                x = self.trunk.stages[i + 1].downsample.pre_block(x)
            x = after_stage(i, x) if after_stage else x
            levels.append(x)
        coarse = functional.interpolate(self.fuse_coarse(x), scale_factor=2, mode="bicubic", align_corners=False)
        return (*levels, self.neck(self.fuse_fine(levels[-2]) + coarse))


class VitEncoder(nn.Module):
    """SAM's ViT on transformers; a stage is what ends with a global-attention block."""

    def __init__(self, shape: VitShape, dim: int, image_size: int):
        super().__init__()
        from transformers import SamVisionConfig
        from transformers.models.sam.modeling_sam import SamVisionEncoder

        config = SamVisionConfig(
            hidden_size=shape.hidden,
            mlp_dim=shape.mlp,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            global_attn_indexes=list(shape.global_blocks),
            output_channels=dim,
            image_size=image_size,
            patch_size=shape.patch,
            window_size=shape.window,
            initializer_range=0.02,  # transformers' is 1e-10, from which nothing learns
            attn_implementation="sdpa",
        )
        self.trunk = SamVisionEncoder(config)
        self.stride = shape.patch
        self.global_blocks = shape.global_blocks
        self.stage_channels = (shape.hidden,) * len(shape.global_blocks)
        self.stage_strides = (self.stride,) * len(shape.global_blocks)
        self.channels = (*self.stage_channels, dim)

    @property
    def neck(self) -> nn.Module:
        """What makes the embedding of the last stage; transformers keeps it in its trunk."""
        return self.trunk.neck

    def forward(self, images: Float[Tensor, "images 3 h w"], after_stage: StageHook | None = None) -> Pyramid:
        """See the module docstring."""
        levels: list[Tensor] = []
        x = self.trunk.patch_embed(images) + self.trunk.pos_embed
        for i, layer in enumerate(self.trunk.layers):
            x = layer(x)
            if i in self.global_blocks:
                level = x.permute(0, 3, 1, 2)
                if after_stage:
                    level = after_stage(len(levels), level)
                    x = level.permute(0, 2, 3, 1)
                levels.append(level)
        return (*levels, self.neck(x))


class AdaptFormer(nn.Module):
    """A block's MLP with a narrow one beside it (AdaptFormer, Chen et al. 2022); starts as the MLP alone.

    Args:
        mlp: the block's own.
        dim: width of its input.
        width: of the bottleneck.
        scale: factor on the bottleneck's output.
    """

    def __init__(self, mlp: nn.Module, dim: int, width: int, scale: float = 0.1):
        super().__init__()
        self.mlp, self.scale = mlp, scale
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Float[Tensor, "*axes dim"]) -> Float[Tensor, "*axes dim"]:
        """Same shape."""
        return self.mlp(x) + self.scale * self.up(functional.relu(self.down(self.norm(x))))


def add_adapters(encoder: nn.Module, width: int) -> list[AdaptFormer]:
    """Put an `AdaptFormer` of bottleneck `width` into every transformer block of a TinyViT or ViT encoder.

    Raises:
        ValueError: the encoder has no such blocks.
    """
    from timm.models.tiny_vit import TinyVitBlock
    from transformers.models.sam.modeling_sam import SamVisionLayer

    added = []
    for block in list(encoder.modules()):
        if isinstance(block, TinyVitBlock | SamVisionLayer):
            dim = block.dim if isinstance(block, TinyVitBlock) else block.mlp.lin1.in_features
            block.mlp = AdaptFormer(block.mlp, dim, width)
            added.append(block.mlp)
    if not added:
        raise ValueError(f"segmenter.adapter_width: {type(encoder).__name__} has no transformer blocks; set it to 0")
    return added


def normalise(
    images: Float[Tensor, "images 3 h w"], size: int, resample: Resample = "pillow"
) -> Float[Tensor, "images 3 size size"]:
    """RGB in [0, 1] to a normalised square (bicubic, aspect ratio not kept); `pillow` works on 8-bit pixels."""
    if images.shape[-2:] != (size, size):
        if resample == "pillow" and not images.is_meta:
            images = _as_pillow(images, size)
        else:
            images = functional.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean = images.new_tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = images.new_tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    return (images - mean) / std


def _as_pillow(images: Float[Tensor, "images 3 h w"], size: int) -> Float[Tensor, "images 3 size size"]:
    """Bicubic in 8 bits by the library the original resizes with; torch's kernel differs by a level here and there."""
    import numpy as np
    from PIL import Image

    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    resized = [
        np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)) for picture in pixels
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device, images.dtype) / 255
