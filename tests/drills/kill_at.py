"""A power cut: this very process ends by SIGKILL, no handler, no clean-up; or a signal that lets it end itself."""

import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class KillAt(Callback):
    """Kills its own process at the start of one training or validation batch.

    Args:
        step: optimizer steps done when the cut comes.
        rank: which process is hit.
        validating: hit the first validation batch after that step instead of a training batch.
        by: the signal; SIGTERM, which can be answered, is what a scheduler sends first.
    """

    def __init__(self, step: int, rank: int = 0, validating: bool = False, by: str = "SIGKILL"):
        self.step, self.rank, self.validating, self.by = step, rank, validating, signal.Signals[by]

    def _hit(self, trainer: Trainer) -> None:
        if trainer.global_step >= self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.by)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hit a training batch."""
        if not self.validating:
            self._hit(trainer)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Hit a validation batch."""
        if self.validating:
            self._hit(trainer)
