"""Which memories a frame reads: the selector of the released code, its training rule, and top-k."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rvos_lightning.core.bounds import FromZero

Draw = Callable[[Float[Tensor, "pool"], int], Int[Tensor, "drawn"]]
"""Given probabilities and a number, positions drawn without replacement."""


@dataclass(frozen=True)
class Block:
    """One memory block: which frame, and its temporal code (0 prompted, 1-4 global, 5-6 local).

    Attributes:
        frame: index in the video.
        code: temporal code; row `rows - 1 - code` of the temporal table.
        pointer: signed temporal distance given to the pointer's code, before division; None for no pointer.
        count: how many equal copies the block stands for.
        pointer_count: how many copies its pointer stands for; 0 without one.
    """

    frame: int
    code: int
    pointer: float | None
    count: int = 1
    pointer_count: int = 1


@dataclass(frozen=True)
class Reading:
    """The blocks one item reads, pointer-only frames included, and the divisor of pointer distances."""

    blocks: tuple[Block, ...]
    only_pointers: tuple[Block, ...]
    divisor: float


class MemorySelector:
    """Picks memories for inference.

    Args:
        global_pool: frames before the local pool that are looked at.
        global_keep: how many of them are kept.
        local_pool: directly preceding frames.
        local_keep: how many of them are kept.
        draw: `top_k` most similar, or `random` by similarity, as released.
        seed: of the random draws; every video has its own stream, so results do not depend on the order of videos.
    """

    def __init__(
        self,
        global_pool: FromZero = 16,
        global_keep: FromZero = 4,
        local_pool: int = 4,
        local_keep: int = 2,
        draw: Literal["top_k", "random"] = "top_k",
        seed: int = 123,
    ):
        self.global_pool, self.global_keep = global_pool, global_keep
        self.local_pool, self.local_keep = local_pool, local_keep
        self.draw: Literal["top_k", "random"] = draw
        self.seed = seed
        self.injected: Draw | None = None

    @property
    def reach(self) -> int:
        """How many past frames are looked at; older unprompted memories are never read again."""
        return self.global_pool + self.local_pool

    def stream(self, video: str, item: str) -> torch.Generator:
        """The random stream of one item of a video."""
        return torch.Generator().manual_seed(self.seed * 2**32 + zlib.crc32(f"{video}/{item}".encode()))

    def pools(self, frame: int, unprompted: Sequence[int]) -> tuple[list[int], list[int]]:
        """Global and local candidates among frames that have an unprompted memory, ascending."""
        edge = frame - self.local_pool
        recent = sorted(i for i in unprompted if i < frame)
        return [i for i in recent if edge - self.global_pool <= i < edge], [i for i in recent if i >= edge]

    def pick(
        self, pool: Sequence[int], similarity: Float[Tensor, "pool"], keep: int, stream: torch.Generator | None
    ) -> list[int]:
        """At most `keep` frames of the pool, ascending."""
        keep = min(keep, len(pool))
        if self.injected is not None:
            chosen = self.injected(similarity.softmax(0), keep)
        elif self.draw == "random":
            chosen = torch.multinomial(similarity.float().cpu().softmax(0), keep, generator=stream)
        else:
            chosen = similarity.topk(keep).indices
        return sorted(pool[i] for i in chosen.tolist())

    def read(
        self,
        frame: int,
        prompted: Sequence[int],
        unprompted: Sequence[int],
        similarity: Callable[[Sequence[int]], Float[Tensor, "pool"]],
        stream: torch.Generator | None = None,
        reverse: bool = False,
    ) -> Reading:
        """What one item reads at `frame`.

        Args:
            frame: the current frame.
            prompted: frames with a prompted memory, in order.
            unprompted: frames with another memory.
            similarity: cosines of given frames' features to the current one's.
            stream: random stream of the item.
            reverse: tracking backwards in time.
        """
        picks: list[tuple[int, int]] = []
        plan = zip(
            self.pools(frame, unprompted), (self.global_keep, self.local_keep), (1, 1 + self.global_keep), strict=True
        )
        for pool, keep, code in plan:
            if pool:
                picked = self.pick(pool, similarity(pool), keep, stream)
                picks += [(i, code + j) for j, i in enumerate(picked)]
        total = min(max(frame - 1, 0), self.global_keep + self.local_keep)
        copies = max(total - len(picks), 0)
        usable = [i for i in prompted if (i >= frame if reverse else i <= frame)] or list(prompted[:1])
        # There are as many pointers as blocks: the first one stands in for every prompted frame that has none.
        pointers = 1 + copies + len(prompted) - len(usable)
        blocks = tuple(
            Block(
                i,
                0,
                total + 1 if i in usable else None,
                1 + copies if i == prompted[0] else 1,
                (pointers if i == usable[0] else 1) if i in usable else 0,
            )
            for i in prompted
        ) + tuple(Block(i, code, total + 1 - code) for i, code in picks)
        return Reading(blocks, (), total + 1)


def training_reading(frame: int, prompted: Sequence[int], unprompted: Sequence[int], time: int, slots: int) -> Reading:
    """The training rule: all prompted frames and the directly preceding ones.

    Args:
        frame: the current frame.
        prompted: frames with a prompted memory, in order.
        unprompted: frames with another memory.
        time: frames in the clip.
        slots: how many preceding frames are read (6), oldest first; absent ones leave their code unused.
    """
    known = set(unprompted)
    reach = min(time, 16)
    blocks = [Block(i, 0, frame - i) for i in prompted]
    recent = [i for i in range(frame - slots, frame) if i in known]
    blocks += [Block(i, slots + 1 - (frame - i), frame - i if frame - i < reach else None) for i in recent]
    far = [i for i in range(frame - slots - 1, frame - reach, -1) if i in known]
    return Reading(tuple(blocks), tuple(Block(i, 0, frame - i) for i in far), max(reach - 1, 1))
