"""The smallest network that is trained, with its loss and its data."""

import torch
from torch import nn

from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Prediction, Targets
from rvos_lightning.parts.weights import freeze, mark_reproducible


class Line(Network):
    """A frozen part from a file and a trained one."""

    def __init__(self):
        super().__init__()
        self.frozen = mark_reproducible(freeze(nn.Conv2d(3, 3, 1)), "somewhere.pt")
        self.head = nn.Conv2d(3, 1, 1)

    def forward(self, clip, state=None):
        frames = clip.frames[clip.video]
        return Prediction(self.head(self.frozen(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])[:, :, 0])


class Square(Objective):
    def __init__(self, name="square", factor=1.0):
        self.name, self.factor = name, factor

    def terms(self, batch, prediction):
        return {self.name: (prediction.mask_logits**2).mean() * self.factor}


def batch():
    meta = ClipMeta("video_7", "3", ("0", "1"), (4, 4), (4, 4), (0, 1))
    clip = Clip(torch.rand(1, 2, 3, 4, 4), torch.tensor([0]), ["a thing"], [meta])
    return Batch(clip, Targets(torch.ones(1, 2, 4, 4, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)))
