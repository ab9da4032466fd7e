"""What tracking remembers of one video, for all its items in lock-step."""

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from rvos_lightning.core.types import State
from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2

MEMORIES, POINTERS, CONDITIONING_SLOT = 6, 15, 6  # SAM 2.0: num_maskmem 7, max_obj_ptrs_in_encoder 16


@dataclass
class Entry:
    """A frame's spatial memory (stored in bfloat16, as the sam2 package does) and object pointer."""

    memory: Float[Tensor, "batch width h w"]
    pointer: Float[Tensor, "batch dim"]


@dataclass
class PromptedFrame:
    """A frame that was decided before tracking began; it is returned as it is."""

    mask_logits: Float[Tensor, "batch h w"]
    presence_logits: Float[Tensor, "batch"]
    iou: Float[Tensor, "batch"] | None


@dataclass
class Bank(State):
    """Conditioning frames by position, never forgotten, and the latest tracked frames.

    Attributes:
        next: position of the next frame.
        prompted: output of every conditioning frame.
        conditioning: memory of every conditioning frame, future ones included.
        recent: tracked frames by position, oldest first.
    """

    next: int = 0
    prompted: dict[int, PromptedFrame] = field(default_factory=dict)
    conditioning: dict[int, Entry] = field(default_factory=dict)
    recent: OrderedDict[int, Entry] = field(default_factory=OrderedDict)

    def add(self, position: int, entry: Entry) -> None:
        """Remember a tracked frame; forget what nothing looks at any more."""
        self.recent[position] = entry
        while next(iter(self.recent)) < position - POINTERS:
            self.recent.popitem(last=False)

    def look_back(
        self, position: int, coarse: Float[Tensor, "batch dim h w"], segmenter: TwoDecoderSam2
    ) -> Float[Tensor, "batch dim h w"]:
        """Memory attention of the frame at `position` to all conditioning frames and the latest six tracked ones."""
        near = [(p, e) for p, e in self.recent.items() if p >= position - MEMORIES]
        memories = [e.memory for e in self.conditioning.values()] + [e.memory for _, e in near]
        slots = [CONDITIONING_SLOT] * len(self.conditioning) + [position - p - 1 for p, _ in near]
        past = [(p, e) for p, e in self.conditioning.items() if p <= position]
        past += [(p, e) for p, e in reversed(self.recent.items()) if p >= position - POINTERS]
        return segmenter.attend(
            coarse,
            [memory.to(coarse.dtype) for memory in memories],
            slots,
            [e.pointer for _, e in past],
            [position - p for p, _ in past],
        )


def remember(
    coarse: Float[Tensor, "batch dim h w"],
    mask_logits: Float[Tensor, "batch mask_h mask_w"],
    pointer: Float[Tensor, "batch dim"],
    segmenter: TwoDecoderSam2,
    exact: bool = False,
) -> Entry:
    """Encode a frame's memory from its raw features and mask.

    Args:
        coarse: before memory attention.
        mask_logits: at the decoder's resolution.
        pointer: of that mask.
        segmenter: encodes.
        exact: keep float32 (training); else bfloat16.
    """
    memory = segmenter.remember(coarse, segmenter.upscale(mask_logits))
    return Entry(memory if exact else memory.to(torch.bfloat16), pointer)
