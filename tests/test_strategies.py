"""Every system under every strategy on two CPU processes: runs, saves, resumes to the bit, converts to one file.

Systems are the YAML files found in configs/, and the test network that chooses with the targets before it refines: it
runs under one strategy of each kind by default, other pairs are marked slow (`make test-full`) or matrix (`make
test-matrix`). DeepSpeed runs through a subclass that only tests have.
"""

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from launch import ROOT, environment, python
from launch import run as run_apart
from safetensors.torch import load_file

from rvos_lightning.run import consolidate

FILES = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml"))}
FILES["choosing"] = ROOT / "tests/drills/choosing.yaml"
STRATEGIES = {  # name -> overlays in configs/trainer/
    "ddp": ["ddp"],
    "fsdp2": ["fsdp2"],
    "deepspeed2": ["deepspeed2"],
    "deepspeed3": ["deepspeed3"],
    "deepspeed3_offload": ["deepspeed3_offload"],
    "ddp-bf16": ["ddp", "bf16"],
    "fsdp2-bf16": ["fsdp2", "bf16"],
    "deepspeed3-bf16": ["deepspeed3", "bf16"],
}
SMALL = ("tiny", "choosing")  # what they learn is compared with one process
KINDS = ("ddp", "fsdp2", "deepspeed3")  # one of each for the network that asks most of them; tiny is in test_ddp, too
DEEP = ["--trainer.strategy.class_path", "cpu_deepspeed.CPUDeepSpeed"]
FEW = [
    "--data", "rvos_lightning.data.MovingShapes", "--data.batch_size", "1", "--data.train_clips", "16",
    "--data.val_clips", "2", "--data.eval_batch_size", "1", "--data.workers", "0",
    "--trainer.max_steps", "4", "--trainer.accelerator", "cpu", "--trainer.devices", "2",
    "--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false",
    "--callbacks.curves", "null", "--callbacks.film", "null", "--callbacks.overlay", "null",
    "--callbacks.scores", "null", "--callbacks.last.every_n_steps", "2",
]  # fmt: skip
SMOOTH = ["--model.optimizer.eps", "0.01", "--model.scheduler.warmup", "0"]  # Adam does not blow rounding errors up


def marks(system, strategy):
    """What runs by default, in `make test-full` and in `make test-matrix`."""
    if system in SMALL and strategy in KINDS:
        return () if system == "choosing" else pytest.mark.slow
    return pytest.mark.matrix


IDLE = ["--model.network.adapter", "idle.IdleAdapter", "--model.shard_above", "1500"]
PAIRS = [pytest.param(system, strategy, marks=marks(system, strategy)) for system in FILES for strategy in STRATEGIES]


@pytest.fixture(scope="module", autouse=True)
def operator():
    """DeepSpeed's one small C++ operator, built before two processes ask for it at once."""
    code = "from deepspeed.accelerator import get_accelerator as a; a().create_op_builder('ShareMemCommBuilder').load()"
    env = environment(DS_ACCELERATOR="cpu")
    done = subprocess.run([python(), "-W", "ignore", "-c", code], env=env, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[[str], dict[str, torch.Tensor]]:
    """A small system trained by one process with twice the batch."""

    @cache
    def trained(system: str) -> dict[str, torch.Tensor]:
        folder = tmp_path_factory.mktemp("alone")
        flags = ["--trainer.devices", "1", "--data.batch_size", "2", "--trainer.default_root_dir", folder]
        run_apart("fit", "-c", FILES[system], *FEW, *SMOOTH, *flags)
        return consolidated(folder)

    return trained


def fit(system: str, strategy: str, folder: Path, *more: object) -> str:
    """Go on where the folder's checkpoint is, if there is one."""
    chosen = [*(DEEP if strategy.startswith("deepspeed") else []), "--trainer.strategy.process_group_backend", "gloo"]
    flags = [
        *chosen,
        *(SMOOTH if system in SMALL else []),
        "--trainer.default_root_dir",
        folder,
        "--ckpt_path",
        "last",
    ]
    configs = ["-c", FILES[system]]
    configs += [word for overlay in STRATEGIES[strategy] for word in ("-c", f"configs/trainer/{overlay}.yaml")]
    return run_apart("fit", *configs, *FEW, *flags, *more, limit=900, DS_ACCELERATOR="cpu")


def consolidated(folder: Path) -> dict[str, torch.Tensor]:
    """What the one command writes."""
    out = folder / "weights.safetensors"
    consolidate.gather(folder / "checkpoints/last.ckpt", out)
    return load_file(out)


@pytest.mark.parametrize(("system", "strategy"), PAIRS)
def test_runs_resumes_converts(tmp_path, system, strategy, run, alone, monkeypatch):
    monkeypatch.setitem(os.environ, "DS_ACCELERATOR", "cpu")
    keep = ["--callbacks.keep", "keep_at.KeepAt", "--callbacks.keep.step", "2"]
    fit(system, strategy, tmp_path / "unbroken", *keep, "--callbacks.keep.folder", tmp_path / "resumed")
    unbroken, half = consolidated(tmp_path / "unbroken"), consolidated(tmp_path / "resumed")
    assert [key for key in unbroken if not torch.equal(unbroken[key], half[key])] != [], "two steps changed nothing"
    fit(system, strategy, tmp_path / "resumed")
    resumed = consolidated(tmp_path / "resumed")
    assert unbroken.keys() == resumed.keys()
    assert [key for key in unbroken if not torch.equal(unbroken[key], resumed[key])] == []
    if system in SMALL and "bf16" not in strategy:  # sharding changes where numbers live, not what they are
        apart = {key: float((value - unbroken[key]).abs().max()) for key, value in alone(system).items()}
        assert apart.keys() == unbroken.keys() and max(apart.values()) < 2e-6, apart
    weights = ["--model.weights", tmp_path / "resumed/weights.safetensors", "--trainer.devices", "1"]
    done = run("validate", "-c", FILES[system], *evaluation(), *weights)
    for key, value in done.model.network.state_dict().items():
        assert key not in resumed or torch.equal(value, resumed[key]), key


@pytest.fixture(scope="module")
def idle_alone(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The tiny system with layers that only some steps reach, trained by one process with twice the batch."""
    folder = tmp_path_factory.mktemp("idle_alone")
    flags = ["--trainer.devices", "1", "--data.batch_size", "2", "--trainer.default_root_dir", folder]
    run_apart("fit", "-c", "configs/tiny.yaml", *FEW, *SMOOTH, *IDLE, *flags)
    return consolidated(folder)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "deepspeed2", "deepspeed3"])
def test_every_parameter_has_a_gradient_in_every_step(tmp_path, strategy, idle_alone, monkeypatch):
    """Zeros where the loss does not reach: momentum moves what was reached before, and all strategies agree."""
    monkeypatch.setitem(os.environ, "DS_ACCELERATOR", "cpu")
    fit("tiny", strategy, tmp_path, *IDLE)
    found = consolidated(tmp_path)
    apart = {key: float((value - found[key]).abs().max()) for key, value in idle_alone.items()}
    assert idle_alone.keys() == found.keys() and max(apart.values()) < 2e-6, apart


def evaluation() -> list[str]:
    """The flags that `validate` needs, too."""
    pairs = zip(FEW[::2], FEW[1::2], strict=True)
    return [w for k, v in pairs for w in (k, "1" if k.endswith("limit_val_batches") else v)]
