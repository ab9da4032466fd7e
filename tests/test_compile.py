"""`--model.compile`: what is tried here trains and predicts through the compiler as without it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rvos_lightning.core.network import Network
from rvos_lightning.core.types import Batch
from tests.test_configs import TINY_RUN

ROOT = Path(__file__).parents[1]


def predicted(network: Network, batch: Batch, compiled: bool, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks, and in training the gradient of all weights, of one window; both from the same random numbers."""
    torch.manual_seed(0)
    network.train(training).zero_grad()
    with torch.set_grad_enabled(training):
        masks = (network if compiled else network.forward)(batch.clip.floating(torch.float32)).mask_logits
    if not training:
        return masks, masks.new_zeros(1)
    masks.square().mean().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return masks.detach(), torch.cat([gradient.flatten() for gradient in gradients])


SHORTEST = {"sa2va": 2, "sgmg": 2, "samwise": 2, "clip_sam": 1, "sam_i2v": 2}  # frames of a clip: shorter ones compile sooner
SMALLER = {
    "sgmg": [
        "--model.network.backbone.weights", "null", "--model.network.backbone.size.depths", "[1, 1, 1, 1]",
        "--model.network.decoder_layers", "1",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "backend"),
    [
        ("tiny", "aot_eager"),
        *(pytest.param(recipe, "aot_eager", marks=pytest.mark.slow) for recipe in SHORTEST),
    ],
)
def test_a_compiled_system_trains_and_predicts_as_an_eager_one(recipe, backend, run, monkeypatch):
    """`aot_eager` traces and differentiates as the default does and leaves out the C++ compiler."""
    compiled, compile = [], nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **said: compiled.append(said) or compile(self, **said))
    torch.compiler.reset()
    short = [*(["--data.clip_length", SHORTEST[recipe]] if recipe in SHORTEST else []), *SMALLER.get(recipe, [])]
    recipe = ROOT / f"configs/{recipe}.yaml"
    fitted = run("fit", "-c", recipe, *TINY_RUN, *short, "--data.val_clips", "2", "--model.compile", backend)
    assert fitted.trainer.global_step == 2 and "val/j_and_f" in fitted.trainer.callback_metrics
    for module in fitted.model.network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 0.0
    assert compiled == [{"backend": backend}]
    for training in (True, False):
        batch = next(iter(fitted.trainer.train_dataloader if training else fitted.trainer.val_dataloaders))
        (masks, gradient), (slow, expected) = (
            predicted(fitted.model.network, batch, compiled, training) for compiled in (True, False)
        )
        if batch.clip.expressions is not None:  # a graph must not hold for the sentences it was made with only
            turned = replace(batch.clip.floating(torch.float32), expressions=batch.clip.expressions[::-1])
            with torch.set_grad_enabled(training), torch.compiler.set_stance("fail_on_recompile"):
                fitted.model.network(turned)
        scale = float(slow.std())
        torch.testing.assert_close(masks, slow, rtol=1e-3, atol=1e-3 * scale)
        assert (gradient - expected).norm() <= 1e-3 * expected.norm()
