"""Which checkpoint is meant, whether it can be read, and writes that are never half done."""

import os
import warnings
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from rvos_lightning.parts.weights import changed_part


class CheckpointError(ValueError):
    """A checkpoint that cannot be continued from; names the file and the remedy."""


def checked(path: Path) -> Path:
    """A checkpoint given by name.

    Raises:
        CheckpointError: it is not there, cannot be read, or is no checkpoint of a run.
    """
    if not path.exists():
        beside = [str(file) for file in path.parent.glob("*.ckpt")] if path.parent.is_dir() else []
        near = get_close_matches(str(path), beside, n=3, cutoff=0.0)
        hint = f"\n  nearest   {', '.join(near)}" if near else ""
        raise CheckpointError(f"ckpt_path {path}: no such checkpoint{hint}")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"ckpt_path {path}: weights, not a run's checkpoint: start from them by --model.weights")
    if not readable(path):
        what = "a folder without FSDP2 or DeepSpeed shards" if path.is_dir() else "cut off, damaged or another file"
        raise CheckpointError(f"ckpt_path {path}: not a readable checkpoint ({what})")
    if path.is_file() and not of_a_run(path):
        raise CheckpointError(
            f"ckpt_path {path}: weights, not a run's checkpoint: convert them (rvos convert --help) and give "
            "--model.weights"
        )
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest readable checkpoint in `folder`; None when there is none. Unreadable ones are named.

    Of sharded checkpoints, which are folders, only `callbacks.LastCheckpoint`'s count: those are never half written.

    Raises:
        CheckpointError: there are some, but none can be read: going on would begin anew and overwrite them.
    """
    found = [path for path in folder.glob("*.ckpt") if path.is_file() or path.stem in ("last", "previous")]
    found = [path for path in found if path.is_file() or any(path.iterdir())]
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if readable(path):
            return path
        warnings.warn(f"{path} is not a readable checkpoint; trying the one before it", stacklevel=2)
    if found:
        names = ", ".join(sorted(path.name for path in found))
        raise CheckpointError(
            f"{folder}: none of its checkpoints can be read ({names}): put a copy back, or begin anew in another "
            "--trainer.default_root_dir; nothing was overwritten"
        )
    return None


def best_checkpoint(folder: Path) -> Path | None:
    """`best.ckpt` where it can be read, else the newest."""
    best = folder / "best.ckpt"
    return best if best.exists() and readable(best) else newest_checkpoint(folder)


def readable(path: Path) -> bool:
    """Whether a file loads, or a folder has the last thing written by FSDP2 or DeepSpeed."""
    if path.is_dir():
        latest = path / "latest"
        return (path / ".metadata").exists() or (latest.exists() and (path / latest.read_text().strip()).is_dir())
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # a truncated file fails in as many ways as there are places to cut it
        return False
    return changed_part(path) is None


def of_a_run(path: Path) -> bool:
    """Whether a readable file is Lightning's, with the state of loops."""
    content = torch.load(path, map_location="meta", weights_only=True)
    return isinstance(content, dict) and "state_dict" in content and "pytorch-lightning_version" in content


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the destination and renames, so that a kill or a full disk leaves the old file whole.

    Nothing passes through memory or the temporary folder, which need not have room for a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save through `<path>.partial`.

        Raises:
            CheckpointError: the disk is full or not writable; the file that was there is whole.
        """
        path, partial = Path(path), Path(f"{path}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            full = "no room left, most likely" if "inline_container" in str(error) else str(error).splitlines()[0]
            reason = error.strerror if isinstance(error, OSError) else full
            raise CheckpointError(
                f"{path}: cannot be written ({reason}); the checkpoint before it is kept. Make room, then go on with "
                "--ckpt_path last"
            ) from error
