"""Sizes of SAM 2 and the modules of the `sam2` package built from them; imported only by `sam2.py`.

Importing the package sets up Hydra's global state, so every import of it is inside a function here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from rvos_lightning.parts.segmenters.aligned import start_decoder, start_memory

Variant = Literal["hiera_t", "hiera_s", "hiera_b+", "hiera_l", "narrow"]


@dataclass(frozen=True)
class Sam2Size:
    """Widths and depths; the defaults are those of Hiera-T (sam2 package, configs/sam2/sam2_hiera_t.yaml).

    Attributes:
        embed_dim: channels of the first trunk stage; they double at each of the three next.
        heads: attention heads of the first stage; they double too.
        stages: blocks per stage.
        global_blocks: blocks with global instead of windowed attention.
        windows: window side per stage, in tokens.
        position_size: grid of the coarse position embedding.
        patch_stride: pixels per token of the first stage.
        hidden: width of neck, prompts and decoder.
        memory_width: channels of a spatial memory.
        memory_layers: layers of memory attention.
        memory_mlp: width of their MLPs.
        decoder_mlp: width of the MLPs in the two-way decoder.
        decoder_heads: heads of the two-way decoder.
        dropout: of memory attention.
        fuser_scale: initial layer scale of the memory encoder's blocks.
        aligned: start so that clicks attend to their own place, and every place to its own in memory (ours).
    """

    embed_dim: int = 96
    heads: int = 1
    stages: tuple[int, int, int, int] = (1, 2, 7, 2)
    global_blocks: tuple[int, ...] = (5, 7, 9)
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    position_size: tuple[int, int] = (7, 7)
    patch_stride: int = 4
    hidden: int = 256
    memory_width: int = 64
    memory_layers: int = 4
    memory_mlp: int = 2048
    decoder_mlp: int = 2048
    decoder_heads: int = 8
    dropout: float = 0.1
    fuser_scale: float = 1e-6
    aligned: bool = False

    @property
    def levels(self) -> tuple[int, int, int]:
        """Channels of the decoder's three feature maps, fine to coarse."""
        return (self.hidden // 8, self.hidden // 4, self.hidden)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four trunk stages."""
        return (self.embed_dim, self.embed_dim * 2, self.embed_dim * 4, self.embed_dim * 8)


SIZES: dict[str, Sam2Size] = {
    "hiera_t": Sam2Size(),
    "hiera_s": Sam2Size(stages=(1, 2, 11, 2), global_blocks=(7, 10, 13)),
    "hiera_b+": Sam2Size(112, 2, (2, 3, 16, 3), (12, 16, 20), position_size=(14, 14)),
    "hiera_l": Sam2Size(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8)),
    "narrow": Sam2Size(  # ours, as published but narrow: `small/sam2`, made for 64 px
        embed_dim=16,
        stages=(1, 1, 2, 1),
        global_blocks=(3,),
        windows=(8, 8, 8, 4),
        patch_stride=2,
        hidden=64,
        memory_width=32,
        memory_layers=1,
        memory_mlp=128,
        decoder_mlp=128,
        decoder_heads=4,
        dropout=0.0,
        fuser_scale=0.1,
        aligned=True,
    ),
}

BLOCKS = {sum(SIZES[name].stages): name for name in ("hiera_t", "hiera_s", "hiera_b+", "hiera_l")}


def variant_of(keys: Iterable[str]) -> str | None:
    """The published trunk that a checkpoint's keys belong to, by its number of blocks; None: none of them."""
    found = (re.search(r"image_encoder\.trunk\.blocks\.(\d+)\.", key) for key in keys)
    return BLOCKS.get(1 + max((int(match[1]) for match in found if match), default=-1))


def told_by(keys: Iterable[str]) -> str:
    """What a checkpoint's keys say that it is, and the flags that go with it."""
    keys = list(keys)
    if any(key.startswith(("segmenter.", "network.segmenter.")) for key in keys):
        return "it holds a whole network: give it to --model.weights"
    variant, version = variant_of(keys), "2.1" if "no_obj_embed_spatial" in keys else "2.0"
    if variant is None:
        return "it is no published file of SAM 2: set segmenter.variant and version as it was made with"
    flags = f"--model.network.segmenter.variant {variant} --model.network.segmenter.version {version}"
    return f"it is SAM {version} with {variant}: {flags}"


HUB_FILES = {  # hub id -> file, as in sam2/build_sam.py
    f"facebook/sam2{dot}-hiera-{long}": f"sam2{dot}_hiera_{short}.pt"
    for dot in ("", ".1")
    for long, short in (("tiny", "tiny"), ("small", "small"), ("base-plus", "base_plus"), ("large", "large"))
}


def image_encoder(size: Sam2Size) -> nn.Module:
    """Hiera trunk and FPN neck; built on the CPU because the trunk reads numbers back from tensors."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.backbones.utils import PatchEmbed
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    from rvos_lightning.parts.segmenters.hiera import on_real_cells

    with torch.device("cpu"):
        trunk = Hiera(
            embed_dim=size.embed_dim,
            num_heads=size.heads,
            stages=size.stages,
            global_att_blocks=size.global_blocks,
            window_spec=size.windows,
            window_pos_embed_bkg_spatial_size=size.position_size,
        )
    if size.patch_stride != 4:
        stride = (size.patch_stride, size.patch_stride)
        trunk.patch_embed = PatchEmbed(stride=stride, embed_dim=size.embed_dim)
    trunk.to(torch.get_default_device())
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=size.hidden),
        d_model=size.hidden,
        backbone_channel_list=list(size.channels[::-1]),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return ImageEncoder(trunk=on_real_cells(trunk), neck=neck, scalp=1)


def memory_attention(size: Sam2Size, grid: int) -> nn.Module:
    """Rotary self- and cross-attention to memories, on a `grid` x `grid` map."""
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.sam.transformer import RoPEAttention

    shared = {"embedding_dim": size.hidden, "num_heads": 1, "dropout": size.dropout, "feat_sizes": (grid, grid)}
    layer = MemoryAttentionLayer(
        activation="relu",
        d_model=size.hidden,
        dim_feedforward=size.memory_mlp,
        dropout=size.dropout,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(**shared),
        cross_attention=RoPEAttention(rope_k_repeat=True, kv_in_dim=size.memory_width, **shared),
    )
    attention = MemoryAttention(d_model=size.hidden, pos_enc_at_input=True, layer=layer, num_layers=size.memory_layers)
    if size.aligned:
        for built in attention.layers:
            start_memory(built.cross_attn_image)
    return attention


def memory_encoder(size: Sam2Size, stride: int) -> nn.Module:
    """Mask down-sampler (by `stride`), fuser and projection to the memory width."""
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    block = CXBlock(dim=size.hidden, layer_scale_init_value=size.fuser_scale)
    return MemoryEncoder(
        out_dim=size.memory_width,
        in_dim=size.hidden,
        mask_downsampler=MaskDownSampler(
            embed_dim=size.hidden, kernel_size=3, stride=2, padding=1, total_stride=stride
        ),
        fuser=Fuser(block, num_layers=2),
        position_encoding=PositionEmbeddingSine(num_pos_feats=size.memory_width),
    )


def prompt_encoder(size: Sam2Size, image_size: int, grid: int) -> nn.Module:
    """Points, boxes, masks and the dense position code."""
    from sam2.modeling.sam.prompt_encoder import PromptEncoder

    return PromptEncoder(
        embed_dim=size.hidden,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )


def mask_decoder(size: Sam2Size, object_scores: bool) -> nn.Module:
    """Two-way decoder with four mask tokens, high-resolution features and, if asked, the object-score head."""
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.transformer import TwoWayTransformer

    transformer = TwoWayTransformer(
        depth=2, embedding_dim=size.hidden, num_heads=size.decoder_heads, mlp_dim=size.decoder_mlp
    )
    decoder = MaskDecoder(
        transformer_dim=size.hidden,
        transformer=transformer,
        iou_head_hidden_dim=size.hidden,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=object_scores,
        pred_obj_scores_mlp=object_scores,
        use_multimask_token_for_obj_ptr=True,
    )
    if size.aligned:
        start_decoder(decoder)
    return decoder


def pointer_mlp(size: Sam2Size) -> nn.Module:
    """Decoder token -> object pointer."""
    from sam2.modeling.sam2_utils import MLP

    return MLP(size.hidden, size.hidden, size.hidden, 3)


def small_numbers(*shape: int) -> nn.Parameter:
    """Codes and embeddings as SAM 2 starts them."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
