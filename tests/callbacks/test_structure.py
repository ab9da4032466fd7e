"""StructureLoss against the recording of the official loss."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.structure import StructureLoss, iou_error, pixel_weights, structure_loss
from rvos_lightning.core.types import Prediction, Targets
from rvos_lightning.systems.sam_i2v.outputs import DecoderStep, TrackedPrediction
from tests.parity.sam_i2v_rule import Recording, ellipse, given, recordings

LOSSES = ("loss_mask", "loss_iou", "loss_class", "core_loss")


def case() -> tuple[torch.Tensor, list[DecoderStep]]:
    """The recorded targets and decoder steps."""
    masks = torch.zeros(2, 2, 96, 128, dtype=torch.bool)
    for n in range(2):
        for t in range(2):
            if (t, n) != (1, 1):
                masks[n, t] = ellipse(96, 128, 30 + 5 * t + 9 * n, 40 + 6 * n - 3 * t, 14 + 3 * n, 18 - 2 * n)
    steps = []
    for t, widths in enumerate(((3, 1, 1), (3,))):
        for s, m in enumerate(widths):
            w = torch.linspace(0.2, 1.0, m) if m > 1 else torch.tensor([0.2])
            target = masks[:, t].float()[:, None]
            logits = 2 * given(f"loss.logits.{t}.{s}", 2, m, 96, 128) + (4 * target - 2) * w.view(1, -1, 1, 1)
            iou = given(f"loss.iou.{t}.{s}", 2, m).sigmoid()
            steps.append(DecoderStep(t, torch.arange(2), logits, iou, given(f"loss.obj.{t}.{s}", 2, 1)))
    return masks, steps


def run(masks: torch.Tensor, steps: list[DecoderStep]) -> dict[str, torch.Tensor]:
    batch = SimpleNamespace(targets=Targets(masks, torch.ones(2, 2, dtype=torch.bool)))
    return StructureLoss().terms(batch, TrackedPrediction(torch.zeros(2, 2, 24, 32), steps=steps))


@pytest.mark.parametrize("path", recordings("losses*"), ids=lambda path: path.stem)
def test_recorded_losses(path) -> None:
    recording = Recording(path)
    masks, steps = case()
    for name, chosen in {"total": steps, "frame0": steps[:3], "frame1": steps[3:]}.items():
        terms = run(masks, chosen)
        mask, iou, occlusion = terms["structure"] / 20, terms["iou"], terms["occlusion"]
        got = torch.stack([mask, iou, occlusion, 20 * mask + iou + occlusion])
        if name == "total":
            expected = torch.cat([recording[f"total.{k}"] for k in LOSSES])
        else:
            expected = recording[f"{name}.terms"]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    first, target = steps[0], masks[:, 0].float()
    weight = pixel_weights(target)
    per_mask = structure_loss(first.mask_logits, target, weight) / 2
    recording.check("structure.per_mask", per_mask, bound=1e-5)
    torch.testing.assert_close(per_mask[:, 0].sum(), recording["structure.single"][0], rtol=1e-5, atol=0)
    recording.check("iou_loss.per_mask", iou_error(first.iou, first.mask_logits > 0, masks[:, 0]) / 2, bound=1e-5)


@pytest.mark.parametrize("path", recordings("losses*"), ids=lambda path: path.stem)
def test_recorded_gradients(path) -> None:
    recording = Recording(path)
    masks, steps = case()
    first = steps[0]
    leaves = [x.requires_grad_() for x in (first.mask_logits, first.iou, first.presence_logits)]
    sum(run(masks, [first]).values()).backward()
    recording.check("grad.logits_t0_s0", leaves[0].grad, (1, 1, 8, 8))
    recording.check("grad.iou_t0_s0", leaves[1].grad)
    recording.check("grad.obj_t0_s0", leaves[2].grad)


def test_terms_stay_on_the_graph_without_steps_and_refuse_other_predictions() -> None:
    batch = SimpleNamespace(targets=Targets(torch.zeros(1, 1, 4, 4).bool(), torch.zeros(1, 1).bool()))
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    assert all(term.requires_grad for term in StructureLoss().terms(batch, TrackedPrediction(logits)).values())
    with pytest.raises(TypeError, match="TrackedPrediction"):
        StructureLoss().terms(batch, Prediction(logits))
