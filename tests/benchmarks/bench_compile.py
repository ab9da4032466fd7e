"""What `--model.compile` gains or costs: a recipe's network with and without `torch.compile` on one batch of its data.

    python tests/benchmarks/bench_compile.py configs/tiny.yaml
    python tests/benchmarks/bench_compile.py configs/sgmg.yaml --backend aot_eager --flags --data.clip_length 2

Both sides are the network that two steps of `fit` leave, the same batch and the same random numbers: forward and
backward as in training, forward as in prediction. Compared with the network without the compiler, nothing else. Prints
seconds to compile (the first call), the least seconds of a call afterwards, and how far masks and gradients are apart.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
from bench_clip_sam import seconds
from torch import Tensor

from rvos_lightning.core.network import Network
from rvos_lightning.core.types import Clip
from rvos_lightning.run.cli import main as rvos

TWO_STEPS = [
    "--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.check_val_every_n_epoch", "null",
    "--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0", "--trainer.enable_progress_bar", "false",
    "--data.batch_size", "2", "--data.eval_batch_size", "2", "--data.workers", "0",
]  # fmt: skip


def answer(network: Network, clip: Clip, compiled: bool, training: bool) -> tuple[Tensor, Tensor]:
    """Masks, and in training the gradient of all weights; always from the same random numbers."""
    torch.manual_seed(0)
    network.train(training).zero_grad()
    with torch.set_grad_enabled(training):
        masks = (network if compiled else network.forward)(clip).mask_logits
    if not training:
        return masks, masks.new_zeros(1)
    masks.square().mean().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return masks.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def compare(network: Network, clip: Clip, training: bool, repeats: int) -> str:
    """One line: both times, the time to compile, how far apart the outputs are."""
    slow, expected = answer(network, clip, False, training)
    eager = seconds(lambda: answer(network, clip, False, training), repeats)
    started = time.perf_counter()
    masks, gradient = answer(network, clip, True, training)
    first = time.perf_counter() - started
    fast = seconds(lambda: answer(network, clip, True, training), repeats)
    apart = float((masks - slow).abs().max() / slow.std().clamp(min=1e-9))  # two steps may leave masks all alike
    turned = float((gradient - expected).norm() / expected.norm()) if training else 0.0
    name = "training" if training else "prediction"
    return (
        f"{name}: {eager:.3f} s without, {fast:.3f} s with it, x{eager / fast:.2f}; "
        f"first call {first:.1f} s; masks apart by {apart:.1e} of their deviation, gradients by {turned:.1e}"
    )


def main() -> None:
    """Train two steps, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("configs/tiny.yaml"))
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="for `fit`, last on the line")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", "-c", str(options.recipe), *TWO_STEPS, *options.flags, "--trainer.default_root_dir", folder]
        fitted = rvos(words)
        network = fitted.model.network
        network.compile(backend=options.backend)
        print(f"{options.recipe}, {options.backend}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
        for training in (True, False):
            loader = fitted.trainer.train_dataloader if training else fitted.trainer.val_dataloaders
            clip = next(iter(loader)).clip.floating(torch.float32)
            print(compare(network, clip, training, options.repeats), flush=True)


if __name__ == "__main__":
    main()
