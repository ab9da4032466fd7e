"""Offline interaction: pass after pass over the whole video, clicking on its worst frame in between."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rvos_lightning.core.types import User, UserPrompt
from rvos_lightning.systems.sam_i2v.frame_loop import FrameLoop, merge
from rvos_lightning.systems.sam_i2v.outputs import TrackedPrediction
from rvos_lightning.systems.sam_i2v.predictor import VideoPredictor


class OfflineRounds:
    """A user who revisits, in front of a whole video.

    Args:
        loop: the frame loop over all frames.
    """

    def __init__(self, loop: FrameLoop):
        if loop.clip.user is None or loop.state.index:
            raise ValueError("offline interaction needs a user, and the whole video in one window: set model.window")
        self.user: User = loop.clip.user
        self.waiting = loop.state.waiting or {}
        self.places = [[loop.position(item, t) for t in range(loop.clip.time)] for item in loop.items]
        self.since = {i: min((self.places[i].index(p) for j, p in self.waiting if j == i), default=loop.clip.time)
                      for i in loop.items}  # fmt: skip
        self.loop, self.video = loop, VideoPredictor(loop)
        self.touched: set[tuple[int, int]] = set()
        self.said: dict[tuple[int, int], list[UserPrompt]] = {}

    def run(self) -> TrackedPrediction:
        """All rounds; the last pass's masks."""
        for (item, position), given in self.waiting.items():
            time = self.places[item].index(position)
            self.say(time, item, merge(given))
            self.click(time, item)
        self.go_through()
        while self.waiting and (wanted := self.user.revisit(torch.cat(self.loop.logits, 1))):
            for item, position in wanted.items():
                self.click(self.places[item].index(position), item)
            self.go_through()
        return self.loop.prediction()

    def go_through(self) -> None:
        """One pass from the first prompted frame on."""
        if self.waiting:
            for _ in self.video.propagate(keep=self.touched, since=self.since):
                pass

    def click(self, time: int, item: int) -> None:
        """Correct one frame until the user is content."""
        for reply in self.replies(time, item):
            self.say(time, item, reply)

    def replies(self, time: int, item: int) -> Iterator[UserPrompt]:
        """What the user says to the mask as it is now, again and again."""
        for _ in range(self.loop.memory.max_corrections):
            mask: Tensor = self.loop.logits[time][item, 0]
            reply = self.user.correct(item, self.places[item][time], mask)
            if reply is None:
                return
            yield reply

    def say(self, time: int, item: int, new: UserPrompt) -> None:
        """Prompt the frame with everything said about it so far."""
        before = [] if new.alone else [p for p in self.said.get((time, item), []) if p.mask is None]
        self.said[time, item] = [*before, new]
        self.touched.add((time, item))
        self.video.prompt(time, {item: merge(self.said[time, item])})
