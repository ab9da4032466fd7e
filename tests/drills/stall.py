"""A process that stops taking part, without dying."""

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Stall(Callback):
    """One rank sleeps at one step.

    Args:
        step: optimizer steps done.
        rank: who sleeps.
        note: a folder in which every rank then leaves its process id.
    """

    def __init__(self, step: int, rank: int, note: Path | None = None):
        self.step, self.rank, self.note = step, rank, note

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sleep."""
        if trainer.global_step != self.step:
            return
        if self.note is not None:
            self.note.mkdir(exist_ok=True)
            (self.note / str(trainer.global_rank)).write_text(str(os.getpid()))
        if trainer.global_rank == self.rank:
            time.sleep(600)
