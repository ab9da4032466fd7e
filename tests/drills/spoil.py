"""Weights that are no numbers any more, as one bad gradient under a finite loss leaves them."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SpoilAt(Callback):
    """Writes NaN into one parameter after a step.

    Args:
        step: optimizer steps done.
    """

    def __init__(self, step: int):
        self.step = step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Spoil the first parameter."""
        if trainer.global_step == self.step:
            next(p for p in pl_module.parameters() if p.requires_grad).flatten()[0] = float("nan")
