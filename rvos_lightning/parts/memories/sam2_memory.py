"""SAM 2's memory bank: spatial memories and object pointers of past frames, all items in lock-step."""

from collections import deque
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from rvos_lightning.core.seams import Decoded, Memory, Pyramid, VideoSegmenter
from rvos_lightning.core.types import Clip, Features, Prediction, Prompt, State
from rvos_lightning.parts.segmenters.sam2 import ABSENT

MEMORIES, POINTERS, CONDITIONING_SLOT = 6, 15, 6  # sam2 configs: num_maskmem 7, max_obj_ptrs_in_encoder 16


@dataclass
class _Unwritten:
    """A frame whose memory is encoded only when the next frame asks, so that a last frame's never is."""

    pixels: Tensor
    full: Tensor
    presence_logits: Tensor | None


@dataclass
class Sam2State(State):
    """One video's bank; every item of the batch is at the same frame.

    Attributes:
        frame: number of the next frame, counted from the video's start.
        memories: spatial memories of the latest frames, oldest first.
        pointers: pointers of the latest frames, oldest first.
        kept: (frame number, memory, pointer) of conditioning frames, never forgotten.
        unwritten: the latest frame, not yet encoded.
    """

    frame: int = 0
    memories: deque[Tensor] = field(default_factory=lambda: deque(maxlen=MEMORIES))
    pointers: deque[Tensor] = field(default_factory=lambda: deque(maxlen=POINTERS))
    kept: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    unwritten: _Unwritten | None = None


class Sam2Memory(Memory):
    """The frame loop of SAM 2's video predictor; parameters are the segmenter's.

    Args:
        conditioning: that many first frames look at no memory and are never forgotten (SAM 2's conditioning
            frames); 0: only frame 0 looks at none and it is forgotten like any other (SAMWISE).
        memory_in_training: False decodes training frames one by one (Sa2VA).
        gate_masks: in evaluation an object said to be absent gets an empty mask.
        prompted: only that many first frames of a video are prompted, the others are tracked by memory alone;
            None: all are prompted.
    """

    needs = VideoSegmenter

    def __init__(
        self,
        conditioning: int = 0,
        memory_in_training: bool = True,
        gate_masks: bool = True,
        prompted: int | None = None,
    ) -> None:
        super().__init__()
        self.prompted = prompted
        self.conditioning = conditioning
        self.memory_in_training = memory_in_training
        self.gate_masks = gate_masks

    def forward(
        self, features: Features, prompt: Prompt, segmenter: VideoSegmenter, state: State | None, clip: Clip
    ) -> Prediction:
        """Segment the window frame by frame; see `seams.Memory`."""
        state = self.start(state)
        size, frames = tuple(clip.frames.shape[-2:]), []
        for time in range(features.pyramid[0].shape[1]):
            decoded, full = self.segment_frame(frame_of(features, time), *prompt_of(prompt, time), segmenter, state)
            frames.append((decoded, segmenter.on_frame(full, size)))
            if self.training and not self.memory_in_training:
                state.frame = 0
            else:
                self.write(state, features.pyramid[-1][:, time], full, segmenter.pointer(decoded), decoded, segmenter)
        return Prediction(state=state, **stack(frames))

    def start(self, state: State | None) -> Sam2State:
        """The state to go on from; a fresh bank for a new video."""
        return state if isinstance(state, Sam2State) else Sam2State()

    def segment_frame(
        self,
        frame: Pyramid,
        tokens: Float[Tensor, "batch tokens dim"],
        dense: Float[Tensor, "batch dim h w"] | None,
        segmenter: VideoSegmenter,
        state: Sam2State,
    ) -> tuple[Decoded, Float[Tensor, "batch side side"]]:
        """Decode one frame under its prompt and the memories; also its logits at full resolution."""
        if self.prompted is not None and state.frame >= self.prompted:
            tokens, dense = tokens[:, :0], None
        decoded = segmenter.decode((*frame[:-1], self.read(frame[-1], segmenter, state)), tokens, dense)
        return decoded, segmenter.upscale(self.gate(decoded))

    def gate(self, decoded: Decoded) -> Float[Tensor, "batch h w"]:
        """Mask logits, emptied in evaluation where the object is absent; training leaves them as they are."""
        if self.training or not self.gate_masks or decoded.presence_logits is None:
            return decoded.mask_logits
        present = decoded.presence_logits[:, None, None] > 0
        return torch.where(present, decoded.mask_logits, torch.full_like(decoded.mask_logits, ABSENT))

    def read(
        self, pixels: Float[Tensor, "batch dim h w"], segmenter: VideoSegmenter, state: Sam2State
    ) -> Float[Tensor, "batch dim h w"]:
        """Features of the next frame after looking at the memories."""
        self.flush(state, segmenter)
        if state.frame < max(1, self.conditioning):
            return segmenter.no_memory(pixels)
        recent = len(state.memories)
        memories = [memory for _, memory, _ in state.kept] + list(state.memories)
        slots = [CONDITIONING_SLOT] * len(state.kept) + list(range(recent - 1, -1, -1))
        pointers = [pointer for _, _, pointer in state.kept] + list(state.pointers)[::-1]
        distances = [state.frame - frame for frame, _, _ in state.kept] + list(range(1, len(state.pointers) + 1))
        return segmenter.attend(pixels, memories, slots, pointers, distances)

    def write(
        self,
        state: Sam2State,
        pixels: Float[Tensor, "batch dim h w"],
        full: Float[Tensor, "batch side side"],
        pointer: Float[Tensor, "batch dim"],
        decoded: Decoded,
        segmenter: VideoSegmenter,
    ) -> None:
        """Append a frame to the bank: its raw features, the mask to remember and its pointer."""
        if state.frame < self.conditioning:
            memory = segmenter.remember(pixels, full, decoded.presence_logits)
            state.kept.append((state.frame, memory, pointer))
        else:
            state.unwritten = _Unwritten(pixels, full, decoded.presence_logits)
            state.pointers.append(pointer)
        state.frame += 1

    def flush(self, state: Sam2State, segmenter: VideoSegmenter) -> None:
        """Encode the memory of the latest frame if that has not been done."""
        if state.unwritten is not None:
            late = state.unwritten
            state.memories.append(segmenter.remember(late.pixels, late.full, late.presence_logits))
            state.unwritten = None


def frame_of(features: Features, time: int) -> Pyramid:
    """One frame's pyramid, a row per item."""
    return tuple(level[:, time] for level in features.pyramid)


def prompt_of(prompt: Prompt, time: int) -> tuple[Tensor, Tensor | None]:
    """One frame's prompt tokens and dense prompt."""
    return prompt.tokens[:, time], None if prompt.dense is None else prompt.dense[:, time]


def stack(frames: list[tuple[Decoded, Tensor]]) -> dict[str, Tensor | None]:
    """`Prediction`'s fields from the decoder outputs and frame-sized logits of every frame."""
    decoded = [output for output, _ in frames]
    return {
        "mask_logits": torch.stack([logits for _, logits in frames], dim=1),
        "presence_logits": _stacked([output.presence_logits for output in decoded]),
        "iou": _stacked([output.iou for output in decoded]),
    }


def _stacked(values: list[Tensor | None]) -> Tensor | None:
    return None if values[0] is None else torch.stack(values, dim=1)  # type: ignore[arg-type]
