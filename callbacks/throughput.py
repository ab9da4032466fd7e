"""Clips per second, share of time spent waiting for data, and GPU memory, in the log by default."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rvos_lightning.core.types import Batch


class Throughput(Callback):
    """Logs `speed/clips_per_second`, `speed/data_wait` (0..1) and `speed/gpu_gb` every `log_every_n_steps`."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._logged = trainer.global_step
        self._reset()

    def _reset(self) -> None:
        self._clips, self._waited, self._since = 0, 0.0, time.perf_counter()
        self._last_end = self._since

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """What passed since the last batch ended was waiting for data."""
        self._waited += time.perf_counter() - self._last_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch; log when Lightning writes its log, which goes by optimizer steps, not by batches."""
        self._clips += len(batch.clip)
        self._last_end = time.perf_counter()
        step = trainer.global_step
        if step == self._logged or step % trainer.log_every_n_steps:
            return
        self._logged = step
        passed = self._last_end - self._since
        values = {"speed/clips_per_second": self._clips / passed, "speed/data_wait": self._waited / passed}
        if pl_module.device.type == "cuda":
            values["speed/gpu_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log_dict(values, batch_size=len(batch.clip))
        self._reset()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is not training time."""
        self._reset()
