"""`--model.compile`: every system trains and predicts through the compiler as without it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_compile import answer
from torch import nn

from tests.test_configs import TINY_RUN

ROOT = Path(__file__).parents[1]
FRAMES = ROOT / "tests/data/horsejump/frames"

# Frames of a clip: shorter ones compile sooner.
SHORTEST = {"sa2va": 2, "sgmg": 2, "samwise": 2, "clip_sam": 1, "sam_i2v": 2}
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
        clip = batch.clip.floating(torch.float32)
        (masks, gradient), (slow, expected) = (
            answer(fitted.model.network, clip, compiled, training) for compiled in (True, False)
        )
        if clip.expressions is not None:  # a graph must not hold for the sentences it was made with only
            turned = replace(clip, expressions=clip.expressions[::-1])
            with torch.set_grad_enabled(training), torch.compiler.set_stance("fail_on_recompile"):
                fitted.model.network(turned)
        scale = float(slow.std())
        torch.testing.assert_close(masks, slow, rtol=1e-3, atol=1e-3 * scale)
        assert (gradient - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.slow
def test_predict_compiles_by_flag_and_writes_the_same_masks(run, tmp_path):
    torch.compiler.reset()
    asked = ["--data", "VideoFiles", "--data.path", FRAMES, "--data.expressions", '["horse", "rider"]']
    for name, flags in (("eager", []), ("compiled", ["--model.compile", "aot_eager"])):
        run("predict", "-c", ROOT / "configs/tiny.yaml", "--untrained", *asked, *flags, folder=tmp_path / name)
    masks = [sorted((tmp_path / name).rglob("masks/*.png")) for name in ("eager", "compiled")]
    assert len(masks[0]) == len(masks[1]) == len(list(FRAMES.iterdir()))
    for eager, compiled in zip(*masks, strict=True):
        assert eager.read_bytes() == compiled.read_bytes(), eager.name
