"""DeepSpeed on a machine without a GPU, for tests alone: Lightning's strategy refuses to start there.

Two methods differ. The second is private to Lightning, which is why this must not leave the tests; needs
DS_ACCELERATOR=cpu, ninja and a C++ compiler (DeepSpeed builds one small operator on first use).
"""

import argparse
from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, ParallelStrategy
from torch import nn


class CPUDeepSpeed(DeepSpeedStrategy):
    """ZeRO over gloo."""

    def setup_environment(self) -> None:
        """As the parent, less its check for CUDA."""
        super(ParallelStrategy, self).setup_environment()
        self.setup_distributed()

    def setup_distributed(self) -> None:
        """As the parent, less its check of device indices."""
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> tuple[Any, Any]:
        """CPU devices have no index: say which rank this is."""
        import deepspeed

        engine, optimizer, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank), config=self.config, model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad], optimizer=optimizer,
            lr_scheduler=lr_scheduler, dist_init_required=False,
        )  # fmt: skip
        return engine, optimizer
