"""DICE, focal and presence losses as objectives."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.nn import functional

from callbacks.masks import DiceFocal, Presence, dice_loss, focal_loss
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Prediction, Targets


def made(batch=2, time=3, size=(12, 20), targets=(12, 20), picture=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    picture = picture or size
    meta = [ClipMeta(str(i), "0", ("0",) * time, picture, targets) for i in range(batch)]
    clip = Clip(torch.zeros(batch, time, 3, *size), torch.arange(batch), ["a"] * batch, meta)
    masks = torch.rand(batch, time, *targets, generator=generator) > 0.6
    logits = torch.randn(batch, time, *size, generator=generator, requires_grad=True)
    return Batch(clip, Targets(masks, torch.ones(batch, time, dtype=torch.bool))), Prediction(logits)


def test_values_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert dice_loss(logits, targets).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    expected = 0.5 * (0.25 + 0.75) * 0.25 * functional.softplus(torch.tensor(0.0)).item()
    assert focal_loss(logits, targets).item() == pytest.approx(expected)


def test_terms_are_means_over_clips_with_their_weights():
    batch, prediction = made()
    terms = DiceFocal(dice=2.0, focal=3.0).terms(batch, prediction)
    flat = prediction.mask_logits.flatten(1), batch.targets.masks.flatten(1).float()
    assert torch.isclose(terms["dice"], 2 * dice_loss(*flat).mean())
    assert torch.isclose(terms["focal"], 3 * focal_loss(*flat).mean())
    by_frame = DiceFocal(average="frame").terms(batch, prediction)["dice"]
    flat = [x.unflatten(1, (3, -1)).flatten(0, 1) for x in flat]
    assert torch.isclose(by_frame, dice_loss(*flat).mean())


def test_only_annotated_frames_count():
    batch, prediction = made()
    batch.targets.annotated[0, 1] = False
    batch.targets.annotated[1] = False
    terms = DiceFocal().terms(batch, prediction)
    logits, masks = prediction.mask_logits[:1, [0, 2]].flatten(1), batch.targets.masks[:1, [0, 2]].flatten(1).float()
    assert torch.isclose(terms["dice"], dice_loss(logits, masks)[0])
    assert torch.isclose(terms["focal"], focal_loss(logits, masks)[0])
    sum(terms.values()).backward()
    gradient = prediction.mask_logits.grad
    assert gradient[0, [0, 2]].abs().sum() > 0 and gradient[0, 1].abs().sum() == 0 and gradient[1].abs().sum() == 0


def test_nothing_annotated_is_an_attached_zero():
    batch, prediction = made()
    prediction.presence_logits = torch.zeros(2, 3, requires_grad=True)
    batch.targets.annotated[:] = False
    for objective in (DiceFocal(), Presence()):
        for value in objective.terms(batch, prediction).values():
            assert value == 0 and value.requires_grad


def test_targets_at_original_size_see_the_picture_without_padding():
    """Logits cover the padded frame; targets of the source's size only the picture inside it."""
    batch, _ = made(batch=1, time=1, size=(12, 20), targets=(16, 32), picture=(8, 16))
    batch.targets.masks[:] = False
    batch.targets.masks[..., :8, :] = True
    logits = torch.full((1, 1, 12, 20), 9.0)
    logits[..., :4, :16] = 9.0
    logits[..., 4:, :] = -9.0
    logits[..., :, 16:] = 9.0  # padding: must not matter
    dice = DiceFocal().terms(batch, Prediction(logits))["dice"]
    assert dice < 0.06


def test_presence():
    batch, prediction = made()
    silent = LightningModule()
    silent.network = SimpleNamespace(says_presence=False)
    with pytest.raises(ValueError, match="--objectives.NAME null"):
        Presence().setup(Trainer(logger=False, accelerator="cpu"), silent, "fit")
    batch.targets.masks[0, 0] = False
    prediction.presence_logits = torch.tensor([[-2.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    expected = functional.softplus(torch.tensor(-2.0))
    assert torch.isclose(Presence(0.5).terms(batch, prediction)["presence"], 0.5 * expected)
