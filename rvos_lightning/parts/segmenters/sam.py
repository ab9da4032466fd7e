"""Image SAM and its small variants, one class: TinySAM, MobileSAM, EdgeSAM, SlimSAM, SAM B/L/H, and a small one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.core.seams import Decoded, Pyramid, Segmenter, StageHook
from rvos_lightning.parts.segmenters.aligned import start_decoder
from rvos_lightning.parts.segmenters.sam_encoders import (
    REP_VITS,
    TINY_VITS,
    VITS,
    RepVitEncoder,
    Resample,
    TinyVitEncoder,
    VitEncoder,
    add_adapters,
    normalise,
)
from rvos_lightning.parts.segmenters.sam_keys import key_map, told_by
from rvos_lightning.parts.starting import read_weights
from rvos_lightning.parts.weights import WeightsError, convert, freeze, load_official, refuse_misfit

Variant = Literal[
    "tiny_sam", "mobile_sam", "edge_sam", "slim_sam", "slim_sam_77", "sam_b", "sam_l", "sam_h",
    "small", "small_edge_sam", "small_slim_sam", "small_sam_b",
]  # fmt: skip


@dataclass
class SamMasks:
    """Everything the mask decoder says of one frame: mask 0 for clear prompts, 1 to 3 for ambiguous ones.

    Attributes:
        mask_logits: at a quarter of the input's stride.
        iou: estimated IoU of each mask (after a sigmoid if the decoder has the occlusion head, as SAM-I2V).
        tokens: the decoder's mask tokens.
        presence_logits: is the object there; None without the occlusion head.
    """

    mask_logits: Float[Tensor, "batch 4 h w"]
    iou: Float[Tensor, "batch 4"]
    tokens: Float[Tensor, "batch 4 dim"]
    presence_logits: Float[Tensor, "batch 1"] | None


class Sam(Segmenter):
    """An image SAM; images are squashed to a square of `image_size` (SAM-I2V's way for every variant).

    Args:
        variant: which encoder; the small ones have stride 8 for 64 to 128 px: `small` is a TinyViT (TinySAM and
            MobileSAM), `small_edge_sam` a RepViT, `small_slim_sam` and `small_sam_b` plain ViTs.
        image_size: side of the square the encoder sees; official weights need 1024. Default 1024, 64 for small ones.
        occlusion: add SAM-I2V's object-score token and head, and the sigmoid on the IoU estimates.
        multimask: `decode` returns the best of the three ambiguous masks instead of mask 0.
        weights: the variant's official checkpoint, or the state dict of this class.
        adapter_width: bottleneck of an AdaptFormer in every transformer block of the encoder; 0 for none.
        frozen_encoder: train nothing of the encoder but these adapters.
        resample: `pillow` squashes pictures exactly as released, `torch` on the device, a level off here and there.

    Raises:
        WeightsError: the checkpoint does not fit the variant.
        ValueError: the image size does not fit the stride, or the encoder has no transformer blocks to adapt.
    """

    licence = "SAM, MobileSAM, TinySAM and SlimSAM, weights: Apache-2.0; EdgeSAM: S-Lab License 1.0, non-commercial"

    def __init__(
        self,
        variant: Variant = "tiny_sam",
        image_size: int | None = None,
        occlusion: bool = False,
        multimask: bool = False,
        weights: Path | str | None = None,
        adapter_width: int = 0,
        frozen_encoder: bool = False,
        resample: Resample = "pillow",
    ):
        super().__init__()
        small = variant.startswith("small")
        self.variant, self.weights = variant, weights
        self.image_size = image_size or (64 if small else 1024)
        self.prompt_dim = 64 if small else 256
        self.multimask, self.resample = multimask, resample
        self.encoder, self.family = _build_encoder(variant, self.prompt_dim, self.image_size)
        self.channels = self.encoder.channels
        self.stage_channels = self.encoder.stage_channels
        self.says_presence = occlusion
        self.stride: int = self.encoder.stride
        if self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {variant}'s stride {self.stride}")
        self.grid = self.image_size // self.stride
        self.stage_sides = tuple(self.image_size // stride for stride in self.encoder.stage_strides)
        self.prompt_encoder = _build_prompt_encoder(self.prompt_dim, self.grid, self.image_size)
        self.mask_decoder = _build_mask_decoder(self.prompt_dim, occlusion)
        if small:
            start_decoder(self.mask_decoder)
        if weights is not None:
            read_weights(self, weights, lambda path: self.load_weights(load_official(path)))
        if frozen_encoder:
            freeze(self.encoder)
        if adapter_width:
            add_adapters(self.encoder, adapter_width)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load an official state dict of this variant or one of this class (an occlusion head's numbers only with it).

        Raises:
            WeightsError: keys or shapes do not fit.
        """
        own = self.state_dict()
        try:
            if any(key.startswith(("image_encoder.", "segmenter.", "network.")) for key in state):
                state = convert(state, key_map(self.family), own)
            state = {key: value for key, value in state.items() if key in own or "obj_score" not in key}
            refuse_misfit(state, own, lambda key: "obj_score" in key, what=f"checkpoint for {self.variant}")
        except WeightsError as error:
            raise WeightsError(f"weights for {self.variant}: {told_by(state)} ({error})") from error
        self.load_state_dict({**own, **state})

    def prepare(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 side side"]:
        """Squash to the square (bicubic, in 8 bits) and normalise."""
        return normalise(images, self.image_size, self.resample)

    def encode(self, images: Float[Tensor, "images 3 height width"], after_stage: StageHook | None = None) -> Pyramid:
        """All encoder levels, the prompt-space embedding last; see `seams.Segmenter`."""
        return self.encoder(self.prepare(images), after_stage)

    def run_trunk(
        self, pixels: Float[Tensor, "images 3 side side"], after_stage: StageHook | None = None
    ) -> list[Float[Tensor, "_images _c _h _w"]]:
        """The encoder's stages after the hook, fine to coarse, of prepared images; without the neck's embedding."""
        stages: list[Tensor] = []

        def keep(stage: int, maps: Tensor) -> Tensor:
            stages.append(after_stage(stage, maps) if after_stage else maps)
            return stages[-1]

        self.encoder(pixels, keep)
        return stages

    def decode(
        self,
        features: Pyramid,
        tokens: Float[Tensor, "batch tokens dim"],
        dense: Float[Tensor, "batch dim h w"] | None = None,
    ) -> Decoded:
        """Decode one frame; `dense` is added to the no-mask embedding."""
        base = self.no_mask(len(tokens))
        if dense is not None:
            base = base + functional.interpolate(dense, base.shape[-2:], mode="bilinear", align_corners=False)
        masks = self.decode_masks(features[-1], tokens, base)
        best = masks.iou[:, 1:].argmax(1) + 1 if self.multimask else torch.zeros_like(masks.iou[:, 0]).long()
        rows = torch.arange(len(best), device=best.device)
        presence = None if masks.presence_logits is None else masks.presence_logits[:, 0]
        return Decoded(masks.mask_logits[rows, best], presence, masks.iou[rows, best], masks.tokens[rows, best])

    def decode_masks(
        self,
        embedding: Float[Tensor, "batch dim h w"],
        sparse: Float[Tensor, "batch tokens dim"],
        dense: Float[Tensor, "batch dim h w"],
    ) -> SamMasks:
        """All four masks of one frame."""
        masks, iou, tokens, presence = self.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
        )
        return SamMasks(masks, iou, tokens, presence if self.mask_decoder.pred_obj_scores else None)

    def embed_points(
        self, points: Float[Tensor, "batch points 2"], labels: Int[Tensor, "batch points"]
    ) -> Float[Tensor, "batch points_and_padding dim"]:
        """Clicks (x, y in pixels of the square input) and box corners as tokens, one padding token appended."""
        sparse, _ = self.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        return sparse

    def embed_mask(self, mask_logits: Float[Tensor, "batch 1 h4 w4"]) -> Float[Tensor, "batch dim h w"]:
        """A mask prompt at four times the grid."""
        _, dense = self.prompt_encoder(points=None, boxes=None, masks=mask_logits)
        return dense

    def no_mask(self, batch: int) -> Float[Tensor, "batch dim h w"]:
        """The dense prompt that means "no mask given"."""
        empty = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return empty.expand(batch, -1, self.grid, self.grid)


def _build_encoder(variant: Variant, dim: int, image_size: int) -> tuple[nn.Module, str]:
    """The encoder and its family, which names the key map."""
    if variant in TINY_VITS:
        return TinyVitEncoder(TINY_VITS[variant], dim), "tiny_vit"
    if variant in REP_VITS:
        return RepVitEncoder(REP_VITS[variant], dim), "repvit"
    return VitEncoder(VITS[variant], dim, image_size), "vit"


def _build_prompt_encoder(dim: int, grid: int, image_size: int) -> nn.Module:
    from sam2.modeling.sam.prompt_encoder import PromptEncoder

    return PromptEncoder(dim, (grid, grid), (image_size, image_size), mask_in_chans=16)


def _build_mask_decoder(dim: int, occlusion: bool) -> nn.Module:
    """SAM's decoder; with `occlusion` the object-score token comes first and IoU goes through a sigmoid."""
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.transformer import TwoWayTransformer

    return MaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=dim // 32, mlp_dim=8 * dim),
        iou_head_hidden_dim=dim,
        iou_prediction_use_sigmoid=occlusion,
        pred_obj_scores=occlusion,
        pred_obj_scores_mlp=occlusion,
        use_multimask_token_for_obj_ptr=True,
    )
