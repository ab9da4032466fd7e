"""SAMWISE's memory: SAM 2's bank, and an encoder that may write another object into it."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rvos_lightning.core.bounds import Share
from rvos_lightning.core.seams import Adapter, Memory, Segmenter, agreed
from rvos_lightning.core.types import Clip, Features, Prediction, Prompt, State
from rvos_lightning.parts.memories.sam2_memory import (
    Sam2Memory,
    Sam2State,
    frame_of,
    prompt_of,
    stack,
)
from rvos_lightning.parts.segmenters.sam2 import Sam2, Sam2Decoded
from rvos_lightning.systems.samwise.attention import FusedAttention
from rvos_lightning.systems.samwise.outputs import SwitchedPrediction

Masks = Float[Tensor, "batch h w"]
REWEIGHT = 10.0  # official code; the paper's lambda of eq. 10


@dataclass
class SwitchState(Sam2State):
    """SAM 2's bank, and for every item the frame of its latest switch (0 at the start)."""

    last_switch: Tensor | None = None


@dataclass
class _Memoryless:
    """The memory-less pass at some frames of a window (axes: batch, frames)."""

    frames: tuple[int, ...]
    full: Float[Tensor, "batch ran side side"]
    presence_logits: Float[Tensor, "batch ran"] | None
    early_tokens: Float[Tensor, "batch ran dim"]


class ConditionalMemory(Memory):
    """Tracks with SAM 2's memory and notices when another object fits the sentence better (SAMWISE, section 3.3).

    Args:
        dim: width of pointers and decoder tokens; None: the segmenter's prompt_dim.
        switching: consult the Conditional Memory Encoder; off, only SAM 2's memory is left.
        window: the encoder is first consulted at frame `window` + 1, and again `window` - 1 frames after a switch.
        switch: what a switch writes to memory: memory-less logits times 10 where positive (`reweight`), the mean of
            both (`avg`) or the memory-less logits (`all_mask`).
        heads: of the encoder's attention.
        hidden: width of its feed-forward layer.
        dropout: in its block.
        parity: `official` starts anew in every window of a single frame, as the official code does (its last frame of
            videos of 8k + 1 frames loses the memory).
    """

    needs = Sam2  # its decoder yields the token of the first two-way block

    def __init__(
        self,
        dim: int | None = None,
        switching: bool = True,
        window: int = 4,
        switch: Literal["reweight", "avg", "all_mask"] = "reweight",
        heads: int = 8,
        hidden: int = 128,
        dropout: Share = 0.1,
        parity: Literal["fixed", "official"] = "fixed",
    ) -> None:
        super().__init__()
        self.window, self.switch, self.parity = window, switch, parity
        self.bank = Sam2Memory()
        self.dim, self.switching, self.inner = dim, switching, (heads, hidden, dropout)

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "ConditionalMemory":
        """The Conditional Memory Encoder at the segmenter's width."""
        super().fit_to(segmenter, adapter)
        dim = agreed("memory.dim", self.dim, segmenter.prompt_dim, segmenter)
        self.encoder = ConditionalMemoryEncoder(dim, *self.inner) if self.switching else None
        return self

    def forward(
        self, features: Features, prompt: Prompt, segmenter: Sam2, state: State | None, clip: Clip
    ) -> Prediction:
        """Segment the window frame by frame, all items in lock-step; see `seams.Memory`."""
        state = self.start(state, clip)
        first = state.frame
        candidates = None if self.encoder is None else self.look_without_memory(features, prompt, segmenter, first)
        frames, pointers, opinions = [], [], []
        for time in range(clip.time):
            frame = frame_of(features, time)
            decoded, full = self.bank.segment_frame(frame, *prompt_of(prompt, time), segmenter, state)
            frames.append((decoded, segmenter.on_frame(full, tuple(clip.frames.shape[-2:]))))
            pointers.append(segmenter.pointer(decoded))
            if candidates is not None and not self.training and time in candidates.frames:
                index = candidates.frames.index(time)
                logits, ran, full = self.reconsider(full, pointers[-1], candidates, index, state)
                opinions.append((logits, ran))
            self.bank.write(state, frame[-1], full, pointers[-1], decoded, segmenter)
        if candidates is None:
            return self.undoubted(Prediction(state=state, **stack(frames)))
        if self.training:
            opinions = self.consult_all(pointers, candidates)
        return self.answer(frames, candidates, opinions, segmenter, state, clip)

    def start(self, state: State | None, clip: Clip) -> SwitchState:
        """The state to go on from; a fresh one for a new video (and, in parity mode, for a window of one frame)."""
        restart = self.parity == "official" and clip.time == 1
        if isinstance(state, SwitchState) and not restart:
            return state
        return SwitchState(last_switch=torch.zeros(len(clip), dtype=torch.long, device=clip.video.device))

    @torch.no_grad()
    def look_without_memory(
        self, features: Features, prompt: Prompt, segmenter: Sam2, first: int
    ) -> _Memoryless | None:
        """Decode every frame at which the encoder may be consulted, in one batch: it depends on no other frame."""
        time = features.pyramid[0].shape[1]
        frames = tuple(t for t in range(time) if first + t > self.window)
        if not frames:
            return None
        start, stop = frames[0], frames[-1] + 1
        fine, middle, pixels = (level[:, start:stop].flatten(0, 1).detach() for level in features.pyramid)
        tokens = prompt.tokens[:, start:stop].flatten(0, 1).detach()
        dense = None if prompt.dense is None else prompt.dense[:, start:stop].flatten(0, 1).detach()
        decoded: Sam2Decoded = segmenter.decode((fine, middle, segmenter.no_memory(pixels)), tokens, dense)
        full = segmenter.upscale(self.bank.gate(decoded))
        shape = (-1, len(frames))
        presence = decoded.presence_logits
        return _Memoryless(
            frames,
            full.unflatten(0, shape),
            None if presence is None else presence.unflatten(0, shape),
            decoded.early_token.unflatten(0, shape),
        )

    def reconsider(
        self, full: Masks, pointer: Float[Tensor, "batch dim"], candidates: _Memoryless, index: int, state: SwitchState
    ) -> tuple[Float[Tensor, "batch 2"], Bool[Tensor, "batch"], Masks]:
        """Inference at one frame: the opinion, whose it was asked for, and the mask to remember."""
        logits = self.encoder(pointer, candidates.early_tokens[:, index])
        ran = state.frame - state.last_switch >= self.window - 1
        switched = ran & (logits.argmax(-1) == 1)
        state.last_switch = torch.where(switched, state.frame, state.last_switch)
        other = switched_mask(full, candidates.full[:, index], self.switch)
        return logits, ran, torch.where(switched[:, None, None], other, full)

    def consult_all(
        self, pointers: list[Tensor], candidates: _Memoryless
    ) -> list[tuple[Float[Tensor, "batch 2"], Bool[Tensor, "batch"]]]:
        """Training: every candidate frame at once; nothing is switched and nothing flows back into the pointers."""
        chosen = torch.stack([pointers[frame].detach() for frame in candidates.frames], dim=1)
        logits = self.encoder(chosen.flatten(0, 1), candidates.early_tokens.flatten(0, 1))
        logits = logits.unflatten(0, chosen.shape[:2])
        return [(one, torch.ones_like(one[:, 0], dtype=torch.bool)) for one in logits.unbind(1)]

    def undoubted(self, prediction: Prediction) -> Prediction:
        """A window in which the encoder was asked about no frame."""
        if self.encoder is None:
            return prediction
        none = prediction.mask_logits[:, :0].detach()
        ran, logits = none.flatten(1).bool(), none.new_zeros(len(none), 0, 2)
        return SwitchedPrediction(**vars(prediction), switch_ran=ran, switch_logits=logits, memoryless_logits=none)

    def answer(
        self,
        frames: list[tuple[Sam2Decoded, Tensor]],
        candidates: _Memoryless,
        opinions: list[tuple[Tensor, Tensor]],
        segmenter: Sam2,
        state: SwitchState,
        clip: Clip,
    ) -> SwitchedPrediction:
        """Everything as a prediction."""
        size, shape = tuple(clip.frames.shape[-2:]), candidates.full.shape[:2]
        return SwitchedPrediction(
            state=state,
            switch_frames=candidates.frames,
            switch_logits=torch.stack([logits for logits, _ in opinions], dim=1),
            switch_ran=torch.stack([ran for _, ran in opinions], dim=1),
            memoryless_logits=segmenter.on_frame(candidates.full.flatten(0, 1), size).unflatten(0, shape),
            memoryless_presence_logits=candidates.presence_logits,
            **stack(frames),
        )


class ConditionalMemoryEncoder(nn.Module):
    """One post-norm transformer block over decision token, memory pointer and memory-less token.

    The pointer is projected and gated, the memory-less token raw, and there is no position code (official code).
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.decision_token = nn.Embedding(1, dim)
        self.self_attn = FusedAttention(dim, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.decision_head = nn.Linear(dim, 2)

    def forward(
        self, pointer: Float[Tensor, "batch dim"], token: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch 2"]:
        """Logits of "keep" and "switch"."""
        return self.decision_head(self.block(pointer, token)[:, 0])

    def block(
        self, pointer: Float[Tensor, "batch dim"], token: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch 3 dim"]:
        """States of the three tokens after the block."""
        decision = self.decision_token.weight.expand(len(pointer), -1)
        x = torch.stack([decision, pointer, token], dim=1)
        x = self.norm1(x + self.dropout(self.self_attn(x, x)))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


def switched_mask(memory: Masks, memoryless: Masks, switch: Literal["reweight", "avg", "all_mask"]) -> Masks:
    """The mask logits a switch writes to memory, from those of both passes."""
    if switch == "all_mask":
        return memoryless
    if switch == "avg":
        return (memory + memoryless) / 2
    return torch.where(memoryless > 0, REWEIGHT * memoryless, memory)
