"""Losses on words, [SEG] rates, point sampling."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from callbacks.language import NextToken, SegRate
from callbacks.point_masks import PointMasks, at_points, point_losses, uncertain_points
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Prediction, Prompt, SegmentedWindow, Targets
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt, TrackedPrediction, Tracks


def spoken(logits, labels, said=None):
    return SpokenPrompt(torch.zeros(2, 3, 1, 4), spoken=said, token_logits=logits, labels=labels)


def batch(no_target=(False, False)):
    meta = [ClipMeta("v", str(i), ("0",) * 3, (8, 8), (8, 8), no_target=own) for i, own in enumerate(no_target)]
    clip = Clip(torch.zeros(1, 3, 3, 8, 8), torch.zeros(2, dtype=torch.long), ["a", "b"], meta)
    masks = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    masks[:, :, 2:6, 2:6] = True
    return Batch(clip, Targets(masks, torch.ones(2, 3, dtype=torch.bool)))


def test_next_token_is_the_mean_over_all_tokens_whatever_the_chunk():
    torch.manual_seed(0)
    logits, labels = torch.randn(10, 7), torch.randint(7, (10,))
    prediction = Prediction(torch.zeros(2, 3, 8, 8), prompt=spoken(logits, labels))
    for chunk in (3, 100):
        term = NextToken(weight=0.5, chunk=chunk).terms(batch(), prediction)["language"]
        torch.testing.assert_close(term, 0.5 * F.cross_entropy(logits, labels))


def test_next_token_without_taught_tokens_is_zero_and_attached():
    logits = torch.zeros(0, 7, requires_grad=True)
    prediction = Prediction(torch.zeros(2, 3, 8, 8), prompt=spoken(logits, torch.zeros(0, dtype=torch.long)))
    term = NextToken().terms(batch(), prediction)["language"]
    assert float(term.detach()) == 0 and term.requires_grad


def test_next_token_names_what_it_needs():
    with pytest.raises(ValueError, match="MLLMPrompter"):
        NextToken().terms(batch(), Prediction(torch.zeros(2, 3, 8, 8), prompt=Prompt(torch.zeros(2, 3, 1, 4))))


def test_points_are_the_least_certain_ones():
    torch.manual_seed(0)
    ramp = torch.linspace(-5, 5, 32).expand(1, 32, 32).contiguous()
    where = uncertain_points(ramp, 200, 3.0, 0.75)
    chosen = at_points(ramp, where).abs()
    assert where.shape == (1, 200, 2)
    assert chosen[:, :150].max() < chosen[:, 150:].max()
    assert float(chosen[:, :150].mean()) < 0.5 * float(chosen[:, 150:].mean())


def test_silent_items_and_unannotated_frames_count_nothing():
    torch.manual_seed(0)
    one = batch()
    logits = torch.randn(2, 3, 8, 8)
    prompt = spoken(torch.zeros(1, 7), torch.zeros(1, dtype=torch.long), torch.tensor([True, False]))
    objective = PointMasks(points=0)
    terms = objective.terms(one, Prediction(logits, prompt=prompt))
    bce, dice = point_losses(logits[0].flatten(1), one.targets.masks[0].float().flatten(1), small=0.0)
    torch.testing.assert_close(terms["mask"], 2.0 * bce)
    torch.testing.assert_close(terms["dice"], 0.5 * dice)
    one.targets.annotated[0, 1:] = False
    terms = objective.terms(one, Prediction(logits, prompt=prompt))
    bce, _ = point_losses(logits[0, :1].flatten(1), one.targets.masks[0, :1].float().flatten(1), small=0.0)
    torch.testing.assert_close(terms["mask"], 2.0 * bce)


def test_tracked_masks_have_their_own_terms():
    logits, which = torch.zeros(2, 3, 8, 8), torch.tensor([False, True, False])
    tracks = Tracks(torch.ones(1, 3, 8, 8), torch.zeros(1, 3), items=torch.tensor([1]), tracked=which)
    prediction = TrackedPrediction(logits, tracks=tracks)
    assert set(PointMasks(points=4).terms(batch(), prediction)) == {"mask", "dice"}
    terms = PointMasks(points=0, tracked=0.5).terms(batch(), prediction)
    truth = batch().targets.masks[1:, 1].float().flatten(1)
    bce, _ = point_losses(torch.ones_like(truth), truth, small=0.0)
    torch.testing.assert_close(terms["tracked_mask"], 0.5 * 2.0 * bce)
    torch.testing.assert_close(terms["tracked_presence"], torch.tensor(0.5 * math.log(2)))


def test_rates_count_every_item_once(capsys):
    one, rate, logged = batch((True, False)), SegRate(), {}
    prompt = spoken(None, None, torch.tensor([False, True]))
    masks = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    prediction = Prediction(torch.zeros(2, 3, 8, 8), prompt=prompt)
    window = SegmentedWindow(masks, one.targets, one.clip.meta, one.clip, prediction)
    for last in (False, True):
        rate.write("val", window, last)
    strategy = SimpleNamespace(reduce=lambda counts, reduce_op: counts)
    trainer = SimpleNamespace(strategy=strategy, is_global_zero=True, sanity_checking=False)
    module = SimpleNamespace(device="cpu", log_dict=lambda values, **_: logged.update(values))
    rate.on_validation_epoch_end(trainer, module)
    assert logged == {"val/seg_rate": 1.0, "val/silent_rate": 1.0, "val/unanswered": 1.0}
    assert float(rate.counts.sum()) == 0
    assert "[SEG] in 1.000 of 1 answers about something, absent from 1.000 of 1 about nothing; 1 empty mask" in (
        capsys.readouterr().out
    )
    rate.write("predict", window, True)
    logged.clear()
    rate.on_predict_epoch_end(trainer, module)  # nothing is logged in prediction, but it is said
    assert not logged and "1 empty mask" in capsys.readouterr().out
