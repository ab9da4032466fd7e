"""Signals: a warned run saves and ends; under SLURM it goes back into the queue, and never from the dead."""

import os
import re
import signal
import subprocess
import threading
import time
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.checkpoint import LastCheckpoint
from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import SegmentedWindow


class Requeue(MaskSink):
    """Answers signals: `fit` saves at the next step and ends; other verbs end within one window of a video.

    Under SLURM a warned `fit` also goes back into the queue, by one rule for all events: a job that SLURM has already
    taken back (`scontrol requeue`, preemption without grace, a lost node, `scancel`) is no longer RUNNING and must be
    left alone; one that only got a warning (time limit, preemption with grace) is, and would end for good if it exited
    without asking for more. Signals that come while Python still imports are answered by `slurm/array.sbatch`.

    Outside SLURM only SIGTERM is listened to, and the process ends with status 143, as one that had not listened.

    Args:
        signals: names of SLURM's warning signals.
    """

    def __init__(self, signals: tuple[str, ...] = ("SIGUSR1", "SIGTERM")):
        self.signals = tuple(signal.Signals[name] for name in signals)
        self._caught: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._step = -1
        self._fitting = False
        self._launcher: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen from here on.

        Raises:
            ValueError: under SLURM, there is no `LastCheckpoint`, so nothing to come back to.
        """
        self._fitting, self._caught, self._launcher = stage == "fit", None, trainer.strategy.launcher
        if self._fitting and in_slurm() and self._slot(trainer) is None:
            raise ValueError("callbacks.Requeue saves through callbacks.LastCheckpoint: keep --callbacks.last")
        self._listen()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # a notebook's or a server's thread: signals are somebody else's
        for number in self.signals if in_slurm() and self._fitting else (signal.SIGTERM,):
            before = signal.signal(number, self._note)
            if before != self._note:
                self._before.setdefault(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._caught = signal.Signals(number)  # nothing else is safe in a handler

    @staticmethod
    def _slot(trainer: Trainer) -> LastCheckpoint | None:
        return next((c for c in trainer.callbacks if isinstance(c, LastCheckpoint)), None)

    def _listen_again(self) -> None:
        # Lightning has put its own handler over ours, with collectives inside; put ours back.
        if self._before:
            self._listen()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen again."""
        self._listen_again()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for a resumed run, which has no sanity check."""
        self._listen_again()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen again."""
        self._listen_again()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen again."""
        self._listen_again()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen again."""
        self._listen_again()

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
            slot = self._slot(trainer)
            if slot is not None:
                slot.save(trainer)
            self._leave(trainer, f"saved at step {trainer.global_step}" if slot else f"at step {trainer.global_step}")

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """In evaluation ranks cannot agree, as they have different numbers of batches, and need not."""
        if self._before and self._caught is not None:
            step = self._step + 1
            if self._launcher is not None and hasattr(self._launcher, "kill"):
                self._launcher.kill(signal.SIGTERM)  # the processes that this one started
            if self._fitting:
                self._leave(None, f"in validation, which will be repeated, at step {step}")
            self._leave(None, "what is done is kept")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A warned run that fails, e.g. because another rank has left, goes back to its last checkpoint."""
        warned = self._before and self._caught is not None and not isinstance(exception, SystemExit)
        if warned and self._fitting and in_slurm():
            self._ask(trainer.global_rank, f"{type(exception).__name__} after the signal")

    def _leave(self, trainer: Trainer | None, where: str) -> None:
        rank = int(os.environ.get("SLURM_PROCID") or 0) if trainer is None else trainer.global_rank
        if in_slurm() and self._fitting:
            self._ask(rank, where)
            raise SystemExit(0)
        name = self._caught.name if self._caught else "another rank's signal"
        again = "--ckpt_path last with the same folder" if self._fitting else "the same command"
        print(f"[rank {rank}] stopped: {name}, {where}; {again} goes on", flush=True)
        raise SystemExit(143)

    def _ask(self, rank: int, where: str) -> None:
        # Any rank may be the one that still lives; the first one's request ends RUNNING for the others.
        time.sleep(0.5 * min(rank, 4))
        done = requeue_if_running(this_job())
        name = self._caught.name if self._caught else "another rank's signal"
        print(f"[rank {rank}] requeue: {name}, {where}; {done}", flush=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the old handlers back, but let no warning end a SLURM job that is done and only has to exit."""
        for number, handler in self._before.items():
            ignored = handler is signal.SIG_DFL and in_slurm() and self._fitting
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        self._before = {}


def in_slurm() -> bool:
    """Whether this is part of a SLURM job."""
    return "SLURM_JOB_ID" in os.environ


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
