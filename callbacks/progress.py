"""How far a run is: a bar with the loss on a terminal, a line a minute anywhere else."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import SegmentedWindow

LOOKS = 0.25  # seconds between two looks at the numbers: reading a loss waits for the device


class Progress(MaskSink, ProgressBar):
    """Training in optimizer steps with its losses, evaluation and prediction in frames, each with its real total.

    Args:
        every: seconds between two lines where there is no terminal.
    """

    def __init__(self, every: float = 60):
        ProgressBar.__init__(self)
        self.every = every
        self._shown: dict[str, Task] = {}
        self._bars: Any = None
        self._hidden = False

    def disable(self) -> None:
        """Show nothing: on all ranks but the first."""
        self._hidden = True

    def enable(self) -> None:
        """Show again."""
        self._hidden = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the run goes on."""
        total = trainer.estimated_stepping_batches
        self._begin("train", None if total == float("inf") else int(total), "steps", trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step and the losses."""
        self._step("train", trainer.global_step, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last numbers."""
        self._finish("train", trainer)

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Count a window's frames, once for all its items."""
        name = {"val": "validate"}.get(stage, stage)
        if name in self._shown and window.clip is not None:
            done = self._shown[name].done + len(set(window.clip.video.tolist())) * window.clip.time
            self._step(name, done, None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A second bar, which goes when the validation is over."""
        if not trainer.sanity_checking:
            self._begin("validate", frames_in(trainer.val_dataloaders, trainer.num_val_batches), "frames")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it away."""
        self._finish("validate", None)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._begin("test", frames_in(trainer.test_dataloaders, trainer.num_test_batches), "frames")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it away."""
        self._finish("test", None)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._begin("predict", frames_in(trainer.predict_dataloaders, trainer.num_predict_batches), "frames")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it away."""
        self._finish("predict", None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        for name in list(self._shown):
            self._finish(name, None)

    def _begin(self, name: str, total: int | None, unit: str, done: int = 0) -> None:
        if self._hidden:
            return
        self._shown[name] = Task(name, total, unit, done)
        if sys.stdout.isatty():
            if self._bars is None:
                self._bars = new_bars()
                self._bars.start()
            self._shown[name].bar = self._bars.add_task(name, total=total, completed=done, unit=unit, said="")

    def _step(self, name: str, done: int, trainer: Trainer | None) -> None:
        task = self._shown.get(name)
        if task is None:
            return
        task.done, now = done, time.monotonic()
        if now - task.told < (LOOKS if task.bar is not None else self.every):
            return
        task.told = now
        self._tell(task, losses(trainer))

    def _tell(self, task: "Task", said: str) -> None:
        if task.bar is None:
            print(task.line(said), flush=True)
        else:
            self._bars.update(task.bar, completed=task.done, said=said)

    def _finish(self, name: str, trainer: Trainer | None) -> None:
        task = self._shown.pop(name, None)
        if task is None:
            return
        if task.bar is None:
            if time.monotonic() - task.start > self.every and task.said != task.done:
                print(task.line(losses(trainer)), flush=True)
            return
        self._tell(task, losses(trainer))
        if name == "validate" and self._shown:
            self._bars.remove_task(task.bar)
        if not self._shown:
            self._bars.stop()
            self._bars = None


class Task:
    """One thing that is being done."""

    def __init__(self, name: str, total: int | None, unit: str, done: int = 0):
        self.name, self.total, self.unit, self.done, self.first = name, total, unit, done, done
        self.start = self.told = time.monotonic()
        self.said: int | None = None
        self.bar: Any = None

    def line(self, said: str) -> str:
        """`train 120/900 steps  loss 0.412  1.9 steps/s  6:50 left`."""
        self.said, passed = self.done, time.monotonic() - self.start
        rate = (self.done - self.first) / passed if passed > 0 else 0.0
        parts = [f"{self.name} {self.done}/{self.total or '?'} {self.unit}", said, f"{rate:.2g} {self.unit}/s"]
        if self.total == self.done:
            parts.append(f"in {clock(passed)}")
        elif self.total and rate:
            parts.append(f"{clock((self.total - self.done) / rate)} left")
        return "  ".join(part for part in parts if part)


def clock(seconds: float) -> str:
    """`6:50`, `1:06:50`."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def losses(trainer: Trainer | None) -> str:
    """The sum of the losses, and its terms where there are several."""
    found = {} if trainer is None else trainer.callback_metrics
    terms = {name.removeprefix("train/"): float(v) for name, v in found.items() if name.startswith("train/")}
    terms = {"loss": terms.pop("loss"), **(terms if len(terms) > 1 else {})} if "loss" in terms else terms
    return "  ".join(f"{name} {value:.3g}" for name, value in terms.items())


def frames_in(loaders: Any, batches: Any) -> int | None:
    """Frames that this process is going to see; None where its data module does not say.

    Args:
        loaders: as the trainer has them.
        batches: how many of each it will take.
    """
    loader = loaders[0] if isinstance(loaders, list) and len(loaders) == 1 else loaders
    loader = getattr(loader, "loader", loader)
    frames = getattr(getattr(loader, "dataset", None), "frames", None)
    if frames is None:
        return None
    limit = batches[0] if isinstance(batches, list) else batches
    mine = list(loader.sampler)
    return sum(frames[index] for index in (mine if limit == float("inf") else mine[: int(limit)]))


def new_bars() -> Any:
    """The bars of a terminal."""
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("<"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[said]}"),
        refresh_per_second=4,
    )
