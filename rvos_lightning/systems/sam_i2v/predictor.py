"""Prompting any frame of a clip in any order, then propagating: interactive use and offline evaluation."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Clip, Prompt, User, UserPrompt
from rvos_lightning.systems.sam_i2v.frame_loop import FrameLoop, merge
from rvos_lightning.systems.sam_i2v.head_step import Asked, resize_mask
from rvos_lightning.systems.sam_i2v.memory_bank import TrackState, groups
from rvos_lightning.systems.sam_i2v.steps import Answer


class VideoPredictor:
    """Memories of one clip, all of them kept; frames are addressed by their place in the clip.

    Args:
        loop: the frame loop over all frames of the video; its user, if any, is not asked any more.
    """

    def __init__(self, loop: FrameLoop):
        if loop.memory.training:
            raise ValueError("VideoPredictor needs network.eval()")
        clip = loop.clip
        meta = [replace(m, positions=tuple(range(clip.time))) for m in clip.meta]
        loop.clip = self.clip = replace(clip, user=_Silent(), meta=meta)
        self.loop, self.memory, self.sam, self.state = loop, loop.memory, loop.sam, loop.state
        for time in range(clip.time):
            self.state.index = time
            loop.embed(time)
            loop.streams()

    @classmethod
    @torch.inference_mode()
    def of(cls, network: PromptedSegmenter, clip: Clip, chunk: int = 8) -> "VideoPredictor":
        """Encode all frames of a video, `chunk` at once; the clip's user, if any, is not asked."""
        if network.training:
            raise ValueError("VideoPredictor needs network.eval()")
        features = []
        for start in range(0, clip.time, chunk):
            window = clip.window(start, min(start + chunk, clip.time))
            past = clip.frames[:, max(start - network.adapter.looks_back, 0) : start]
            window = replace(window, past=past if past.shape[1] else None)
            features.append(network.adapter(window, network.segmenter).pyramid[-1])
        feature = torch.cat(features, 1)
        tokens = feature.new_zeros(len(clip), clip.time, 0, feature.shape[2])
        state = TrackState(waiting={})
        return cls(FrameLoop(network.memory, network.segmenter, feature, Prompt(tokens), clip, state))

    @property
    def tracked(self) -> list[int]:
        """Frames of which every item has a memory."""
        return [t for t, memory in sorted(self.state.frames.items()) if all(p is not None for p in memory.prompted)]

    @torch.inference_mode()
    def prompt(self, time: int, prompts: Mapping[int, UserPrompt]) -> Float[Tensor, "part 1 h w"]:
        """Give prompts for some items on one frame; all clicks of a frame are sent again with every call.

        The last logits of that frame are the mask prompt. On a frame not tracked yet the memory becomes a prompted
        one; on a tracked frame memory is read and the result stays an unprompted memory.

        Returns:
            Mask logits of the items, in the order given.
        """
        self.state.index = time
        logits: dict[int, Tensor] = {}
        whole = [merge([prompts[item]]) for item in prompts]
        keys = [
            (
                p.mask is not None,
                0 if p.points is None else len(p.points),
                self.was_tracked(time, item),
                self.seen(time, item),
            )
            for item, p in zip(prompts, whole, strict=True)
        ]
        items = list(prompts)
        for (by_mask, _, tracked, seen), members in groups(keys).items():
            part, given = [items[m] for m in members], [whole[m] for m in members]
            answer = self.answer(time, part, given, by_mask, tracked, seen)
            answer.touched, answer.prompted = True, not tracked
            self.loop.finish(time, answer)
            logits |= {item: answer.output.chosen[row] for row, item in enumerate(part)}
        return torch.stack([logits[item] for item in items])

    def answer(
        self, time: int, items: list[int], given: list[UserPrompt], by_mask: bool, tracked: bool, seen: bool
    ) -> Answer:
        """One group of items that are prompted alike."""
        feature = self.loop.rows(items, time)
        readings = None
        if tracked and not by_mask:
            readings = self.memory.readings(self.state, time, items, self.loop.video, self.clip.time)
        situation = self.memory.situation(self.state, time, items, feature, readings)
        if by_mask:
            side = self.sam.grid * self.memory.mask_stride
            mask = torch.stack([resize_mask(p.mask.to(feature.device), side) for p in given])
            return Answer(situation, self.memory.answer_mask(self.sam, situation, mask))
        asked: Asked = self.loop.asked(given, items, time)
        if seen:
            asked = replace(asked, previous=self.loop.logits[time][items].clamp(-32, 32))
        return Answer(situation, self.memory.answer(self.sam, situation, asked), asked)

    def stays(self, time: int, item: int, keep: Collection[int | tuple[int, int]]) -> bool:
        """The item's mask on the frame is not made anew."""
        memory = self.state.frames.get(time)
        if memory is None or memory.prompted[item] is None:
            return False
        return memory.prompted[item] or time in keep or (time, item) in keep

    def was_tracked(self, time: int, item: int) -> bool:
        """The frame got its mask by propagation."""
        memory = self.state.frames.get(time)
        return memory is not None and memory.prompted[item] is False

    def seen(self, time: int, item: int) -> bool:
        """The frame has a mask of the item already."""
        memory = self.state.frames.get(time)
        return memory is not None and memory.prompted[item] is not None

    @torch.inference_mode()
    def propagate(
        self,
        start: int | None = None,
        reverse: bool = False,
        keep: Collection[int | tuple[int, int]] = (),
        since: Mapping[int, int] | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "batch 1 h w"]]]:
        """Track all items from the first prompted frame (or `start`) on; yields frame and mask logits.

        Args:
            start: first frame of the pass.
            reverse: go back in time; only prompted memories are read then.
            keep: frames, or (frame, item), whose masks stay as they are (corrected ones), beside the prompted ones.
            since: first frame of each item; None: all go along from the start.
        """
        prompted = [t for t, memory in sorted(self.state.frames.items()) if any(memory.prompted)]
        if not prompted:
            raise ValueError("nothing was prompted: call prompt() first")
        first = prompted[0] if start is None else start
        for time in range(first, -1, -1) if reverse else range(first, self.clip.time):
            self.state.index = time
            items = [
                i for i in self.loop.items
                if self.loop.known(i) and not self.stays(time, i, keep) and (since is None or since[i] <= time)
            ]  # fmt: skip
            for answer in self.loop.go_on(time, items, reverse):
                self.loop.finish(time, answer)
            yield time, self.loop.logits[time]


class _Silent(User):
    """No user: nothing is corrected while propagating."""

    def first_prompt(self, item: int) -> list[UserPrompt]:
        """None."""
        return []

    def correct(self, item: int, frame: int, mask: Tensor) -> None:
        """Content."""
        return None
