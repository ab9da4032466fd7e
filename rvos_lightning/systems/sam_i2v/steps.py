"""What SAM-I2V does with one frame: condition it on memory, answer prompts, remember (paper, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.core.bounds import FromZero, Share
from rvos_lightning.core.seams import Adapter, Memory, Segmenter, agreed
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.sam_i2v.head_step import (
    ABSENT,
    Asked,
    HeadOutput,
    fill_holes,
    head_step,
    mask_as_output,
)
from rvos_lightning.systems.sam_i2v.memory_attention import MemoryAttention, build_memory_encoder
from rvos_lightning.systems.sam_i2v.memory_bank import FrameMemory, MemoryTokens, TrackState, gather_tokens
from rvos_lightning.systems.sam_i2v.memory_prompt_generator import MemoryPromptGenerator
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector, Reading, training_reading
from rvos_lightning.systems.sam_i2v.rope_attention import sine_2d


@dataclass
class Situation:
    """What a group of items sees of a frame before anything is asked: conditioned feature and memory prompts."""

    items: list[int]
    feature: Float[Tensor, "part dim h w"]
    conditioned: Float[Tensor, "part dim h w"]
    tokens: MemoryTokens | None
    memory_prompts: Float[Tensor, "part q dim"]


@dataclass
class Answer:
    """A group's answer on a frame so far, and the clicks that led to it."""

    situation: Situation
    output: HeadOutput
    asked: Asked = field(default_factory=Asked)
    touched: bool = False
    prompted: bool = False


class MemorySteps(Memory):
    """Memory selective associator and memory prompt generator: the modules, and one frame's steps with them.

    Args:
        dim: feature width; None: the segmenter's prompt width.
        memory_dim: width of a memory.
        hidden: feed-forward width of memory attention.
        layers: of memory attention.
        dropout: of memory attention and prompt generator.
        mask_stride: side of the memory encoder's mask input over the feature grid's side (16 as published); None: the
            segmenter's stride.
        selector: which memories inference reads.
        corrections_condition: a corrected frame becomes a conditioning frame in training (as published; never in
            inference).
        max_corrections: how often a user is asked about one frame.
        prompts: tokens the memory prompt generator makes; 0 leaves it out (the paper's TA baseline).
        fill_holes: in inference, background specks of at most so many low-resolution pixels are filled (8 as
            published, where its compiled extension loads; else silently not).
        aligned: memory attention starts with every place reading memory at the same place: for training from scratch.
    """

    licence = "SAM-I2V, weights: Apache-2.0"

    needs = Sam

    def __init__(
        self,
        dim: int | None = None,
        memory_dim: int = 64,
        hidden: int = 512,
        layers: int = 4,
        dropout: Share = 0.1,
        mask_stride: int | None = None,
        selector: MemorySelector | None = None,
        corrections_condition: bool = True,
        max_corrections: FromZero = 16,
        prompts: FromZero = 3,
        fill_holes: FromZero = 8,
        aligned: bool = False,
    ):
        super().__init__()
        self.dim, self.memory_dim, self.mask_stride = dim, memory_dim, mask_stride
        self.selector = selector or MemorySelector()
        self.corrections_condition = corrections_condition
        self.max_corrections, self.fill_holes = max_corrections, fill_holes
        self.slots = self.selector.global_keep + self.selector.local_keep
        self.attention, self.prompts = (hidden, layers, dropout, aligned), prompts

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "MemorySteps":
        """The modules at the segmenter's width and stride.

        Raises:
            ValueError: the segmenter has no occlusion head or another width or stride.
        """
        from sam2.modeling.sam2_utils import MLP

        super().fit_to(segmenter, adapter)
        if not segmenter.says_presence:
            raise ValueError("SAM-I2V needs an object-score head: set --model.network.segmenter.occlusion true")
        self.dim = dim = agreed("memory.dim", self.dim, segmenter.prompt_dim, segmenter)
        self.mask_stride = stride = agreed("memory.mask_stride", self.mask_stride, segmenter.stride, segmenter)
        width, (hidden, layers, dropout, aligned) = self.memory_dim, self.attention
        self.memory_attention = MemoryAttention(dim, width, hidden, layers, dropout, aligned)
        self.memory_encoder = build_memory_encoder(dim, width, stride)
        made = MemoryPromptGenerator(dim, width, self.prompts, dropout) if self.prompts else None
        self.memory_prompt_generator = made
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(self.slots + 1, 1, 1, width))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, width))
        for parameter in (self.maskmem_tpos_enc, self.no_mem_embed, self.no_obj_ptr, self.no_obj_embed_spatial):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.mask_downsample = nn.Conv2d(1, 1, stride // 4, stride=stride // 4)
        self.obj_ptr_proj = MLP(dim, dim, dim, 3)
        self.obj_ptr_tpos_proj = nn.Linear(dim, width)
        return self

    def situation(
        self, state: TrackState, index: int, items: Sequence[int], feature: Tensor, readings: Sequence[Reading] | None
    ) -> Situation:
        """Condition a frame's feature on what its items read; `readings` None: there is no memory yet."""
        if readings is None:
            conditioned = feature + self.no_mem_embed.view(1, -1, 1, 1)
            return Situation(list(items), feature, conditioned, None, self.no_memory_prompts(feature))
        temporal = self.maskmem_tpos_enc.flatten(1)
        tokens = gather_tokens(state, items, readings, temporal, self.obj_ptr_tpos_proj)
        position = sine_2d(self.dim, *feature.shape[-2:], device=feature.device)
        conditioned = self.memory_attention(
            feature, position, tokens.values, tokens.position, tokens.pointers, tokens.bias
        )
        return Situation(list(items), feature, conditioned, tokens, self.memory_prompts(tokens, feature.shape[-2:]))

    def memory_prompts(self, tokens: MemoryTokens, grid: tuple[int, int]) -> Float[Tensor, "part q dim"]:
        """Prompts made from memory; in training they are made anew for every correction (dropout)."""
        if self.memory_prompt_generator is None:
            return tokens.values.new_zeros(len(tokens.values), 0, self.dim)
        keep: Tensor = tokens.keep
        if tokens.bias is not None:
            keep = tokens.bias[:, 0].expand(len(keep), -1).masked_fill(~keep, float("-inf"))
        return self.memory_prompt_generator(tokens.values, tokens.position, keep, tokens.pointers, tuple(grid))

    def no_memory_prompts(self, feature: Float[Tensor, "part dim h w"]) -> Float[Tensor, "part q dim"]:
        """Prompts where there is no memory yet."""
        if self.memory_prompt_generator is None:
            return feature.new_zeros(len(feature), 0, self.dim)
        return self.memory_prompt_generator.no_memory(len(feature))

    def answer(self, sam: Sam, situation: Situation, asked: Asked) -> HeadOutput:
        """One decoder call."""
        return head_step(sam, situation.conditioned, asked, situation.memory_prompts, stable=not self.training)

    def answer_mask(self, sam: Sam, situation: Situation, mask: Float[Tensor, "part 1 high high"]) -> HeadOutput:
        """A given mask as the answer; no memory takes part."""
        prompts = self.no_memory_prompts(situation.feature)
        return mask_as_output(sam, situation.feature, mask, self.mask_downsample(mask), prompts)

    def pointer(self, output: HeadOutput) -> Float[Tensor, "part dim"]:
        """Object pointer; a learned one where the object is absent."""
        return torch.where(output.pointed, self.obj_ptr_proj(output.token), self.no_obj_ptr)

    def filled(self, mask_logits: Float[Tensor, "part 1 h w"]) -> Float[Tensor, "part 1 h w"]:
        """Without small holes, in inference."""
        return mask_logits if self.training or not self.fill_holes else fill_holes(mask_logits, self.fill_holes)

    def remember(self, answer: Answer) -> FrameMemory:
        """Encode the frame and its final mask."""
        output, feature = answer.output, answer.situation.feature
        spatial = self.encode_memory(feature, output.chosen, output.presence_logits, answer.touched)
        probability = output.chosen.sigmoid()
        keep = functional.interpolate(probability, feature.shape[-2:], mode="bilinear", align_corners=False) >= 0.5
        if not self.training:
            spatial = spatial.to(torch.bfloat16)  # the released code stores memories in this precision
        prompted = [answer.prompted] * len(feature)
        return FrameMemory(spatial, self.pointer(output), keep.flatten(1), prompted)

    def encode_memory(
        self,
        feature: Float[Tensor, "part dim h w"],
        mask_logits: Float[Tensor, "part 1 h4 w4"],
        presence_logits: Float[Tensor, "part 1"],
        touched: bool,
    ) -> Float[Tensor, "part memory h w"]:
        """Spatial memory of a mask; hard where a user touched the frame (in inference), else soft."""
        size = tuple(side * self.mask_stride for side in feature.shape[-2:])
        if tuple(mask_logits.shape[-2:]) != size:
            mask_logits = functional.interpolate(mask_logits, size, mode="bilinear", align_corners=False)
        mask = (mask_logits > 0).float() if touched and not self.training else mask_logits.sigmoid()
        spatial = self.memory_encoder(feature, mask * 20 - 10, skip_mask_sigmoid=True)["vision_features"]
        absent = (presence_logits <= 0)[..., None, None]
        return spatial + absent * self.no_obj_embed_spatial[..., None, None]

    def readings(
        self,
        state: TrackState,
        index: int,
        items: Sequence[int],
        video: Sequence[int],
        time: int,
        reverse: bool = False,
    ) -> list[Reading]:
        """What every item reads at a frame: the selector's choice, or the training rule."""
        if self.training:
            return [
                training_reading(index, state.with_memory(i, True), state.with_memory(i, False), time, self.slots)
                for i in items
            ]
        cosines: dict[tuple, Tensor] = {}
        result = []
        for item in items:

            def similarity(pool: Sequence[int], row: int = video[item]) -> Tensor:
                key = (row, *pool)
                if key not in cosines:
                    current = state.embeds[index][row]
                    cosines[key] = torch.stack([state.embeds[i][row] @ current for i in pool])
                return cosines[key]

            prompted, others = state.with_memory(item, True), state.with_memory(item, False)
            stream = state.streams.get(item)
            result.append(self.selector.read(index, prompted, others, similarity, stream, reverse))
        return result


def form(reading: Reading) -> tuple:
    """What must be equal for items to be read in one batch."""
    blocks = (*reading.blocks, *reading.only_pointers)
    return (reading.divisor, *((b.code, b.pointer, b.count, b.pointer_count) for b in blocks))


def blank(batch: int, side: int, device: torch.device) -> Float[Tensor, "batch 1 side side"]:
    """Mask logits of items that were not prompted yet."""
    return torch.full((batch, 1, side, side), ABSENT, device=device)
