"""Slow steps that say where they are, so that a drill can strike at a known place."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import SegmentedWindow


class Slow(Callback):
    """Sleeps in every batch and prints the step; the weights do not notice.

    Args:
        seconds: per training batch.
        validation: per validation batch.
    """

    def __init__(self, seconds: float, validation: float = 0.0):
        self.seconds, self.validation = seconds, validation

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Say the step, then sleep."""
        print(f"at step {trainer.global_step}.", flush=True)
        time.sleep(self.seconds)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Say so, then sleep."""
        if not trainer.sanity_checking:
            print(f"validating at step {trainer.global_step}.", flush=True)
            time.sleep(self.validation)


class SlowWindows(MaskSink):
    """Sleeps at every window of an evaluation.

    Args:
        seconds: per window.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Sleep."""
        time.sleep(self.seconds)
