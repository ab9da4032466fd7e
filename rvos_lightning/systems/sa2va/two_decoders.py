"""SAM 2 with two mask decoders on one image encoder: the finetuned one follows language, the original one masks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rvos_lightning.core.seams import Decoded
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.segmenters.sam2_build import Variant
from rvos_lightning.parts.starting import started
from rvos_lightning.parts.weights import freeze, located, mark_reproducible
from rvos_lightning.systems.sa2va.tiling import Normalisation, normalise, resize_frames

Role = Literal["finetuned", "original"]
# What the published training changes: the mask decoder, less the heads that no loss reaches.
FINETUNED_PARTS = (
    "sam_mask_decoder.transformer",
    "sam_mask_decoder.output_upscaling",
    *(f"sam_mask_decoder.output_hypernetworks_mlps.{mask}" for mask in (1, 2, 3)),
    "sam_mask_decoder.conv_s0",
    "sam_mask_decoder.conv_s1",
    "sam_mask_decoder.mask_tokens",
    "sam_mask_decoder.iou_token",
    "sam_mask_decoder.obj_score_token",
)


@dataclass
class FrameMaps:
    """Image features of some frames before the two high-resolution convolutions, which belong to a decoder."""

    coarse: Float[Tensor, "images dim h w"]
    stages: tuple[Float[Tensor, "images c0 h4 w4"], Float[Tensor, "images c1 h2 w2"]]

    def select(self, images: Tensor | slice) -> "FrameMaps":
        """Some of the frames."""
        return FrameMaps(self.coarse[images], (self.stages[0][images], self.stages[1][images]))


class TwoDecoderSam2(Sam2):
    """Sa2VA's grounding encoder: frozen SAM 2.0, a mask decoder that is finetuned, and its original beside it.

    Args:
        variant: published with SAM 2.0 large.
        trainable: see `Sam2`; published: the first mask decoder.
        train_original: train the second decoder and all memory modules too (a tracker made from nothing).
        half_positions: compute the dense position code in bfloat16, as training and the released inference do.
        normalisation: `train` is exact; `video` and `image` round as the released chat code does.
        resample: `pillow` resamples pictures as the released code does; `torch` is faster and close.
        second_decoder: False for a Sa2VA checkpoint, which has no original decoder and cannot do Sa2VA-i.
        multimask: take the best of three masks by estimated IoU, as published; else the single mask, for a segmenter
            that has learnt no other (`small/sam2`).
        options: of `Sam2`.
    """

    def __init__(
        self,
        variant: Variant = "hiera_l",
        trainable: Sequence[str] = FINETUNED_PARTS,
        train_original: bool = False,
        half_positions: bool = True,
        normalisation: Normalisation = "train",
        resample: Literal["torch", "pillow"] = "torch",
        second_decoder: bool = True,
        multimask: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(variant, trainable=trainable, multimask=multimask, fit="stretch", **options)
        # `options` is read by `get` alone, or jsonargparse would also offer what is given to `super` here.
        if options.get("weights") is None:  # no loss reaches this head: at random it would mix the three masks
            for parameter in self.sam_mask_decoder.iou_prediction_head.layers[-1].parameters():
                nn.init.zeros_(parameter)
        elif (start := started()) is not None and not start.holds("original_decoder."):
            second_decoder = located(str(options.get("weights"))).exists()  # then it is read from there
        self.original_decoder: Any = copy.deepcopy(self.sam_mask_decoder) if second_decoder else None
        self.half_positions, self.normalisation, self.resample = half_positions, normalisation, resample
        if train_original:
            self._train_tracker()
        elif second_decoder:
            freeze(self.original_decoder)
        self._mark_children()

    def load_weights(self, weights: str) -> None:
        """See `Sam2`; both decoders start as the file's one."""
        second = self.__dict__["_modules"].pop("original_decoder", None)
        super().load_weights(weights)
        self.original_decoder = second
        if second is not None:
            second.load_state_dict(self.sam_mask_decoder.state_dict())
        self._mark_children()

    def _mark_children(self) -> None:
        if source := getattr(self, "weights_source", None):
            for child in self.children():
                mark_reproducible(child, source)

    def _train_tracker(self) -> None:
        trackers = (self.memory_attention, self.memory_encoder, self.mask_downsample, self.sam_prompt_encoder)
        for module in (*trackers, self.obj_ptr_proj, self.original_decoder):
            module.requires_grad_(True)
        for parameter in (self.maskmem_tpos_enc, self.no_mem_embed, self.no_obj_ptr):
            parameter.requires_grad_(True)

    def maps(self, frames: Float[Tensor, "images 3 height width"]) -> FrameMaps:
        """Encode RGB in [0, 1], squashed to the square; no graph is kept where the encoder is frozen."""
        training = any(p.requires_grad for p in self.image_encoder.parameters())
        with torch.set_grad_enabled(training and torch.is_grad_enabled()):
            square = resize_frames(frames, self.image_size, self.resample)
            if self.normalisation == "train":
                pixels = self.prepare(square)
            else:
                pixels = normalise((square * 255).round().byte(), self.normalisation).to(frames.dtype)
            return self.maps_of_pixels(pixels)

    def maps_of_pixels(self, pixels: Float[Tensor, "images 3 side side"]) -> FrameMaps:
        """Encode normalised pixels."""
        stages = self.run_trunk(pixels)
        lateral = [layer.conv for layer in self.image_encoder.neck.convs]
        above = F.interpolate(lateral[0](stages[3]).float(), scale_factor=2.0, mode="nearest")
        return FrameMaps(lateral[1](stages[2]) + above, (stages[0], stages[1]))

    def decoder(self, role: Role) -> Any:
        """The finetuned or the original mask decoder.

        Raises:
            ValueError: the original one is asked for and not there.
        """
        if role == "original" and self.original_decoder is None:
            raise ValueError(
                "Sa2VA-i inference needs the original mask decoder, this checkpoint has one decoder only: convert it "
                "with `rvos convert sa2va_i`, or use --model.network.inference sa2va"
            )
        return self.sam_mask_decoder if role == "finetuned" else self.original_decoder

    def fine(self, maps: FrameMaps, role: Role) -> list[Float[Tensor, "images _c _h _w"]]:
        """High-resolution features for one decoder: its own 1x1 convolutions after the lateral ones.

        Not merged into one convolution: rounding would flip pixels of the released masks.
        """
        decoder, lateral = self.decoder(role), [layer.conv for layer in self.image_encoder.neck.convs]
        return [decoder.conv_s0(lateral[3](maps.stages[0])), decoder.conv_s1(lateral[2](maps.stages[1]))]

    def dense_position(self) -> Float[Tensor, "1 dim h w"]:
        """The dense position code, in float32 or as bfloat16 training saw it."""
        if not self.half_positions:
            return super().dense_position()
        matrix = self.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        return half_position_code(matrix, self.grid).to(matrix.dtype)

    def decode_language(
        self,
        coarse: Float[Tensor, "batch dim h w"],
        fine: Sequence[Float[Tensor, "batch _c _h _w"]],
        tokens: Float[Tensor, "batch tokens dim"] | None,
        role: Role = "finetuned",
    ) -> Decoded:
        """The best of three masks by estimated IoU, or the single one; when tracking from no language tokens.

        Args:
            coarse: after memory attention or `no_memory`.
            fine: from `fine(..., role)`.
            tokens: language prompt; two empty points precede it.
            role: which decoder.
        """
        sparse = self.sam_prompt_encoder.not_a_point_embed.weight.expand(len(coarse), 2, -1)
        if tokens is not None:
            sparse = torch.cat([sparse, tokens.to(sparse.dtype)], 1)
        masks, iou, mask_tokens, score = self.decoder(role)(
            image_embeddings=coarse,
            image_pe=self.dense_position(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=self.sam_prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            multimask_output=self.multimask,
            repeat_image=False,
            high_res_features=list(fine),
        )
        best, rows = iou.argmax(1), torch.arange(len(iou), device=iou.device)
        return Decoded(masks[rows, best].float(), score[:, 0].float(), iou[rows, best], mask_tokens[rows, best])

    def pointer_of_mask(
        self,
        coarse: Float[Tensor, "batch dim h w"],
        fine: Sequence[Float[Tensor, "batch _c _h _w"]],
        masks: Float[Tensor, "batch side side"],
    ) -> Float[Tensor, "batch dim"]:
        """Object pointer of a given mask: the original decoder with the mask as dense prompt, single-mask token.

        An empty mask, or a low object score, gives the learned "no object" pointer.
        """
        sparse = self.sam_prompt_encoder.not_a_point_embed.weight.expand(len(coarse), 2, -1)
        # Four decoder pixels per pixel of the prompt encoder's mask: the square's own size at stride 4.
        side = (16 * self.grid, 16 * self.grid)
        exact = masks[:, None] if masks.shape[-2:] == side else F.interpolate(masks[:, None], side, mode="nearest")
        dense = self.sam_prompt_encoder.mask_downscaling(self.mask_downsample(exact))
        _, _, tokens, score = self.decoder("original")(
            image_embeddings=coarse,
            image_pe=self.dense_position(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=False,
            high_res_features=list(fine),
        )
        pointer = self.pointer(Decoded(masks, score[:, 0], None, tokens[:, 0]))
        return torch.where(masks.flatten(1).any(1)[:, None], pointer, self.no_obj_ptr.to(pointer.dtype))


def half_position_code(matrix: Float[Tensor, "2 half"], grid: int) -> Float[Tensor, "1 dim grid grid"]:
    """The random Fourier code of every cell, with matrix and coordinates in bfloat16."""
    steps = ((torch.arange(grid, device=matrix.device) + 0.5) / grid).bfloat16()
    xy = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    angles = 2 * np.pi * ((2 * xy - 1) @ matrix.bfloat16())
    return torch.cat([angles.sin(), angles.cos()], -1).permute(2, 0, 1)[None]
