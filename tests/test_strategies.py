"""Every system under every strategy on two CPU processes: runs, is cut and resumes to the bit, converts to one file.

Systems are the YAML files found in configs/. The tiny one runs under all strategies always; the others are marked
matrix (`make test-matrix`). DeepSpeed runs through a subclass that only tests have.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "drills"))
from launch import ROOT, environment, run

pytestmark = pytest.mark.matrix  # minutes: make test-matrix

SYSTEMS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
STRATEGIES = ["ddp", "fsdp2", "deepspeed2", "deepspeed3"]
DEEP = ["--trainer.strategy.class_path", "cpu_deepspeed.CPUDeepSpeed"]
FEW = [
    "--data", "rvos_lightning.data.MovingShapes", "--data.batch_size", "1", "--data.train_clips", "16",
    "--data.val_clips", "2", "--data.eval_batch_size", "1", "--data.workers", "0",
    "--trainer.max_steps", "4", "--trainer.accelerator", "cpu", "--trainer.devices", "2",
    "--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false",
    "--callbacks.progress", "null", "--callbacks.film", "null", "--callbacks.overlay", "null",
    "--callbacks.scores", "null", "--callbacks.last.every_n_steps", "2",
]  # fmt: skip
PAIRS = [
    pytest.param(system, strategy, marks=[] if system == "tiny" else pytest.mark.matrix, id=f"{system}-{strategy}")
    for system in SYSTEMS
    for strategy in STRATEGIES
]


@pytest.fixture(scope="module", autouse=True)
def operator():
    """DeepSpeed's one small C++ operator, built before two processes ask for it at once."""
    code = (
        "from deepspeed.accelerator import get_accelerator as a; a().create_op_builder('ShareMemCommBuilder').load()"
    )
    env = environment(DS_ACCELERATOR="cpu")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


def fit(system: str, strategy: str, folder: Path, *more: object, code: int = 0) -> None:
    overlay = [ROOT / "configs" / f"{system}.yaml", "-c", ROOT / "configs/trainer" / f"{strategy}.yaml"]
    chosen = [*(DEEP if strategy.startswith("deepspeed") else []), "--trainer.strategy.process_group_backend", "gloo"]
    where = ["--trainer.default_root_dir", folder, "--ckpt_path", "last"]
    run("fit", "-c", *overlay, *FEW, *chosen, *where, *more, code=code, limit=900, DS_ACCELERATOR="cpu")


def consolidated(folder: Path) -> dict[str, torch.Tensor]:
    """The one command, in a process of its own."""
    out = folder / "weights.safetensors"
    words = [sys.executable, "-m", "rvos_lightning.consolidate", folder / "checkpoints/last.ckpt", out]
    env = environment(DS_ACCELERATOR="cpu")
    done = subprocess.run(list(map(str, words)), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(out)


@pytest.mark.parametrize(("system", "strategy"), PAIRS)
def test_runs_resumes_converts(tmp_path, system, strategy):
    fit(system, strategy, tmp_path / "unbroken")
    kill = ["--callbacks.kill", "kill_at.KillAt", "--callbacks.kill.step", "3"]
    fit(system, strategy, tmp_path / "cut", *kill, code=-9)
    fit(system, strategy, tmp_path / "cut")
    unbroken, resumed = consolidated(tmp_path / "unbroken"), consolidated(tmp_path / "cut")
    assert unbroken.keys() == resumed.keys()
    assert [key for key in unbroken if not torch.equal(unbroken[key], resumed[key])] == []
    if system == "tiny":
        check_equal_to_one_process(tmp_path, unbroken)
    weights = ["--model.weights", tmp_path / "cut/weights.safetensors", "--trainer.devices", "1"]
    run("validate", "-c", f"configs/{system}.yaml", *evaluation(), *weights,
        "--trainer.default_root_dir", tmp_path / "validate", limit=600)  # fmt: skip


def check_equal_to_one_process(tmp_path: Path, found: dict[str, torch.Tensor]) -> None:
    """Sharding changes where numbers live, not what they are: one process with twice the batch learns the same."""
    alone = ["--trainer.devices", "1", "--data.batch_size", "2", "--trainer.default_root_dir", tmp_path / "alone"]
    run("fit", "-c", "configs/tiny.yaml", *FEW, *alone)
    expected = consolidated(tmp_path / "alone")
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.allclose(value, found[key], atol=2e-4), key


def evaluation() -> list[str]:
    pairs = zip(FEW[::2], FEW[1::2], strict=True)
    return [w for k, v in pairs for w in (k, "1" if k.endswith("limit_val_batches") else v)]
