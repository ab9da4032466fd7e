"""Real kills inside writes: what was there before, or what was to be written, whole; and writing again is the same."""

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks.film import Film as OverlayFilm
from rvos_lightning.core.types import ClipMeta
from rvos_lightning.metrics.submission import MaskFolder
from rvos_lightning.metrics.tables import write_table
from rvos_lightning.run.checkpoints import AtomicCheckpointIO

ROWS = 4000


def checkpoint(place: Path, version: int) -> Path:
    state = {"state_dict": {"w": torch.from_numpy(np.full(300_000, version, np.float32))}}
    AtomicCheckpointIO().save_checkpoint(state, place / "last.ckpt")
    return place / "last.ckpt"


def film(place: Path, version: int) -> Path:
    writer = OverlayFilm(place / "overlay.mp4", (64, 64), 10)
    for number in range(12):
        writer.add(torch.from_numpy(np.full((3, 64, 64), version * 40 + number, np.uint8)))
    writer.close()
    return place / "overlay.mp4"


def archive(place: Path, version: int) -> Path:
    frames = tuple(f"{n:05d}" for n in range(12))
    meta = ClipMeta("v", "0", frames, (64, 64), (64, 64), tuple(range(12)))
    folder = MaskFolder(place / "masks", "mevis")
    masks = np.zeros((1, 12, 64, 64), bool)
    masks[..., : 10 * version] = True
    folder.write_all([meta], torch.from_numpy(masks))
    return folder.finish([meta])


def table(place: Path, version: int) -> Path:
    rows = [{"video": f"v{n}", "j": n / 7 * version} for n in range(ROWS)]
    return write_table(rows, place / "table.csv")


TARGETS = {"checkpoint": "last.ckpt", "film": "overlay.mp4", "archive": "masks.zip", "table": "table.csv"}


def digest(path: Path) -> str:
    if path.suffix == ".zip":  # members carry the time they were written at
        import zipfile

        with zipfile.ZipFile(path) as opened:
            parts = [name.encode() + opened.read(name) for name in sorted(opened.namelist())]
        return hashlib.sha256(b"".join(parts)).hexdigest()
    if path.suffix == ".ckpt":
        return str(torch.load(path, weights_only=True)["state_dict"]["w"].unique().tolist())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _for_ever(write: Callable[[Path, int], Path], place: Path, begun: "multiprocessing.synchronize.Event") -> None:
    begun.set()
    while True:
        write(place, 2)
        write(place, 1)


@pytest.mark.parametrize("write", [checkpoint, film, archive, table])
def test_kills_inside_writes(write: Callable[[Path, int], Path], tmp_path: Path) -> None:
    """Five kills at moments spread over a write, 20 in all."""
    begin = time.perf_counter()
    whole = {digest(write(tmp_path, version)): version for version in (2, 1)}
    lasts = max((time.perf_counter() - begin) / 2, 0.005)
    assert len(whole) == 2
    context = multiprocessing.get_context("fork")
    for kill in range(5):
        begun = context.Event()
        child = context.Process(target=_for_ever, args=(write, tmp_path, begun), daemon=True)
        child.start()
        assert begun.wait(30) and child.pid is not None
        time.sleep(lasts * (0.15 + 0.4 * kill))
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        assert child.exitcode == -signal.SIGKILL
        assert digest(tmp_path / TARGETS[write.__name__]) in whole
        assert whole[digest(write(tmp_path, 1))] == 1
