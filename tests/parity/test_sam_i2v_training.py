"""One training forward of SAM-I2V against the recordings of the official trainer."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from once import one_full_size
from torch import Tensor, nn

from callbacks.structure import StructureLoss
from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Targets, User, UserPrompt
from rvos_lightning.systems.sam_i2v import official
from tests.parity.sam_i2v_rule import Recording, ellipse, fill, given, numbers, recordings, shapes

pytestmark = pytest.mark.xdist_group("sam_i2v")

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


class Replay(User):
    """Gives the recorded prompts in the recorded order."""

    def __init__(self, recording: Recording, case: str, masks: Tensor):
        read = lambda name: [int(v) for v in recording[f"{case}.{name}"]]  # noqa: E731
        self.recording, self.case, self.masks = recording, case, masks
        self.initial, self.corrected = read("init_cond_frames"), read("correct_frames")
        self.by_points, self.next = bool(recording[f"{case}.use_pt_input"][0]), 0
        self.left = {frame: 7 for frame in self.corrected}

    def points(self, frame: int) -> UserPrompt:
        coords, labels = (self.recording[f"{self.case}.pt{self.next}.{name}"][0] for name in ("coords", "labels"))
        self.next += 1
        return UserPrompt(frame, coords.float() / 1024, labels)

    def first_prompt(self, item: int) -> Sequence[UserPrompt]:
        if self.by_points:
            return [self.points(frame) for frame in self.initial]
        return [UserPrompt(frame, mask=self.masks[0, frame]) for frame in self.initial]

    def correct(self, item: int, frame: int, mask: Tensor) -> UserPrompt | None:
        if not self.left.get(frame):
            return None
        self.left[frame] -= 1
        return self.points(frame)


def network() -> PromptedSegmenter:
    """Sharp weights, the object score's bias raised, no dropout, training mode."""
    model = official.build()
    fill(model, official.official_names(model.state_dict()), sharp=True)
    with torch.no_grad():
        model.segmenter.mask_decoder.pred_obj_score_head.layers[2].bias.fill_(1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    return model.train()


@pytest.mark.parametrize("path", one_full_size(recordings("train_*")))
def test_training_step(path: Path) -> None:
    recording = Recording(path)
    case = path.stem.removeprefix("train_")
    time = sum(key.endswith(".terms") for key in recording)
    frames = given(f"train.{case}.img", time, 1, 3, 1024, 1024).transpose(0, 1) * STD + MEAN
    (said,) = shapes(r"\(T,B,C,H,W\); masks (E\([^)]*\))", "E(1024,1024,400+40t,500-50t,180,260)")
    masks = torch.stack([ellipse(*numbers(said, t=t)) for t in range(time)])[None]
    if time > 1:
        masks[:, -1] = False
    meta = [ClipMeta("v", "0", tuple(map(str, range(time))), (1024, 1024), (1024, 1024), tuple(range(time)))]
    clip = Clip(frames, torch.zeros(1, dtype=torch.long), None, meta, Replay(recording, case, masks))
    batch = Batch(clip, Targets(masks, torch.ones(1, time, dtype=torch.bool)))
    model = network()
    wants_gradients = any("gradnorm" in key for key in recording)
    with torch.set_grad_enabled(wants_gradients):
        prediction = model(clip)
        loss = StructureLoss()
        for t in range(time):
            steps = [step for step in prediction.steps if step.time == t]
            check_frame(recording, f"{case}.f{t}", steps, prediction.mask_logits[:, t : t + 1])
            check_terms(recording[f"{case}.f{t}.terms"], part(loss, batch, prediction, steps))
        terms = part(loss, batch, prediction, prediction.steps)
        names = ("loss_mask", "loss_iou", "loss_class", "core_loss")
        check_terms(torch.cat([recording[f"{case}.{name}"] for name in names]), terms)
        norm = model.segmenter.encoder.trunk.patch_embed.conv1.bn
        recording.check(f"{case}.bn0_running_mean", norm.running_mean)
        recording.check(f"{case}.bn0_running_var", norm.running_var)
        if wants_gradients:
            sum(terms.values()).backward()
            check_gradients(recording, case, model)


def part(loss: StructureLoss, batch: Batch, prediction: object, steps: list) -> dict[str, Tensor]:
    return loss.terms(batch, type(prediction)(prediction.mask_logits, steps=steps))


def check_terms(expected: Tensor, terms: dict[str, Tensor]) -> None:
    mask, iou, occlusion = terms["structure"] / 20, terms["iou"], terms["occlusion"]
    got = torch.stack([mask, iou, occlusion, sum(terms.values())]).detach()
    torch.testing.assert_close(got, expected.flatten(), rtol=2e-5, atol=1e-6)


def check_frame(recording: Recording, name: str, steps: list, low: Tensor) -> None:
    assert len(steps) == int(recording[f"{name}.steps"][0])
    recording.check(f"{name}.ious_first", steps[0].iou)
    recording.check(f"{name}.ious_last", steps[-1].iou)
    recording.check(f"{name}.obj_last", steps[-1].presence_logits)
    recording.check(f"{name}.pred_low", low, (1, 1, 16, 16))


def check_gradients(recording: Recording, case: str, model: PromptedSegmenter) -> None:
    names = {official_name: key for key, official_name in official.official_names(model.state_dict()).items()}
    parameters = dict(model.named_parameters())
    start = f"{case}.gradnorm."
    for key in (key for key in recording if key.startswith(start) and not key.endswith("total")):
        gradient = parameters[names[key.removeprefix(start)]].grad
        # The recording has -1 for what the official step did not use; ours hangs it into the graph for DDP, times zero.
        expected = max(float(recording[key][0]), 0.0)
        got = 0.0 if gradient is None else float(gradient.double().norm())
        assert got == pytest.approx(expected, rel=1e-3), key
    total = sum(float(p.grad.double().square().sum()) for p in parameters.values() if p.grad is not None) ** 0.5
    assert total == pytest.approx(float(recording[start + "total"][0]), rel=1e-3)
