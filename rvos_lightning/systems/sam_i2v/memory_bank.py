"""What is remembered of a video, bounded in length, and the tokens attention reads from it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rvos_lightning.core.types import State, UserPrompt
from rvos_lightning.systems.sam_i2v.memory_attention import multiplicity_bias
from rvos_lightning.systems.sam_i2v.memory_selector import Reading
from rvos_lightning.systems.sam_i2v.rope_attention import sine_1d, sine_2d


@dataclass
class FrameMemory:
    """One frame's memory for every item; rows of items without one are undefined.

    Attributes:
        spatial: encoded feature and mask.
        pointer: object pointer.
        keep: spatial tokens on the object.
        prompted: per item True (prompted), False (tracked) or None (no memory of this frame).
    """

    spatial: Float[Tensor, "batch memory h w"]
    pointer: Float[Tensor, "batch dim"]
    keep: Bool[Tensor, "batch tokens"]
    prompted: list[bool | None]


@dataclass
class TrackState(State):
    """Everything carried through a video.

    Attributes:
        index: frames seen so far.
        frames: memories by frame index; only what can still be read.
        embeds: unit-length image feature of each recent frame, one row per video (shared by its objects).
        waiting: prompts not reached yet, by (item, position in the video).
        streams: random streams of the items, if the selector draws.
    """

    index: int = 0
    frames: dict[int, FrameMemory] = field(default_factory=dict)
    embeds: dict[int, Float[Tensor, "video numbers"]] = field(default_factory=dict)
    waiting: dict[tuple[int, int], list[UserPrompt]] | None = None
    streams: dict[int, torch.Generator] = field(default_factory=dict)

    def with_memory(self, item: int, prompted: bool) -> list[int]:
        """Frames of which the item has a memory, prompted or not."""
        return [index for index, memory in sorted(self.frames.items()) if memory.prompted[item] is prompted]

    def put(self, index: int, items: Sequence[int], part: FrameMemory, count: int) -> None:
        """Store the memory of some of `count` items; `part` has one row per item of `items`."""
        old = self.frames.get(index)
        if len(items) == count:
            self.frames[index] = part
            return
        if old is None:
            empty = (x.new_zeros(count, *x.shape[1:]) for x in (part.spatial, part.pointer, part.keep))
            old = FrameMemory(*empty, [None] * count)
        rows = torch.tensor(items, device=part.pointer.device)
        prompted = list(old.prompted)
        for item, flag in zip(items, part.prompted, strict=True):
            prompted[item] = flag
        self.frames[index] = FrameMemory(
            old.spatial.index_copy(0, rows, part.spatial.to(old.spatial.dtype)),
            old.pointer.index_copy(0, rows, part.pointer.to(old.pointer.dtype)),
            old.keep.index_copy(0, rows, part.keep),
            prompted,
        )

    def evict(self, reach: int) -> None:
        """Forget what no later frame can read: constant memory on videos of any length."""
        for index in [i for i in self.frames if i < self.index - reach]:
            if not any(self.frames[index].prompted):
                del self.frames[index]
        for index in [i for i in self.embeds if i < self.index - reach]:
            del self.embeds[index]


@dataclass
class MemoryTokens:
    """Keys and values of memory attention and of the prompt generator.

    Attributes:
        values: spatial tokens block after block, then pointer tokens.
        position: their codes.
        keep: tokens open to the prompt generator.
        pointers: number of pointer tokens.
        bias: log of how many copies a token stands for; None if all are single.
    """

    values: Float[Tensor, "batch keys memory"]
    position: Float[Tensor, "batch keys memory"]
    keep: Bool[Tensor, "batch keys"]
    pointers: int
    bias: Float[Tensor, "1 1 keys"] | None


def groups(keys: Sequence[tuple]) -> dict[tuple, list[int]]:
    """Positions by equal key, in first-seen order."""
    found: dict[tuple, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        found[key].append(position)
    return dict(found)


def gather_tokens(
    state: TrackState,
    items: Sequence[int],
    readings: Sequence[Reading],
    temporal: Float[Tensor, "rows memory"],
    project: nn.Linear,
) -> MemoryTokens:
    """Collect the tokens of items whose readings have the same form (codes, pointers and counts).

    Only the blocks read are copied, not the bank.

    Args:
        state: the bank.
        items: rows to read.
        readings: one per item.
        temporal: temporal table, row `rows - 1 - code` for a code.
        project: pointer code to memory width.
    """
    first = readings[0]
    spatial, codes, keeps, counts = [], [], [], []
    dtype = temporal.dtype
    for j, block in enumerate(first.blocks):
        frames = [reading.blocks[j].frame for reading in readings]
        values = _rows(state, frames, items, "spatial")
        tokens = values.flatten(2).transpose(1, 2).to(dtype)
        grid = sine_2d(tokens.shape[2], *values.shape[-2:], device=tokens.device).flatten(1).T
        spatial.append(tokens)
        codes.append((grid + temporal[len(temporal) - 1 - block.code]).expand(len(items), -1, -1))
        keeps.append(_rows(state, frames, items, "keep"))
        counts.append(torch.full((tokens.shape[1],), float(block.count)))
    pointers, pointer_codes, pointer_counts = _pointer_tokens(state, items, readings, temporal.shape[1], project)
    keep = torch.cat([*keeps, keeps[0].new_ones(len(items), pointers.shape[1])], 1)
    count = torch.cat([*counts, pointer_counts]).to(pointers.device)
    return MemoryTokens(
        torch.cat([*spatial, pointers.to(dtype)], 1),
        torch.cat([*codes, pointer_codes.to(dtype).expand(len(items), -1, -1)], 1),
        keep,
        pointers.shape[1],
        multiplicity_bias(count) if any(max(b.count, b.pointer_count) > 1 for b in first.blocks) else None,
    )


def _pointer_tokens(
    state: TrackState, items: Sequence[int], readings: Sequence[Reading], width: int, project: nn.Linear
) -> tuple[Tensor, Tensor, Tensor]:
    """Pointers cut into tokens of memory width, their codes (repeated for each part) and counts."""
    columns, distances, counts = [], [], []
    for group in ("blocks", "only_pointers"):
        for j, block in enumerate(getattr(readings[0], group)):
            if block.pointer is None:
                continue
            columns.append(_rows(state, [getattr(r, group)[j].frame for r in readings], items, "pointer"))
            distances.append(block.pointer / readings[0].divisor)
            counts.append(float(block.pointer_count))
    pointers = torch.stack(columns, 1)
    parts = pointers.shape[2] // width
    code = project(sine_1d(torch.tensor(distances, device=pointers.device), project.in_features))
    return (
        pointers.unflatten(2, (parts, width)).flatten(1, 2),
        code.repeat_interleave(parts, 0)[None],
        torch.tensor(counts).repeat_interleave(parts),
    )


def _rows(state: TrackState, frames: Sequence[int], items: Sequence[int], name: str) -> Tensor:
    """One row per item, each from its own frame."""
    if len(set(frames)) == 1:
        whole = getattr(state.frames[frames[0]], name)
        return whole if len(items) == len(whole) else whole[list(items)]
    return torch.stack([getattr(state.frames[f], name)[i] for f, i in zip(frames, items, strict=True)])
