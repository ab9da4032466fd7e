"""Where a run writes, which checkpoint is the newest valid one, and writes that are never half done."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

RUN_DIR = "RVOS_RUN_DIR"  # how the processes of one launch agree on a folder


def claim(configured: str | None, subcommand: str, configs: Sequence[str]) -> Path:
    """The run's folder: the configured one, or the next free number under `runs/<config>/<subcommand>`.

    A run started by SLURM without a configured folder is named after its job, so that a requeued task finds its
    own checkpoints and two array tasks never share a folder.
    """
    if configured is not None:
        folder = Path(configured)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if RUN_DIR in os.environ:
        return Path(os.environ[RUN_DIR])
    parent = Path("runs") / (Path(configs[0]).stem if configs else "run") / subcommand
    parent.mkdir(parents=True, exist_ok=True)
    folder = _slurm_folder(parent) or _next_free(parent)
    os.environ[RUN_DIR] = str(folder)
    return folder


def _slurm_folder(parent: Path) -> Path | None:
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    if job is None or "SLURM_NTASKS" not in os.environ:
        return None
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    folder = parent / (job if task is None else f"{job}_{task}")
    folder.mkdir(exist_ok=True)
    return folder


def _next_free(parent: Path) -> Path:
    number = len(list(parent.iterdir()))
    while True:
        try:
            (parent / str(number)).mkdir()  # creating it is what claims it: two starts never share a folder
        except FileExistsError:
            number += 1
        else:
            return parent / str(number)


def restarted() -> bool:
    """Whether SLURM has started this job before, so that it must go on where it was and not begin anew."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest readable checkpoint in `folder`; None when there is none. Unreadable files are named.

    Of sharded checkpoints, which are folders, only `callbacks.LastCheckpoint`'s count: those are never half written.
    """
    candidates = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in candidates:
        if path.is_dir():
            if path.stem in ("last", "previous"):
                return path
        elif _readable(path):
            return path
        else:
            warnings.warn(f"{path} is not a readable checkpoint; trying the one before it", stacklevel=2)
    return None


def _readable(path: Path) -> bool:
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # a truncated file fails in as many ways as there are places to cut it
        return False
    return True


@rank_zero_only
def keep_rows(metrics: Path) -> None:
    """Rename an earlier start's `metrics.csv` to the next free `metrics_<n>.csv`: the CSV logger would delete it."""
    if metrics.exists():
        number = 1 + len(list(metrics.parent.glob("metrics_*.csv")))
        metrics.rename(metrics.with_name(f"metrics_{number}.csv"))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the destination and renames, so that a kill in the middle leaves the old file whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save through `<path>.partial`."""
        partial = f"{path}.partial"
        super().save_checkpoint(checkpoint, partial, storage_options)
        os.replace(partial, path)
