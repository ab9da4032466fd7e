"""Two gloo processes: the same training, the same scores, one folder, and no silent hang."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import DDP, ROOT, SMALL, checkpoint, end, environment, run, start

from rvos_lightning.parts.weights import save

TINY = ["-c", "configs/tiny.yaml", *SMALL, "--model.scheduler.warmup", "2", "--trainer.max_steps", "6"]
DOUBLE = ["--trainer.precision", "64-true"]  # sums in another order differ by 1e-15: whatever is more is a mistake


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two processes under the ddp overlay."""
    folder = tmp_path_factory.mktemp("ddp") / "run"
    overlay = ["-c", "configs/trainer/ddp.yaml", "--trainer.devices", "2"]
    run("fit", *TINY[:2], *overlay, *TINY[2:], *DOUBLE, "--trainer.default_root_dir", folder)
    return folder


def test_two_processes_train_like_one_with_twice_the_batch(trained, tmp_path):
    """Holds only if both see their own half of every batch and every parameter's gradient is averaged."""
    run("fit", *TINY, *DOUBLE, "--data.batch_size", "4", "--trainer.default_root_dir", tmp_path)
    one, two = checkpoint(tmp_path)["state_dict"], checkpoint(trained)["state_dict"]
    assert one.keys() == two.keys()
    apart = {name: float((value - two[name]).abs().max()) for name, value in one.items()}
    assert max(apart.values()) < 1e-12, apart


def test_scores_do_not_depend_on_the_number_of_processes(trained, tmp_path):
    """Three videos on two processes: none twice, none lost."""
    state = {name.removeprefix("network."): value for name, value in checkpoint(trained)["state_dict"].items()}
    loud = {name: value.float() * (100 if name.startswith("prompter") else 1) for name, value in state.items()}
    save(loud, tmp_path / "loud.safetensors")  # after so few steps masks are empty, scores 0; these fill half a frame
    scores, rows = [], []
    for name, many in (("one", []), ("two", DDP)):
        flags = ["--callbacks.scores", "callbacks.Scores", "--trainer.default_root_dir", tmp_path / name]
        weights = ["--model.weights", tmp_path / "loud.safetensors"]
        run("validate", "-c", "configs/tiny.yaml", *evaluation(SMALL), *many, *flags, *weights)
        scores.append(json.loads((tmp_path / name / "scores.json").read_text())["val"])
        rows.append((tmp_path / name / "scores_val_j_and_f.csv").read_text())
    assert scores[0]["j_and_f"] > 0.01 and len(rows[0].splitlines()) == 1 + 6  # two expressions a video
    assert rows[0] == rows[1]
    assert scores[0] == {name: pytest.approx(v, abs=1e-6) if type(v) is float else v for name, v in scores[1].items()}


def evaluation(flags: list[str]) -> list[str]:
    """The flags that `validate` needs, too."""
    pairs = list(zip(flags[::2], flags[1::2], strict=True))
    return [word for key, value in pairs if not key.startswith("--callbacks.scores") for word in (key, value)]


def test_processes_share_one_folder(tmp_path):
    """Without a configured folder each process would claim one of its own."""
    env = environment() | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "rvos_lightning", "fit", *TINY, *DDP, "--trainer.max_steps", "1"]  # two real starts
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = list((tmp_path / "runs").glob("*/*/*"))
    assert [str(folder.relative_to(tmp_path)) for folder in folders] == ["runs/tiny/fit/0"]
    assert (folders[0] / "checkpoints/last.ckpt").exists() and (folders[0] / "config.yaml").exists()


def test_a_parameter_without_gradient_is_named(tmp_path):
    idle = ["--model.network.adapter", "idle.IdleAdapter"]
    printed = run("fit", *TINY, *DDP, *idle, "--trainer.default_root_dir", tmp_path)
    assert "adapter.idle.weight" in printed and "Freeze them" in printed


def test_a_stuck_rank_is_named_and_the_run_ends(tmp_path):
    log = tmp_path / "log.txt"
    overlay = ["-c", "configs/trainer/ddp.yaml", "--trainer.devices", "2", "--trainer.strategy.timeout", "0:00:20"]
    watch = ["--callbacks.watch.quiet", "4"]
    stall = ["--callbacks.stall", "stall.Stall", "--callbacks.stall.step", "3", "--callbacks.stall.rank", "1"]
    words = ["fit", *TINY[:2], *overlay, *TINY[2:], *watch, *stall, "--trainer.default_root_dir", tmp_path]
    with log.open("w") as out:
        process = start(*words, log=out)
    try:
        assert process.wait(timeout=180) != 0
    finally:
        end(process)
    printed = log.read_text()
    assert "[rank 0] no progress for" in printed, printed[-3000:]
    assert "Behind: rank 1 in the forward pass of batch 3, epoch 0" in printed, printed[-3000:]


@pytest.mark.parametrize("dies", [0, 1])
def test_a_dead_rank_is_named_and_the_others_end(tmp_path, dies):
    """Killed without a word in a step; whoever is left says who it was, and ends."""
    overlay = ["-c", "configs/trainer/ddp.yaml", "--trainer.devices", "2", "--callbacks.watch.gone", "8"]
    stall = ["--callbacks.stall", "stall.Stall", "--callbacks.stall.step", "3", "--callbacks.stall.rank", "1"]
    log = tmp_path / "log.txt"
    words = ["fit", *TINY[:2], *overlay, *TINY[2:], *stall, "--callbacks.stall.note", tmp_path / "pids"]
    with log.open("w") as out:
        process = start(*words, "--trainer.default_root_dir", tmp_path / "run", log=out)
    try:
        pids = waited(tmp_path / "pids", 2)
        time.sleep(2)  # rank 0 waits in a collective, rank 1 sleeps
        os.kill(pids[dies], signal.SIGKILL)
        killed = time.monotonic()
        while running(pids[1 - dies]) and not_yet(killed, 60):
            time.sleep(0.2)
        assert not running(pids[1 - dies]), log.read_text()[-3000:]
    finally:
        end(process)
    printed = log.read_text()
    named = f"[rank {1 - dies}] rank {dies} " + ("" if dies == 0 else f"(process {pids[1]} on ")
    assert named in printed and "--ckpt_path last" in printed, printed[-3000:]


def waited(folder: Path, many: int) -> dict[int, int]:
    """Rank -> process id, as soon as every rank has written its own."""
    begun = time.monotonic()
    while True:
        found = {int(path.name): int(path.read_text() or 0) for path in folder.glob("*")}
        if len(found) == many and all(found.values()):
            return found
        assert not_yet(begun, 240)
        time.sleep(0.1)


def not_yet(since: float, limit: float) -> bool:
    """Whether so many seconds have not yet passed."""
    return time.monotonic() - since < limit


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in "ZX"
    except OSError:
        return False
