"""The trained bridge between frozen encoders: dense map and sparse token for SAM's decoder, queries beside it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.systems.clip_sam.outputs import QueryOutput
from rvos_lightning.systems.clip_sam.pixel_decoder import EncoderKind, PixelDecoder
from rvos_lightning.systems.clip_sam.presets import Preset
from rvos_lightning.systems.clip_sam.pwam import Pwam
from rvos_lightning.systems.clip_sam.pyramid import SimplePyramid
from rvos_lightning.systems.clip_sam.queries import Dfam, Names
from rvos_lightning.systems.clip_sam.sparse_token import SparseToken


@dataclass
class ImageFeatures:
    """What the frozen encoders see in an image; the feature cache holds the same.

    Attributes:
        sam: SAM's embedding.
        clip: CLIP's patches.
    """

    sam: Float[Tensor, "images c h w"]
    clip: Float[Tensor, "images patches vision"]


@dataclass
class TextFeatures:
    """What is read in the sentences.

    Attributes:
        words: word states, projected to the bridge's width.
        real: False on padding.
        clip: CLIP's vector of every sentence.
        query: what the sparse token starts from.
    """

    words: Float[Tensor, "texts words c"]
    real: Bool[Tensor, "texts words"]
    clip: Float[Tensor, "texts text"]
    query: Float[Tensor, "texts c"]


@dataclass
class Sizes:
    """Sizes of the bridge; the defaults are the published ones.

    Attributes:
        queries: of the query module.
        layers: of the query module, at least 3.
        pixel_layers: attention layers of the pixel decoder.
        heads: attention heads everywhere.
        hidden: width of feed-forward layers.
        pyramid: channels of CLIP's pyramid; 0: the preset's.
        pixel_encoder: deformable or dense attention in the pixel decoder.
    """

    queries: int = 100
    layers: int = 3
    pixel_layers: int = 6
    heads: int = 8
    hidden: int = 1024
    pyramid: int = 0
    pixel_encoder: EncoderKind = "deformable"


@dataclass
class Bridged:
    """What the bridge says of every pair.

    Attributes:
        outputs: of the queries; empty where they were not asked.
        target_logits: there is a target, there is none.
        dense: the dense map.
        sparse: the sparse token.
    """

    outputs: list[QueryOutput]
    target_logits: Float[Tensor, "pairs 2"] | None
    dense: Float[Tensor, "pairs c _h _w"]
    sparse: Float[Tensor, "pairs 1 c"]


class Bridge(nn.Module):
    """Everything trained but the text encoder and SAM's decoder.

    Args:
        width: channels, SAM's prompt width.
        vision: channels of CLIP's patches.
        text: channels of CLIP's texts.
        sizes: see `Sizes`.
        preset: see `Preset`.
        no_target: with the no-target head.
        pool: how that head looks over the queries.
        language_feedback: see `Dfam`.
    """

    def __init__(
        self,
        width: int,
        vision: int,
        text: int,
        sizes: Sizes,
        preset: Preset,
        no_target: bool = False,
        pool: str = "max",
        language_feedback: bool = False,
    ) -> None:
        super().__init__()
        self.preset = preset
        pyramid = sizes.pyramid or preset.pyramid_width or width
        self.fusion = Pwam(vision, width)
        self.clip_pyramid = SimplePyramid(width, pyramid, doubled=True)
        self.pixel_decoder = PixelDecoder(
            pyramid, width, sizes.pixel_layers, sizes.heads, sizes.hidden, sizes.pixel_encoder, preset.bottleneck
        )
        self.sam_pyramid = SimplePyramid(width, width, doubled=False)
        self.queries = Dfam(
            width, text, sizes.queries, sizes.layers, sizes.heads, sizes.hidden, no_target, pool,
            language_feedback, preset.logit_scale, preset.clamp,
        )  # fmt: skip
        self.sparse = SparseToken(width, sizes.heads, sizes.hidden)
        self.gate = None if preset.gate is None else nn.Parameter(torch.full((width,), preset.gate))

    def forward(
        self,
        images: ImageFeatures,
        texts: TextFeatures,
        image: Int[Tensor, "pairs"],
        text: Int[Tensor, "pairs"],
        names: Names | None,
    ) -> Bridged:
        """The prompts of every pair, and what the queries find.

        Args:
            images: each computed once, however many sentences look at it.
            texts: each read once, however many frames it is looked for in.
            image: which image each pair looks at.
            text: which sentence each pair looks for.
            names: what the queries are compared with; None skips the query module, which changes no mask.
        """
        words, real = texts.words[text], texts.real[text]
        scales, dense = self.dense(images.clip, words, real, image)
        sparse = self.sparse(texts.query[text], words, None if self.preset.reads_padding else real)
        outputs, absent = [], None
        if names is not None:
            levels = tuple(reversed(self.sam_pyramid(images.sam)))
            outputs, absent = self.queries(images.sam, levels, scales, names, image)
        return Bridged(outputs, absent, dense, sparse)

    def dense(
        self,
        patches: Float[Tensor, "images patches vision"],
        words: Float[Tensor, "pairs words c"],
        real: Bool[Tensor, "pairs words"],
        image: Int[Tensor, "pairs"],
    ) -> tuple[tuple[Tensor, ...], Float[Tensor, "pairs c _h _w"]]:
        """CLIP's maps for the queries, coarse to fine, and the dense map."""
        fused = self.fusion(self.fusion.look(patches), words, real, image)
        side = round(fused.shape[1] ** 0.5)
        return self.pixel_decoder(self.clip_pyramid(fused.transpose(1, 2).unflatten(2, (side, side))))

    def prompt(
        self, dense: Float[Tensor, "pairs c _h _w"], grid: tuple[int, int], no_mask: Float[Tensor, "c"]
    ) -> Float[Tensor, "pairs c h w"]:
        """The dense map as a mask decoder of that grid takes it; `no_mask` is what it would get without a map."""
        mode = "bicubic" if self.preset.bicubic else "bilinear"
        dense = functional.interpolate(dense, grid, mode=mode, align_corners=False)
        return dense if self.gate is None else no_mask.view(-1, 1, 1) + self.gate[:, None, None] * dense
