"""SAM 2 and 2.1 as a promptable segmenter with memory, on the modules of the `sam2` package.

State-dict keys are exactly Meta's, so that their files load as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rvos_lightning.core.bounds import FromZero
from rvos_lightning.core.seams import Decoded, Pyramid, StageHook, VideoSegmenter
from rvos_lightning.parts.layers.lean import lean_where_frozen
from rvos_lightning.parts.segmenters import sam2_build as build
from rvos_lightning.parts.segmenters.sam2_build import HUB_FILES, SIZES, Sam2Size, Variant
from rvos_lightning.parts.starting import read_weights
from rvos_lightning.parts.weights import freeze, load_official, mark_reproducible, refuse_misfit

ABSENT = -1024.0  # logit of every pixel when the object is said to be absent (sam2_base.py NO_OBJ_SCORE)
MEMORY_SCALE, MEMORY_BIAS = 20.0, -10.0  # mask probabilities on their way into memory (sam2 configs)


@dataclass
class Sam2Decoded(Decoded):
    """What SAM 2's decoder yields besides.

    Attributes:
        early_token: the single-mask token after the first two-way block (SAMWISE's memory encoder reads it).
    """

    early_token: Float[Tensor, "batch dim"] | None = None


class Sam2(VideoSegmenter):
    """Hiera image encoder, prompt encoder, mask decoder and memory modules of SAM 2.

    Args:
        variant: published trunk, or `narrow` (ours, as published at a quarter of the width and less: `small/sam2`).
        version: 2.1 adds time codes to pointers and an embedding for absent objects in memory.
        image_size: side in pixels of the square the encoder sees.
        weights: a file of Meta's or of ours, or a hub id such as facebook/sam2-hiera-base-plus; None: random.
        frozen: no gradients.
        trainable: names of submodules or parameters that train although the rest is frozen, e.g. ["sam_mask_decoder"].
        frozen_dropout: frozen parts keep dropout in training, as the official SAMWISE leaves them.
        object_scores: the decoder says whether the object is there (SAMWISE turns it off for RefCOCO).
        multimask: decode three masks and take the one with the highest estimated IoU; else the single-mask token.
        empty_points: empty points that accompany a prompt: 2 with language, 1 with a box or clicks, as SAM 2 sends
            them; a frame without any prompt always has 2.
        fit: `pad` frames right and bottom to the square, or `stretch` them to it.
        checkpointing: recompute trunk blocks and memory attention in the backward pass: half of the memory.
        size: own widths and depths instead of the variant's.
        pixel_mean: colour that becomes 0 after normalisation.
        pixel_std: scale of each channel.

    Raises:
        ValueError: image_size is no multiple of the coarsest stride, or trainable names no submodule.
        WeightsError: the weights do not fit.
    """

    licence = "SAM 2, code and weights: Apache-2.0"

    def __init__(
        self,
        variant: Variant = "hiera_b+",
        version: Literal["2.0", "2.1"] = "2.0",
        image_size: int = 1024,
        weights: str | None = None,
        frozen: bool = True,
        trainable: Sequence[str] = (),
        frozen_dropout: bool = False,
        object_scores: bool = True,
        multimask: bool = False,
        empty_points: FromZero = 2,
        fit: Literal["pad", "stretch"] = "pad",
        checkpointing: bool = False,
        size: Sam2Size | None = None,
        pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        size = size or SIZES[variant]
        stride = size.patch_stride * 4
        if image_size % (stride * 2):
            raise ValueError(f"Sam2 image_size {image_size} is no multiple of {stride * 2}, its coarsest stride")
        self.image_size, self.version, self.object_scores = image_size, version, object_scores
        self.multimask, self.fit, self.checkpointing = multimask, fit, checkpointing
        self.empty_points = empty_points
        self.grid, self.stride = image_size // stride, stride
        self.prompt_dim, self.memory_width = size.hidden, size.memory_width
        self.channels = size.levels
        self.stage_channels = size.channels
        self.stage_sides = tuple(image_size // (size.patch_stride * 2**stage) for stage in range(4))
        self.says_presence = object_scores
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        self._add_modules(size, stride)
        if weights is not None:
            read_weights(self, weights, self.load_weights)
        self._freeze(frozen, trainable, frozen_dropout)

    def _add_modules(self, size: Sam2Size, stride: int) -> None:
        self.image_encoder = build.image_encoder(size)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.memory_attention = build.memory_attention(size, self.grid)
        self.memory_encoder = build.memory_encoder(size, stride)
        self.sam_prompt_encoder = build.prompt_encoder(size, self.image_size, self.grid)
        self.sam_mask_decoder = build.mask_decoder(size, self.object_scores)
        self.obj_ptr_proj = build.pointer_mlp(size)
        self.maskmem_tpos_enc = build.small_numbers(7, 1, 1, size.memory_width)
        self.no_mem_embed = build.small_numbers(1, 1, size.hidden)
        self.no_mem_pos_enc = build.small_numbers(1, 1, size.hidden)
        if self.object_scores:
            self.no_obj_ptr = build.small_numbers(1, size.hidden)
        if self.version == "2.1":
            self.obj_ptr_tpos_proj = nn.Linear(size.hidden, size.memory_width)
            self.no_obj_embed_spatial = build.small_numbers(1, size.memory_width)

    def load_weights(self, weights: str) -> None:
        """Read a file of Meta's or of ours, or a hub id.

        Raises:
            WeightsError: it does not fit.
        """
        if not (path := Path(weights)).exists() and weights in HUB_FILES:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(repo_id=weights, filename=HUB_FILES[weights]))
        state, own = load_official(path), self.state_dict()
        if not self.object_scores:
            state = {
                key: value for key, value in state.items() if key in own or "obj" not in key.rsplit("decoder.")[-1]
            }
        refuse_misfit(state, own, what=str(path), remedy=build.told_by(state))
        self.load_state_dict(state)
        mark_reproducible(self, str(path))

    def _freeze(self, frozen: bool, trainable: Sequence[str], dropout: bool) -> None:
        named = {**dict(self.named_modules()), **dict(self.named_parameters())}
        if unknown := [name for name in trainable if name not in named]:
            raise ValueError(f"Sam2 has no submodule {unknown[0]}; e.g. sam_mask_decoder, memory_attention")
        if frozen:
            freeze(self, train_mode=dropout or bool(trainable))
            for name in trainable:
                named[name].requires_grad_(True)
        lean_where_frozen(self.memory_attention.layers)

    # Image encoder

    def encode(self, images: Float[Tensor, "images 3 height width"], after_stage: StageHook | None = None) -> Pyramid:
        """Features at strides 4, 8 and 16 (the finer two already through the decoder's own 1x1 convs).

        A hook may return more images than it got (one per expression instead of one per video): the levels taken
        from earlier stages then keep the smaller number. Images of stages 3 and 4 must agree.
        """
        stages = self.run_trunk(self.prepare(images), after_stage)
        convs, decoder = [layer.conv for layer in self.image_encoder.neck.convs], self.sam_mask_decoder
        coarse = F.interpolate(convs[0](stages[3]).float(), scale_factor=2.0, mode="nearest")
        return (
            _merged_conv(stages[0], convs[3], decoder.conv_s0),
            _merged_conv(stages[1], convs[2], decoder.conv_s1),
            convs[1](stages[2]) + coarse,
        )

    def prepare(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 side side"]:
        """Normalise, then pad (zeros; what exceeds the square is cut off) or stretch to the square."""
        mean, std = (images.new_tensor(value).view(1, 3, 1, 1) for value in (self.pixel_mean, self.pixel_std))
        pixels, side = (images - mean) / std, self.image_size
        if pixels.shape[-2:] == (side, side):
            return pixels
        if self.fit == "stretch":
            return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=pixels.shape[-1] > side)
        return F.pad(pixels, (0, side - pixels.shape[-1], 0, side - pixels.shape[-2]))

    def run_trunk(
        self, pixels: Float[Tensor, "images 3 side side"], after_stage: StageHook | None = None
    ) -> list[Float[Tensor, "_images _c _h _w"]]:
        """The four stages' outputs after the hook, fine to coarse."""
        trunk = self.image_encoder.trunk
        x = trunk.patch_embed(pixels)
        grid = x.shape[1:3]
        window = trunk.pos_embed_window
        position = F.interpolate(trunk.pos_embed, size=grid, mode="bicubic")
        position = position + window.tile(1, 1, grid[0] // window.shape[-2], grid[1] // window.shape[-1])
        x, stages = x + position.permute(0, 2, 3, 1), []
        for index, block in enumerate(trunk.blocks):
            x = self._recomputed(block, x)
            if index in trunk.stage_ends:
                output = x.permute(0, 3, 1, 2)
                if after_stage is not None:
                    output = after_stage(len(stages), output)
                    x = output.permute(0, 2, 3, 1)
                stages.append(output)
        return stages

    # Prompt encoder and mask decoder

    def dense_position(self) -> Float[Tensor, "1 dim h w"]:
        """The prompt encoder's random Fourier code of every cell of the coarsest map."""
        return self.sam_prompt_encoder.get_dense_pe()

    def queries(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch queries dim"]:
        """Decoder tokens, then the sparse prompt: the empty points and the given tokens."""
        decoder = self.sam_mask_decoder
        score = [decoder.obj_score_token.weight] if self.object_scores else []
        empty = [self.sam_prompt_encoder.not_a_point_embed.weight] * (self.empty_points if tokens.shape[1] else 2)
        fixed = torch.cat([*score, decoder.iou_token.weight, decoder.mask_tokens.weight, *empty])
        return torch.cat([fixed.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)

    def embed_points(
        self, points: Float[Tensor, "batch points 2"], labels: Int[Tensor, "batch points"], frame_size: tuple[int, int]
    ) -> Float[Tensor, "batch points dim"]:
        """Prompt tokens of clicks (labels 1 and 0) and box corners (2 and 3).

        Args:
            points: x, y in pixels of a frame.
            labels: of the points.
            frame_size: height and width of that frame.
        """
        if self.fit == "stretch":
            points = points * points.new_tensor([self.image_size / side for side in frame_size[::-1]])
        return self.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)[0][:, : points.shape[1]]

    def box_tokens(self, boxes: Float[Tensor, "batch 4"], frame_size: tuple[int, int]) -> Float[Tensor, "batch 2 dim"]:
        """Prompt tokens of boxes (left, top, right, bottom, in pixels of a frame of that height and width)."""
        labels = torch.tensor([2, 3], device=boxes.device).expand(len(boxes), 2)  # top-left, bottom-right
        return self.embed_points(boxes.view(-1, 2, 2), labels, frame_size)

    def dense_prompts(
        self, masks: Float[Tensor, "batch height width"], there: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch dim h w"]:
        """Dense prompts of masks on frames, "no mask" for items without one.

        Args:
            masks: 0 to 1, of frames.
            there: which items have one.
        """
        encoder, side = self.sam_prompt_encoder, 4 * self.grid
        if self.fit == "pad":
            height, width = masks.shape[-2:]
            masks = F.pad(masks, (0, self.image_size - width, 0, self.image_size - height))
        logits = F.interpolate(masks[:, None], (side, side), mode="bilinear", antialias=True)
        dense = encoder(points=None, boxes=None, masks=logits * MEMORY_SCALE + MEMORY_BIAS)[1]
        return torch.where(there.view(-1, 1, 1, 1), dense, encoder.no_mask_embed.weight.view(1, -1, 1, 1))

    def decode(
        self,
        features: Pyramid,
        tokens: Float[Tensor, "batch tokens dim"],
        dense: Float[Tensor, "batch dim h w"] | None = None,
        multimask: bool | None = None,
    ) -> Sam2Decoded:
        """Masks at stride 4 of the square; `dense` None means SAM 2's "no mask" embedding.

        Args:
            features: as `encode` gives them, the coarsest after memory (or `no_memory`).
            tokens: the language prompt.
            dense: a dense prompt instead of "no mask".
            multimask: overrides the constructor's choice.
        """
        fine, middle, pixels = features
        decoder, first = self.sam_mask_decoder, int(self.object_scores)
        if dense is None:
            dense = self.sam_prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        hidden, pixels, early = self._two_way(pixels + dense, self.queries(tokens))
        deconv1, norm, act1, deconv2, act2 = decoder.output_upscaling
        pixels = act2(deconv2(act1(norm(deconv1(pixels) + middle))) + fine)
        iou = decoder.iou_prediction_head(hidden[:, first])
        mask_tokens = hidden[:, first + 1 : first + 1 + decoder.num_mask_tokens]
        wanted = slice(1, None) if (self.multimask if multimask is None else multimask) else slice(0, 1)
        heads = zip(decoder.output_hypernetworks_mlps[wanted], mask_tokens[:, wanted].unbind(1), strict=True)
        kernels = torch.stack([head(token) for head, token in heads], dim=1)
        masks = torch.einsum("bnc,bchw->bnhw", kernels, pixels).float()
        best = iou[:, wanted].argmax(1)
        rows = torch.arange(len(best), device=best.device)
        return Sam2Decoded(
            mask_logits=masks[rows, best],
            presence_logits=decoder.pred_obj_score_head(hidden[:, 0])[:, 0].float() if first else None,
            iou=iou[:, wanted][rows, best],
            token=mask_tokens[:, wanted][rows, best],
            early_token=early[:, first + 1],
        )

    def _two_way(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The package's two-way transformer, opened up for the tokens after its first block."""
        transformer, shape = self.sam_mask_decoder.transformer, pixels.shape
        keys, code = pixels.flatten(2).transpose(1, 2), self.dense_position().flatten(2).transpose(1, 2)
        code = code.to(keys.dtype)
        hidden, early = tokens, None
        for layer in transformer.layers:
            hidden, keys = layer(queries=hidden, keys=keys, query_pe=tokens, key_pe=code)
            early = hidden if early is None else early
        update = transformer.final_attn_token_to_image(q=hidden + tokens, k=keys + code, v=keys)
        return transformer.norm_final_attn(hidden + update), keys.transpose(1, 2).reshape(shape), early

    def pointer(self, decoded: Decoded) -> Float[Tensor, "batch dim"]:
        """Object pointer of the chosen mask; the learned "no object" where the object is said to be absent."""
        pointer = self.obj_ptr_proj(decoded.token)
        if decoded.presence_logits is None:
            return pointer
        return torch.where(decoded.presence_logits[:, None] > 0, pointer, self.no_obj_ptr.to(pointer.dtype))

    def upscale(self, mask_logits: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch side side"]:
        """Logits at the square's full resolution."""
        side = (self.image_size, self.image_size)
        return F.interpolate(mask_logits[:, None].float(), size=side, mode="bilinear")[:, 0]

    def on_frame(
        self, full: Float[Tensor, "batch side side"], frame_size: tuple[int, int]
    ) -> Float[Tensor, "batch _h _w"]:
        """The part of full-resolution logits that covers a frame of that (height, width)."""
        if self.fit == "stretch":
            return full
        height, width = frame_size
        below, right = max(0, height - full.shape[-2]), max(0, width - full.shape[-1])
        return F.pad(full[..., :height, :width], (0, right, 0, below), value=ABSENT)

    # Memory

    def no_memory(self, pixels: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Pixel features of a frame that looks at no memory."""
        return pixels + self.no_mem_embed.view(1, -1, 1, 1)

    def attend(
        self,
        pixels: Float[Tensor, "batch dim h w"],
        memories: Sequence[Float[Tensor, "batch width h w"]],
        slots: Sequence[int],
        pointers: Sequence[Float[Tensor, "batch dim"]],
        distances: Sequence[int],
    ) -> Float[Tensor, "batch dim h w"]:
        """Memory attention of one frame.

        Args:
            pixels: raw coarsest features of the frame.
            memories: spatial memories, in the order in which they are attended.
            slots: row of the learned time code of each memory: k-1 for k frames ago, 6 for a conditioning frame.
            pointers: object pointers.
            distances: frames between each pointer's frame and this one (read by version 2.1 only).
        """
        sine = self.memory_encoder.position_encoding(memories[0][:1]).flatten(2).permute(2, 0, 1)
        parts = [memory.flatten(2).permute(2, 0, 1) for memory in memories]
        codes = [sine + self.maskmem_tpos_enc[slot] for slot in slots]
        tokens = 0
        if pointers:
            split = self.prompt_dim // self.memory_width
            stacked = torch.stack(list(pointers)).unflatten(-1, (split, self.memory_width))
            parts.append(stacked.permute(0, 2, 1, 3).flatten(0, 1).to(parts[0].dtype))
            codes.append(self._pointer_codes(distances).repeat_interleave(split, dim=0)[:, None])
            tokens = len(pointers) * split
        query_code = self.image_encoder.neck.position_encoding(pixels[:1])
        attended = self._recomputed(
            self.memory_attention,
            curr=pixels.flatten(2).permute(2, 0, 1),
            curr_pos=query_code.flatten(2).permute(2, 0, 1),
            memory=torch.cat(parts),
            memory_pos=torch.cat(codes),
            num_obj_ptr_tokens=tokens,
        )
        return attended.permute(1, 2, 0).reshape(pixels.shape)

    def _recomputed(self, module: nn.Module, *args: Tensor, **kwargs: Any) -> Tensor:
        """The module's output; with `checkpointing` its inside is built anew in the backward pass."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *args, use_reentrant=False, **kwargs)
        return module(*args, **kwargs)

    def _pointer_codes(self, distances: Sequence[int]) -> Float[Tensor, "pointers width"]:
        if self.version == "2.0":
            return self.maskmem_tpos_enc.new_zeros(len(distances), self.memory_width)
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        steps = torch.tensor(distances, dtype=torch.float32, device=self.maskmem_tpos_enc.device)
        return self.obj_ptr_tpos_proj(get_1d_sine_pe(steps / 15, dim=self.prompt_dim))  # 16 pointers at most

    def remember(
        self,
        pixels: Float[Tensor, "batch dim h w"],
        full: Float[Tensor, "batch side side"],
        presence_logits: Float[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch width h w"]:
        """Spatial memory of a frame from its raw coarsest features and full-resolution mask logits."""
        masks = torch.sigmoid(full)[:, None] * MEMORY_SCALE + MEMORY_BIAS
        memory = self.memory_encoder(pixels, masks, skip_mask_sigmoid=True)["vision_features"]
        if self.version == "2.1" and presence_logits is not None:
            absent = (presence_logits <= 0).to(memory.dtype)
            memory = memory + absent.view(-1, 1, 1, 1) * self.no_obj_embed_spatial.view(1, -1, 1, 1)
        return memory


def _merged_conv(x: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """Two 1x1 convolutions in a row as one, so that the wide map between them is never built."""
    outer = second.weight.flatten(1)
    weight = outer @ first.weight.flatten(1)
    bias = outer @ first.bias + second.bias
    return F.conv2d(x, weight[:, :, None, None], bias)
