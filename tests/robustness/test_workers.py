"""Loader workers that stop, die, or raise: named in seconds, in a few lines, and none is left behind."""

import gc
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from rvos_lightning.data.clips.sampler import Draw, DrawSampler, ResumableLoader
from rvos_lightning.data.reader import DataError
from rvos_lightning.run.failures import explain_exception


class Stumbling(Dataset):
    """Ends its worker in a chosen way at the second batch, and writes down who it was."""

    def __init__(self, how: str, note: Path) -> None:
        self.how, self.note = how, note

    def __getitem__(self, draw: Draw) -> torch.Tensor:
        if self.note.exists():
            return torch.zeros(1)
        self.note.write_text(str(os.getpid()))
        if self.how == "raise":
            raise DataError("a.png: not a readable image. Unpack or download the file again.")
        os.kill(os.getpid(), signal.SIGSTOP if self.how == "stop" else signal.SIGKILL)
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("stop", r"no batch from the loader workers for 3 s \(process .*{pid} stopped"),
        ("kill", r"process {pid}: (killed|exited)"),
        ("raise", r"^a\.png: not a readable image"),
    ],
)
def test_a_worker_that_fails_is_named(how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVOS_WORKER_SECONDS", "3")
    loader = ResumableLoader(Stumbling(how, tmp_path / "pid"), DrawSampler(8, 2, 0), 2, num_workers=1)
    with pytest.raises((DataError, RuntimeError)) as caught:
        list(loader)
    pid = int((tmp_path / "pid").read_text())
    text = explain_exception(caught.value, []) or ""
    assert text.count("\n") < 5
    assert re.search(said.format(pid=pid), text), text
    del caught, loader  # what was raised keeps the loader alive, and with it a sound worker
    gc.collect()
    deadline = time.monotonic() + 30
    while pid in {child.pid for child in multiprocessing.active_children()} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pid not in {child.pid for child in multiprocessing.active_children()}


def _parent(note: Path) -> None:
    loader = ResumableLoader(Stumbling("stop", note), DrawSampler(8, 2, 0), 2, num_workers=1)
    list(loader)


def test_a_stopped_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("fork").Process(target=_parent, args=(tmp_path / "pid",))
    parent.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join(30)
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{worker}/stat") as file:
                if file.read().rpartition(") ")[2][0] == "Z":
                    return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the stopped worker is still there")
