"""SAM-I2V's memory: which frame loop runs in training, online and offline (paper, sections 3 and 4)."""

import torch

from rvos_lightning.core.types import Clip, Features, Prediction, Prompt, State
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.systems.sam_i2v.frame_loop import FrameLoop
from rvos_lightning.systems.sam_i2v.memory_bank import TrackState
from rvos_lightning.systems.sam_i2v.rounds import OfflineRounds
from rvos_lightning.systems.sam_i2v.steps import MemorySteps


class PromptMemory(MemorySteps):
    """Memory selective associator and memory prompt generator around a frame loop; arguments: see `MemorySteps`.

    `torch.compile` leaves it out: a frame's steps go by what users said and which frames are remembered, so that nearly
    every frame would be compiled anew. Encoder and integrator are compiled.
    """

    @torch.compiler.disable
    def forward(
        self, features: Features, prompt: Prompt, segmenter: Sam, state: State | None, clip: Clip
    ) -> Prediction:
        """Segment the window; see `seams.Memory`."""
        loop = self.loop(segmenter, features, prompt, clip, state)
        if self.training:
            return loop.train()
        if clip.user is not None and clip.user.revisits:
            return OfflineRounds(loop).run()
        return loop.track()

    def loop(self, sam: Sam, features: Features, prompt: Prompt, clip: Clip, state: State | None) -> FrameLoop:
        """The frame loop over one window, going on from `state`."""
        state = state if isinstance(state, TrackState) else TrackState()
        return FrameLoop(self, sam, features.pyramid[-1], prompt, clip, state)
