"""Which checkpoints a run keeps: the best by a score, and the newest."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation score as `checkpoints/best.ckpt`.

    Args:
        monitor: logged score.
        mode: "max" or "min".
    """

    def __init__(self, monitor: str = "val/j_and_f", mode: str = "max"):
        super().__init__(
            filename="best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False,
            auto_insert_metric_name=False, save_on_train_epoch_end=False,
        )  # fmt: skip


class LastCheckpoint(Checkpoint):
    """Replaces one file, `checkpoints/last.ckpt`, every n steps and after every epoch.

    One slot, so that no quota fills up; the write goes through a temporary file, so a kill leaves a whole file.

    Args:
        every_n_steps: optimizer steps between saves; 0 saves at epoch ends only.
    """

    def __init__(self, every_n_steps: int = 200):
        self.every_n_steps = every_n_steps
        self._saved_at = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the step count is due."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save once an epoch at least."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run or trainer.global_step == self._saved_at:  # gradient accumulation repeats a step
            return
        self._saved_at = trainer.global_step
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt")
