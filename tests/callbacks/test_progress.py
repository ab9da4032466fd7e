"""How far a run is: lines without a terminal, bars on one, frames with their real totals."""

import io
import re
import sys

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar

from callbacks.progress import Progress, Task, clock, frames_in
from rvos_lightning.run.lightning_cli import one_bar

SMALL = ["-c", "configs/tiny.yaml", "--trainer.accelerator", "cpu", "--data.batch_size", "1", "--data.size", "32",
         "--callbacks.progress.every", "0"]  # fmt: skip


def test_fit_tells_step_total_and_loss(run, capsys, tmp_path):
    run("fit", *SMALL, "--trainer.max_steps", "3", "--data.val_clips", "3", "--data.eval_batch_size", "2",
        "--trainer.val_check_interval", "3")  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"writes to {tmp_path / 'run'}" and lines[-1] == str(tmp_path / "run")  # first and last
    train = [line for line in lines if line.startswith("train ")]
    assert [line.split()[1] for line in train] == ["1/3", "2/3", "3/3"]
    assert all(re.search(r"loss [\d.]+  dice [\d.]+  focal [\d.]+  [\d.]+ steps/s", line) for line in train)
    frames = [line.split()[1] for line in lines if line.startswith("validate ")]
    assert frames[-1] == "18/18"  # three videos of six frames, in two batches


def test_predict_counts_frames_not_videos_or_sentences(run, capsys):
    run("predict", *SMALL, "--untrained", "--data", "VideoFiles", "--data.path", "tests/data/horsejump/frames",
        "--data.expressions", '["the horse", "the rider"]', "--data.size", "32", "--callbacks.overlay", "null",
        "--model.window", "4")  # fmt: skip
    found = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("predict ")]
    total = int(found[0].split("/")[1])
    assert found == [f"{min(n, total)}/{total}" for n in range(4, total + 4, 4)]


def test_a_terminal_gets_bars(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress()
    progress._begin("predict", 50, "frames")
    progress._shown["predict"].told = 0.0
    progress._step("predict", 20, None)
    progress._finish("predict", None)
    assert "20/50 frames" in screen.getvalue()
    progress.disable()  # another rank
    progress._begin("predict", 50, "frames")
    assert not progress._shown


@pytest.mark.parametrize(("wanted", "left"), [(True, ["RichProgressBar"]), (False, [])])
def test_there_is_one_bar_or_none(wanted, left):
    assert [type(bar).__name__ for bar in one_bar([Progress(), RichProgressBar()], wanted)] == left


def test_lines_and_clocks():
    assert [clock(s) for s in (0, 59.6, 410, 4010)] == ["0:00", "1:00", "6:50", "1:06:50"]
    task = Task("train", None, "steps", 10)
    assert task.line("loss 1").startswith("train 10/? steps  loss 1  ")


def test_totals_follow_limits_and_are_unknown_for_other_loaders():
    class Lengths(torch.utils.data.Dataset):
        frames = (4, 5, 6)

        def __len__(self):
            return 3

    loader = torch.utils.data.DataLoader(Lengths())
    assert [frames_in(loader, n) for n in (float("inf"), [2])] == [15, 9]
    assert frames_in([loader, loader], 1) is None
