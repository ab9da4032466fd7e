"""Patches and sentences in one space: how a small CLIP learns to name what it sees.

Regions are compared, not whole pictures: a sentence with every patch of its picture (LSeg, Li et al. 2022,
"Language-driven Semantic Segmentation", equation 1), so that whatever else is in the picture are the negatives.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Clip, Prediction, State
from rvos_lightning.systems.clip_sam.network import pictures, resized
from rvos_lightning.systems.clip_sam.towers import SmallTower


class PatchesAndWords(Network):
    """A mask is where patches are like the sentence: scaled cosines, above a learned threshold.

    Args:
        tower: what shall learn; its patches and texts have one width.
    """

    says_presence = False

    def __init__(self, tower: SmallTower) -> None:
        super().__init__()
        self.tower = tower
        self.scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # where CLIP's own starts
        self.threshold = nn.Parameter(torch.tensor([0.5]))

    def forward(self, clip: Clip, state: State | None = None) -> Prediction:
        """Compare every sentence with the patches of its frames; see `seams.Network`.

        Raises:
            ValueError: no expressions.
        """
        if not clip.expressions:
            raise ValueError("this network compares pictures with sentences, and the clip has none: give data that has")
        frames = torch.cat([resized(f, self.tower.image_size, "bicubic") for f in pictures(clip)])
        patches = F.normalize(self.tower.look(frames), dim=-1).unflatten(0, (-1, clip.time))[clip.video]
        likeness = torch.einsum("btpc,bc->btp", patches, self.tower.read(clip.expressions))
        logits = self.scale.exp() * (likeness - self.threshold)
        return Prediction(logits.unflatten(2, (self.tower.grid, self.tower.grid)), covers="picture")
