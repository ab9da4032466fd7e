"""Under SLURM: a warned run saves and goes back into the queue, and never comes back from the dead."""

import os
import re
import signal
import subprocess
import time
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoint import LastCheckpoint


class Requeue(Callback):
    """On a warning signal: save at the next batch boundary, requeue if the job is still RUNNING, exit.

    One rule for all events: a job that SLURM has already taken back (`scontrol requeue`, preemption without grace,
    a lost node, `scancel`) is no longer RUNNING and must be left alone; one that only got a warning (time limit,
    preemption with grace) is, and would end for good if it exited without asking for more.

    Does nothing outside SLURM and in anything but `fit`. Signals that come while Python still imports are answered
    by `slurm/array.sbatch`.

    Args:
        signals: names of warning signals.
    """

    def __init__(self, signals: tuple[str, ...] = ("SIGUSR1", "SIGTERM")):
        self.signals = tuple(signal.Signals[name] for name in signals)
        self._caught: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen from here on.

        Raises:
            ValueError: there is no `LastCheckpoint`, so nothing to come back to.
        """
        if stage != "fit" or "SLURM_JOB_ID" not in os.environ:
            return
        if self._slot(trainer) is None:
            raise ValueError("callbacks.Requeue saves through callbacks.LastCheckpoint: keep --callbacks.last")
        self._listen()

    def _listen(self) -> None:
        for number in self.signals:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._caught = signal.Signals(number)  # nothing else is safe in a handler

    @staticmethod
    def _slot(trainer: Trainer) -> LastCheckpoint | None:
        return next((c for c in trainer.callbacks if isinstance(c, LastCheckpoint)), None)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has put its own handlers over ours, with collectives inside; put ours back."""
        if self._before:
            self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for a resumed run, which has no sanity check."""
        if self._before:
            self._listen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the step, to see whether this batch makes one."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Where an optimizer step has just been made, all ranks decide together."""
        if not self._before or trainer.global_step == self._step:
            return
        if trainer.strategy.reduce_boolean_decision(self._caught is not None, all=False):
            self._slot(trainer).save(trainer)  # type: ignore[union-attr]
            self._leave(trainer, f"saved at step {trainer.global_step}")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """In validation ranks cannot agree, as they have different numbers of batches, and need not: it was saved."""
        if self._before and self._caught is not None:
            self._leave(trainer, f"in validation, which will be repeated, at step {trainer.global_step}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A warned run that fails, e.g. because another rank has left, goes back to its last checkpoint."""
        if self._before and self._caught is not None and not isinstance(exception, SystemExit):
            self._ask(trainer, f"{type(exception).__name__} after the signal")

    def _leave(self, trainer: Trainer, where: str) -> None:
        self._ask(trainer, where)
        raise SystemExit(0)

    def _ask(self, trainer: Trainer, where: str) -> None:
        # Any rank may be the one that still lives; the first one's request ends RUNNING for the others.
        time.sleep(0.5 * min(trainer.global_rank, 4))
        done = requeue_if_running(this_job())
        name = self._caught.name if self._caught else "another rank's signal"
        print(f"[rank {trainer.global_rank}] requeue: {name}, {where}; {done}", flush=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the old handlers back, but let no warning end a process that is done and only has to exit."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if handler is signal.SIG_DFL else handler)
        self._before = {}


def this_job() -> str:
    """The id of this job or array task alone.

    SLURM_JOB_ID of an array's last task is the array's own id, by which `scontrol` means all of its tasks.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return os.environ["SLURM_JOB_ID"] if task is None else f"{array}_{task}"


def requeue_if_running(job: str) -> str:
    """Ask SLURM for the job's state and requeue it if RUNNING; says what was found and done."""
    state = "unknown"
    for _ in range(3):
        shown = _scontrol("show", "job", "--oneliner", job)
        if match := re.search(r"JobState=(\w+)", shown):
            state = match[1]
            break
        time.sleep(2)
    if state != "RUNNING":
        return f"job {job} is {state}, left alone"
    return f"job {job} was RUNNING, requeued {_scontrol('requeue', job)}".rstrip()


def _scontrol(*words: str) -> str:
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr
