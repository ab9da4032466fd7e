"""SAM-I2V's losses and optimizer groups against recordings of the official trainer."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from stated import stated

from callbacks.structure import StructureLoss, iou_error, pixel_weights, structure_loss
from rvos_lightning.core.optim import param_groups
from rvos_lightning.core.types import Targets
from rvos_lightning.systems.sam_i2v import official
from rvos_lightning.systems.sam_i2v.outputs import DecoderStep, TrackedPrediction
from tests.parity.sam_i2v_rule import FOLDER, README, Recording, ellipse, given, numbers, recordings, shapes

ROOT = Path(__file__).parents[2]
LOSSES = ("loss_mask", "loss_iou", "loss_class", "core_loss")
SIZE = stated(README, r"N=\d+ objects, T=\d+ frames, (\d+)x(\d+)", (96, 128))
OBJECTS, FRAMES = stated(README, r"N=(\d+) objects, T=(\d+) frames", (2, 2))
EMPTY = stated(README, r"empty for \(t,n\)=\((\d+),(\d+)\)", (1, 1))


def case() -> tuple[torch.Tensor, list[DecoderStep]]:
    """The recorded targets and decoder steps."""
    masks = torch.zeros(OBJECTS, FRAMES, *SIZE, dtype=torch.bool)
    (said,) = shapes(r"Target\(t,n\) = (E\([^)]*\))", "E(96,128,30+5t+9n,40+6n-3t,14+3n,18-2n)")
    for n in range(OBJECTS):
        for t in range(FRAMES):
            if (t, n) != EMPTY:
                masks[n, t] = ellipse(*numbers(said, t=t, n=n))
    widths = re.findall(
        r"frame \d+: ([\d,]+) masks", stated(README, r"Steps: (.*?)\. ", "frame 0: 3,1,1 masks; frame 1: 3 masks")
    )
    steps = []
    for t, said in enumerate(widths):
        for s, m in enumerate(map(int, said.split(","))):
            w = torch.linspace(0.2, 1.0, m) if m > 1 else torch.tensor([0.2])
            target = masks[:, t].float()[:, None]
            logits = 2 * given(f"loss.logits.{t}.{s}", OBJECTS, m, *SIZE) + (4 * target - 2) * w.view(1, -1, 1, 1)
            iou = given(f"loss.iou.{t}.{s}", OBJECTS, m).sigmoid()
            steps.append(DecoderStep(t, torch.arange(OBJECTS), logits, iou, given(f"loss.obj.{t}.{s}", OBJECTS, 1)))
    return masks, steps


def run(masks: torch.Tensor, steps: list[DecoderStep]) -> dict[str, torch.Tensor]:
    batch = SimpleNamespace(targets=Targets(masks, torch.ones(masks.shape[:2], dtype=torch.bool)))
    return StructureLoss().terms(batch, TrackedPrediction(torch.zeros(*masks.shape[:2], 24, 32), steps=steps))


@pytest.mark.parametrize("path", recordings("losses*"), ids=lambda path: path.stem)
def test_losses(path: Path) -> None:
    recording = Recording(path)
    masks, steps = case()
    frames = {f"frame{t}": [step for step in steps if step.time == t] for t in range(FRAMES)}
    for name, chosen in {"total": steps, **frames}.items():
        terms = run(masks, chosen)
        mask, iou, occlusion = terms["structure"] / 20, terms["iou"], terms["occlusion"]
        got = torch.stack([mask, iou, occlusion, 20 * mask + iou + occlusion])
        if name == "total":
            expected = torch.cat([recording[f"total.{k}"] for k in LOSSES])
        else:
            expected = recording[f"{name}.terms"]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    first, target = steps[0], masks[:, 0].float()
    per_mask = structure_loss(first.mask_logits, target, pixel_weights(target)) / OBJECTS
    recording.check("structure.per_mask", per_mask, bound=1e-5)
    torch.testing.assert_close(per_mask[:, 0].sum(), recording["structure.single"][0], rtol=1e-5, atol=0)
    recording.check("iou_loss.per_mask", iou_error(first.iou, first.mask_logits > 0, masks[:, 0]) / OBJECTS, bound=1e-5)


@pytest.mark.parametrize("path", recordings("losses*"), ids=lambda path: path.stem)
def test_gradients(path: Path) -> None:
    recording = Recording(path)
    masks, steps = case()
    first = steps[0]
    leaves = [x.requires_grad_() for x in (first.mask_logits, first.iou, first.presence_logits)]
    sum(run(masks, [first]).values()).backward()
    recording.check("grad.logits_t0_s0", leaves[0].grad, (1, 1, 8, 8))
    recording.check("grad.iou_t0_s0", leaves[1].grad)
    recording.check("grad.obj_t0_s0", leaves[2].grad)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("optim_groups*.json")), ids=lambda path: path.stem)
def test_groups_of_the_published_recipe(path: Path) -> None:
    model = yaml.safe_load((ROOT / "configs/paper/sam_i2v.yaml").read_text())["model"]
    with torch.device("meta"):
        network = official.build()
    groups = param_groups(network, model["lr_scale"], model["no_decay"], model["layer_decay"])
    ids = {id(p): (3e-4 * g["lr_scale"], g.get("weight_decay", 0.1)) for g in groups for p in g["params"]}
    names = official.official_names(network.state_dict())
    recorded = {r[0]: r for r in json.loads(path.read_text())}
    for name, parameter in network.named_parameters():
        rate, decay = ids[id(parameter)]
        _, start, half, _, expected_decay = recorded[names[name]]
        assert (rate, decay) == (pytest.approx(start, rel=1e-5), expected_decay), name
        assert rate * (0.01 + 0.99 * 0.5) == pytest.approx(half, rel=1e-5)
