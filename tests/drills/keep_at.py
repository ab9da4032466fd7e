"""What a power cut would leave behind, without the cut: a copy of the checkpoint slot in the middle of a run."""

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class KeepAt(Callback):
    """Copies `last.ckpt`, a file or a folder of shards, into another run's folder.

    Args:
        step: optimizer steps done; the slot must just have been written.
        folder: of the other run.
    """

    def __init__(self, step: int, folder: Path):
        self.step, self.folder = step, folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The slot is whole here: every rank has passed the barrier at the end of its writing."""
        if trainer.is_global_zero and trainer.global_step == self.step:
            source, copied = (Path(f) / "checkpoints/last.ckpt" for f in (trainer.default_root_dir, self.folder))
            copied.parent.mkdir(parents=True)
            shutil.copytree(source, copied) if source.is_dir() else shutil.copy(source, copied)
