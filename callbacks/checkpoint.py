"""Which checkpoints a run keeps: the best by a score, and the newest."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from rvos_lightning.core.bounds import FromZero
from rvos_lightning.metrics.torch_metric import TorchMetric


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation score as `checkpoints/best.ckpt`.

    Args:
        monitor: logged score; None: the one that the paper of the validated data quotes ("val/j_and_f" for most).
        mode: "max" or "min".
    """

    def __init__(self, monitor: str | None = None, mode: str = "max"):
        super().__init__(
            filename="best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False,
            auto_insert_metric_name=False, save_on_train_epoch_end=False,
        )  # fmt: skip

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Beside the last checkpoint, whichever logger is on."""
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if self.monitor is None:
            pl_module.ask_data(stage)  # callbacks are set up before the module
            main = [m.protocol.main_score for m in pl_module.metrics.values() if isinstance(m, TorchMetric)]
            self.monitor = f"val/{main[0] if main else 'j_and_f'}"
        super().setup(trainer, pl_module, stage)


class LastCheckpoint(Checkpoint):
    """Replaces one slot, `checkpoints/last.ckpt`, every n steps, before and after every validation, after every epoch.

    One slot, so that no quota fills up. File or folder of shards, it is written as `last.partial` and renamed, so a
    kill leaves a whole one: `last.ckpt`, or for an instant `previous.ckpt`. A run killed inside a validation repeats
    that validation when it goes on; Lightning by itself would leave it out.

    Args:
        every_n_steps: optimizer steps between saves; 0 saves at validations and epoch ends only.
    """

    def __init__(self, every_n_steps: FromZero = 200):
        self.every_n_steps = every_n_steps
        self._saved_at = -1
        self._validation_ahead = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was just loaded need not be saved; between steps, accumulated gradients would be lost."""
        self._saved_at = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the step count is due."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._save_once(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save once an epoch at least."""
        self._save_once(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save with the validation still to come."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step:
            self._validation_ahead = True
            self.save(trainer)
            self._validation_ahead = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save with the validation done."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.global_step:
            self.save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let Lightning, when it loads this, find a validation that was stopped in its first batch."""
        if self._validation_ahead:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for count in (progress["total"], progress["current"]):
                count["ready"] = count["started"] = count["completed"] + 1

    def _save_once(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved_at:  # gradient accumulation repeats a step
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the slot; every rank must call this, at the end of a batch with an optimizer step."""
        if trainer.fast_dev_run:
            return
        refuse_non_finite(trainer, pl_module=trainer.lightning_module)
        self._saved_at = trainer.global_step
        folder = Path(trainer.default_root_dir) / "checkpoints"
        if trainer.is_global_zero:
            remove(folder / "last.partial")
        trainer.strategy.barrier("an older half-written checkpoint is gone")
        trainer.save_checkpoint(folder / "last.partial", weights_only=False)
        if trainer.is_global_zero:
            put_in_place(folder / "last.partial", folder / "last.ckpt", folder / "previous.ckpt")
        trainer.strategy.barrier("the checkpoint is in its place")


class NonFiniteWeights(ValueError):
    """Weights that are NaN or infinite, which no checkpoint may replace good ones by."""


def refuse_non_finite(trainer: Trainer, pl_module: LightningModule) -> None:
    """Before a checkpoint replaces the one before it: are all trainable weights numbers? Every rank must call this.

    Raises:
        NonFiniteWeights: on some rank one is not; names the first found on this rank.
    """
    named = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad and p.is_floating_point()]
    local = [p.to_local() if hasattr(p, "to_local") else p for _, p in named]
    finite = torch.stack([part.detach().isfinite().all() for part in local]).tolist() if local else []
    bad = next((name for (name, _), good in zip(named, finite, strict=True) if not good), None)
    if trainer.strategy.reduce_boolean_decision(bad is not None, all=False):
        raise NonFiniteWeights(
            f"{bad or 'a weight on another rank'} is NaN or infinite at step {trainer.global_step}: not saved, the "
            "last good checkpoint is kept. Lower the learning rate or clip gradients, and go on with --ckpt_path last"
        )


def put_in_place(new: Path, slot: Path, aside: Path) -> None:
    """Rename `new` to `slot`; at every instant `slot` or `aside` is whole."""
    if slot.is_dir() or (new.is_dir() and slot.exists()):
        remove(aside)
        slot.rename(aside)
    new.replace(slot)
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
