"""The skeleton that every promptable system shares."""

from dataclasses import replace

import torch

from rvos_lightning.core.seams import Adapter, Memory, Network, Prompter, Segmenter
from rvos_lightning.core.types import Clip, Prediction, State
from rvos_lightning.parts.layers.linear import through_onednn


class PromptedSegmenter(Network):
    """A segmenter, and how language, prompts and masks reach it.

    Args:
        segmenter: image encoder and mask decoder (SAM, SAM2 or a variant).
        adapter: how language and time enter the features.
        prompter: how an expression becomes a prompt.
        memory: how masks travel in time.

    Raises:
        ValueError: the parts do not fit the segmenter.
    """

    def __init__(self, segmenter: Segmenter, adapter: Adapter, prompter: Prompter, memory: Memory):
        super().__init__()
        self.segmenter = segmenter
        self.adapter = adapter
        self.prompter = prompter
        self.memory = memory
        self.says_presence = segmenter.says_presence
        adapter.fit_to(segmenter)
        prompter.fit_to(segmenter, adapter)
        memory.fit_to(segmenter, adapter)
        through_onednn(self)

    def forward(self, clip: Clip, state: State | None = None) -> Prediction:
        """Segment one window; see `seams.Network`."""
        if state is not None and state.past is not None:
            clip = replace(clip, past=state.past)
        features = self.adapter(clip, self.segmenter)
        if self.prompter.once_per_video and state is not None and state.prompt is not None:
            prompt = state.prompt.repeat_time(clip.time)
        else:
            prompt = self.prompter(clip, features)
        prediction = self.memory(features, prompt, self.segmenter, state, clip)
        if self.prompter.once_per_video and prediction.state is not None:
            prediction.state.prompt = prompt
        if self.adapter.looks_back and prediction.state is not None and not self.training:
            seen = clip.frames if clip.past is None else torch.cat([clip.past, clip.frames], 1)  # type: ignore[list-item]
            prediction.state.past = seen[:, -self.adapter.looks_back :]
        return replace(prediction, prompt=prompt)
