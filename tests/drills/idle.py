"""An adapter with layers that a loss does not always reach: what plain DDP hangs on, and sharded strategies mix up."""

import random
from dataclasses import replace
from typing import Any

from torch import nn

from rvos_lightning.core.seams import Segmenter
from rvos_lightning.core.types import Clip, Features
from rvos_lightning.systems.tiny.film_adapter import FiLMAdapter


class IdleAdapter(FiLMAdapter):
    """FiLM, a layer that never runs, a small one and a large block that run in about every second step."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.idle = nn.Linear(2, 2)
        self.odd = nn.Linear(1, 1)
        self.blocks = nn.ModuleList([nn.Linear(40, 40)])

    def forward(self, clip: Clip, segmenter: Segmenter) -> Features:
        """As the parent, changed a little where the dice say so; they fall alike on all ranks."""
        features = super().forward(clip, segmenter)
        if self.training and random.random() < 0.5:
            return features
        *finer, last = features.pyramid
        added = self.odd(last.mean().view(1)) + 0.01 * self.blocks[0](last.new_ones(40)).sum()
        return replace(features, pyramid=(*finer, last * (1 + 0.01 * added)))
