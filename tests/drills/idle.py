"""An adapter with a layer that nothing uses: what plain DDP hangs on."""

from typing import Any

from torch import nn

from rvos_lightning.systems.tiny.film_adapter import FiLMAdapter


class IdleAdapter(FiLMAdapter):
    """FiLM, and a layer that never runs."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.idle = nn.Linear(2, 2)
