"""The baseline SAM-I2V is measured against: an image SAM given the same clicks on every frame, no memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rvos_lightning.core.seams import Adapter, Segmenter
from rvos_lightning.core.types import Clip, Features, Prompt
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.sam_i2v.frame_loop import FrameLoop
from rvos_lightning.systems.sam_i2v.head_step import Asked
from rvos_lightning.systems.sam_i2v.memory_bank import TrackState, groups
from rvos_lightning.systems.sam_i2v.prompt_memory import Answer, PromptMemory


class ImageFeatures(Adapter):
    """The segmenter's own features, each video encoded once."""

    def forward(self, clip: Clip, segmenter: Segmenter) -> Features:
        """The prompt-space embedding of every frame."""
        level = segmenter.encode(clip.frames.flatten(0, 1))[-1].unflatten(0, (-1, clip.time))
        return Features((level[clip.video],))


class PerFrame(PromptMemory):
    """The clicks of the prompted frame are repeated on all others; a mask prompt cannot be and leaves them empty."""

    def loop(self, sam: Sam, features: Features, prompt: Prompt, clip: Clip, state: TrackState) -> Any:
        """The frame loop over one window."""
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
