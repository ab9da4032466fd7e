"""A process that stops taking part, without dying."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Stall(Callback):
    """One rank sleeps at one step.

    Args:
        step: optimizer steps done.
        rank: who sleeps.
    """

    def __init__(self, step: int, rank: int):
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sleep."""
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            time.sleep(600)
