"""The baseline SAM-I2V is measured against: an image SAM given the same clicks on every frame, no memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rvos_lightning.core.types import Clip, Features, Prompt, State
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.sam_i2v.frame_loop import FrameLoop
from rvos_lightning.systems.sam_i2v.head_step import Asked
from rvos_lightning.systems.sam_i2v.memory_bank import TrackState, groups
from rvos_lightning.systems.sam_i2v.prompt_memory import PromptMemory
from rvos_lightning.systems.sam_i2v.steps import Answer


@dataclass
class ClickState(TrackState):
    """What travels through a video, and each item's first clicks with their labels."""

    clicks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class PerFrame(PromptMemory):
    """The clicks of the prompted frame are repeated on all others; a mask prompt cannot be and leaves them empty."""

    def loop(self, sam: Sam, features: Features, prompt: Prompt, clip: Clip, state: State | None) -> FrameLoop:
        """The frame loop over one window, going on from `state`."""
        state = state if isinstance(state, ClickState) else ClickState()
        return RepeatedClicks(self, sam, features.pyramid[-1], prompt, clip, state)


class RepeatedClicks(FrameLoop):
    """Answers every frame from the first clicks alone."""

    def finish(self, time: int, answer: Answer) -> None:
        """Remember the clicks, too."""
        if answer.prompted:
            for row, item in enumerate(answer.situation.items):
                points, labels = answer.asked.points, answer.asked.labels
                if points is not None and labels is not None:
                    self.clicks.setdefault(item, (points[row], labels[row]))
        super().finish(time, answer)

    @property
    def clicks(self) -> dict[int, tuple[Tensor, Tensor]]:
        """The items' first clicks; they travel with the state."""
        return self.state.clicks

    def go_on(self, time: int, items: Sequence[int], reverse: bool = False) -> list[Answer]:
        """Answers from the same clicks, the frame's own feature and no memory."""
        answers = []
        pointed = [item for item in items if item in self.clicks]
        for members in groups([(len(self.clicks[item][1]),) for item in pointed]).values():
            part = [pointed[m] for m in members]
            asked = Asked(*(torch.stack([self.clicks[i][k] for i in part]) for k in range(2)))
            situation = self.memory.situation(self.state, self.index(time), part, self.rows(part, time), None)
            asked = replace(asked, language=self.language(part, time))
            answer = Answer(situation, self.memory.answer(self.sam, situation, asked), asked)
            self.note(time, answer)
            answers.append(answer)
        return answers
