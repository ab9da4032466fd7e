"""Train six steps at once, and three and three through a checkpoint, under one strategy; say whether weights are equal.

python tests/gpu/resume_drill.py fsdp2 cuda FOLDER
"""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def rvos(*words: str) -> None:
    """One command of ours; its last lines where it fails."""
    done = subprocess.run([sys.executable, "-m", "rvos_lightning", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = " / ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
        sys.exit(f"failed ({done.returncode}): {last}")


def fit(strategy: str, device: str, folder: Path, steps: int, *more: str) -> None:
    """`steps` in all on the tiny system."""
    words = ["fit", "-c", "configs/tiny.yaml", "-c", f"configs/trainer/{strategy}.yaml", "--trainer.devices", "1"]
    words += ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu", "--trainer.num_nodes", "1"]
    words += ["--trainer.default_root_dir", str(folder), "--trainer.limit_val_batches", "0"]
    words += ["--trainer.max_steps", str(steps), "--trainer.num_sanity_val_steps", "0", "--trainer.logger", "false"]
    words += [
        "--callbacks",
        "{}",
        "--callbacks.last",
        "callbacks.LastCheckpoint",
        "--callbacks.last.every_n_steps",
        "3",
    ]
    # the schedule must not depend on where a run is cut
    rvos(*words, "--model.scheduler", "null", *more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """One file of the last checkpoint, whatever the strategy wrote."""
    made = folder / "whole.safetensors"
    made.unlink(missing_ok=True)
    rvos("convert", "run", str(folder / "checkpoints" / "last.ckpt"), str(made))
    return load_file(made)


def main() -> None:
    """Three runs, one line."""
    strategy, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    fit(strategy, device, folder / "straight", 6)
    fit(strategy, device, folder / "cut", 3)
    fit(strategy, device, folder / "cut", 6, "--ckpt_path", "last")
    straight, cut = weights(folder / "straight"), weights(folder / "cut")
    apart = max(float((straight[key].double() - cut[key].double()).abs().max()) for key in straight)
    same = straight.keys() == cut.keys() and all(torch.equal(straight[key], cut[key]) for key in straight)
    print("equal to the last bit" if same else f"differs by up to {apart:.1e}")


if __name__ == "__main__":
    main()
