"""The command line in processes of its own, with limits that hold even where a process ignores SIGTERM."""

import os
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch
from fork_server import forked

ROOT = Path(__file__).resolve().parents[2]
DRILLS = Path(__file__).resolve().parent

# Twelve batches an epoch on one process, six on each of two; a run of 20 steps ends in the middle of an epoch.
SMALL = [
    "--data.size", "32", "--data.clip_length", "4", "--data.train_clips", "12", "--data.val_clips", "3",
    "--data.batch_size", "2", "--data.eval_batch_size", "1", "--data.workers", "0",
    "--trainer.accelerator", "cpu", "--trainer.max_steps", "20",
    "--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "1.0",
    "--trainer.enable_progress_bar", "false",
    "--callbacks.curves", "null", "--callbacks.film", "null", "--callbacks.overlay", "null",
    "--callbacks.scores", "null", "--callbacks.last.every_n_steps", "2",
]  # fmt: skip
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]


SERVER = ExitStack()  # closed at the end of the session (tests/conftest.py)


@cache
def python() -> str:
    """A program used like `python` whose processes have imported the libraries already (`fork_server.forked`)."""
    folder = SERVER.enter_context(tempfile.TemporaryDirectory(prefix="rvos_python"))
    return SERVER.enter_context(forked(Path(folder)))


def command(*args: object) -> list[str]:
    """The words of one command line."""
    return [python(), "-W", "ignore", "-m", "rvos_lightning", *(str(arg) for arg in args)]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the drills importable, one thread a process and no SLURM around."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RVOS_RUN_DIR"))}
    path = os.pathsep.join([str(DRILLS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def start(*args: object, log: IO | None = None, **env: str) -> subprocess.Popen:
    """Start the command line as the head of a process group of its own; `log` takes what it prints."""
    return subprocess.Popen(
        command(*args), cwd=ROOT, env=environment(FORK_OWN_GROUP="1", **env), text=True,
        stdout=log or subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen, limit: float = 180) -> str:
    """Wait, and return what it printed; a process that hangs is killed with all it started.

    Raises:
        AssertionError: it was still running after `limit` seconds.
    """
    try:
        return process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"hung for {limit} s: {process.communicate()[0][-3000:]}") from None
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Kill what is left of a process and of those it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(*args: object, code: int | tuple[int, ...] = 0, limit: float = 180, **env: str) -> str:
    """Start, finish and check the exit status; of several allowed ones any will do."""
    process = start(*args, **env)
    printed = finish(process, limit)
    codes = code if isinstance(code, tuple) else (code,)
    assert process.returncode in codes, f"exit status {process.returncode}, expected {code}\n{printed[-4000:]}"
    return printed


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """A run's checkpoint."""
    return torch.load(folder / "checkpoints" / name, map_location="cpu", weights_only=True)


def differing(first: Any, second: Any, where: str = "") -> list[str]:
    """Paths at which two nests of dicts, lists, numbers and tensors are not bit-identical."""
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
        return [] if same else [where]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{where} keys {set(first) ^ set(second)}"]
        return [path for key in first for path in differing(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{where} length"]
        pairs = enumerate(zip(first, second, strict=True))
        return [path for i, (a, b) in pairs for path in differing(a, b, f"{where}/{i}")]
    return [] if first == second else [where]
