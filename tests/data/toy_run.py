"""A tiny Lightning run on MovingShapes whose weights depend on every pixel and word it saw, in order.

Run as a script it can be killed at a step and continued: python toy_run.py FOLDER WORKERS DEVICES STEPS [KILL_AT]
"""

import os
import signal
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from rvos_lightning.core.types import Batch
from rvos_lightning.data.clips.sample import Augmentation, ClipSample
from rvos_lightning.data.lightning_module import VideoDataModule
from rvos_lightning.data.shapes.moving_shapes import MovingShapes


class Noise(Augmentation):
    """Randomness that would show if it were not drawn from (seed, epoch, index)."""

    def __call__(self, sample: ClipSample, random: Any) -> ClipSample:
        sample.frames = (sample.frames.int() + int(random.integers(50))).clamp(max=255).to(torch.uint8)
        return sample


class Toy(LightningModule):
    """Weights are a hash-like function of all batches so far; `seen` lists what came by."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Linear(4, 1, dtype=torch.float64)
        self.register_buffer("calls", torch.zeros(()))  # DDP broadcasts buffers: uneven evaluation must survive it
        torch.nn.init.constant_(self.weight.weight, 0.5)
        torch.nn.init.constant_(self.weight.bias, 0.0)
        self.seen: list[list[str]] = []
        self.evaluated: list[str] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        ids = [f"{m.video}/{m.item}" for m in batch.clip.meta]
        self.seen.append(ids)
        words = sum(zlib.crc32(text.encode()) % 97 for text in batch.clip.expressions or [])
        means = [float(batch.clip.frames.double().mean()), float(batch.targets.masks.double().mean())]
        facts = torch.tensor([*means, words / 97.0, 1.0], dtype=torch.float64)
        return (self.weight(facts) ** 2).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluated += [f"{m.video}/{m.item}" for m in batch.clip.meta]

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size > 1:  # a metric's gathering: every rank must get here
            total = torch.tensor(len(self.evaluated))
            torch.distributed.all_reduce(total)
            self.total = int(total)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class KillAt(Callback):
    """SIGKILL to the whole process group after a step's checkpoint was written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            os.killpg(0, signal.SIGKILL)


def data(workers: int = 0, clips: int = 22, **kwargs: Any) -> MovingShapes:
    kwargs = {"batch_size": 2, "expressions_per_video": 1, "val_clips": 3, "eval_batch_size": 1} | kwargs
    return MovingShapes(train_clips=clips, size=16, clip_length=2, augment=[Noise()], workers=workers, seed=3, **kwargs)


def trainer(
    folder: Path, steps: int, devices: int = 1, callbacks: list[Callback] | None = None, **kwargs: Any
) -> Trainer:
    save = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, monitor=None)
    # Lightning evaluates through DDP, whose buffer broadcast is a collective a step: fatal where ranks are uneven.
    ddp = DDPStrategy(process_group_backend="gloo", broadcast_buffers=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=ddp if devices > 1 else "auto",
        max_steps=steps,
        default_root_dir=folder,
        use_distributed_sampler=False,
        callbacks=[save, *(callbacks or [])],
        **{"limit_val_batches": 0, **quiet, **kwargs},
    )


def newest(folder: Path) -> str | None:
    found = sorted(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.split("=")[1].split("-")[0]))
    return str(found[-1]) if found else None


def main() -> None:
    folder, workers, devices, steps = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    callbacks = [KillAt(int(sys.argv[5]))] if len(sys.argv) > 5 else []
    toy = Toy()
    run = trainer(folder, steps, devices, callbacks)
    run.fit(toy, datamodule=VideoDataModule(data(workers)), ckpt_path=newest(folder), weights_only=True)
    if run.is_global_zero:
        torch.save({"state": toy.state_dict(), "seen": toy.seen}, folder / "end.pt")


if __name__ == "__main__":
    main()
