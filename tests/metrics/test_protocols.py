"""What the recordings cannot show of each protocol: options, missing facts, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_masks import chosen, cut, video

from rvos_lightning.core.types import SegmentedWindow, Targets
from rvos_lightning.metrics import (
    A2D,
    SAV,
    DAVISSemi,
    DAVISUnsupervised,
    GRefCOCO,
    MeViS,
    MOSEv2,
    RefCOCO,
    RefDAVISA,
    RefZOM,
    ReVOS,
    YouTubeVOS,
)
from rvos_lightning.metrics.id_maps import merge_objects
from rvos_lightning.metrics.mose import segments
from rvos_lightning.metrics.region_boundary import j_and_f


def test_mevis_v2_accuracies():
    metric = MeViS(no_target="accuracy")
    part = video("a", 4, 6, no_target=(0, 1))
    masks, targets = part.masks, part.targets
    targets.masks[:2] = False
    masks[0] = False  # rightly silent
    masks[2] = False  # wrongly silent
    metric.update(part)
    scores = metric.compute()
    assert (float(scores["n_acc"]), float(scores["t_acc"])) == (0.5, 0.5)
    j = j_and_f(masks[2:], targets.masks[2:])[0].mean()
    assert float(scores["j"]) == pytest.approx(float(j), abs=1e-14)
    assert float(scores["final"]) == pytest.approx((float(scores["j_and_f"]) + 1.0) / 3, abs=1e-14)
    assert math.isnan(float(scores["final/no_target"]))
    with pytest.raises(ValueError, match="score .v1. or accuracy"):
        MeViS(no_target="drop")


def test_davis_needs_inner_frames_and_first_frame_labels():
    metric = DAVISSemi()
    part = video("a", 3, 8, object=[1, 2, 3])
    targets = part.targets
    targets.masks[:, 0] = False
    targets.masks[:2, 0, :3, :3] = True
    targets.masks[2, 0] = False  # the largest label of the first frame is 2
    metric.update(part)
    assert [row["item"] for row in metric.table()] == ["0", "1"] and metric.table()[0]["frames"] == 6
    short = DAVISSemi()
    targets.masks[:, 0, :3, :3] = True
    short.update(cut(part, 0, 2))
    with pytest.raises(ValueError, match="nothing to score"):
        short.compute()


def test_sav_counts_from_first_sighting():
    part = video("a", 1, 8)
    masks, targets = part.masks, part.targets
    masks[:], targets.masks[:] = False, False
    targets.masks[0, 4:, 2:9, 2:9] = masks[0, 4:6, 2:9, 2:9] = True
    metric, every = SAV(), SAV(skip_first_and_last=False)
    for own in (metric, every):
        own.update(part)
    assert float(metric.compute()["j"]) == 2 / 3 and float(every.compute()["j"]) == 0.5
    masks[0, 2, 0, 0] = True  # a premature false positive starts the count: 0, then 1 for the empty frame
    metric.reset()
    metric.update(part)
    assert float(metric.compute()["j"]) == pytest.approx((0 + 1 + 1 + 1 + 0) / 5)


def test_youtube_vos_is_the_mean_of_four():
    metric = YouTubeVOS()
    metric.update(video("a", 2, 6, seen=[True, False], frame=[0, 2]))
    scores = metric.compute()
    parts = [float(scores[f"{letter}_{kind}"]) for letter in "jf" for kind in ("seen", "unseen")]
    assert float(scores["g"]) == pytest.approx(sum(parts) / 4)
    assert [row["frames"] for row in metric.table()] == [5, 3]


def test_unsupervised_ignores_the_order_of_masks():
    part = video("a", 3, 6)
    part = replace(part, masks=merge_objects(part.masks))
    straight, swapped = DAVISUnsupervised(), DAVISUnsupervised()
    straight.update(part)
    swapped.update(replace(part, masks=part.masks[[2, 0, 1]]))
    assert float(straight.compute()["j_and_f"]) == pytest.approx(float(swapped.compute()["j_and_f"]), abs=1e-14)


def test_unsupervised_needs_all_items_in_one_batch():
    part = video("a", 3, 6)
    metric = DAVISUnsupervised()
    metric.update(chosen(part, [0, 1]))
    metric.update(chosen(part, [2]))
    with pytest.raises(ValueError, match="items_per_video_eval: null"):
        metric.compute()


def test_ref_davis_merges_probabilities_as_published():
    p = torch.tensor([0.6, 0.6, 0.49, 0.51, 0.2]).reshape(1, 1, 1, 5)
    q = torch.tensor([0.6, 0.9, 0.60, 0.05, 0.3]).reshape(1, 1, 1, 5)
    first, second = merge_objects(torch.cat([p, q]))[:, 0, 0]
    assert first.tolist() == [True, False, False, True, False]  # ties go to the lower object
    assert second.tolist() == [False, True, True, False, False]
    booleans = merge_objects(torch.cat([p, q]) > 0.5)[:, 0, 0]
    assert booleans[0].tolist() == [True, True, False, True, False]
    assert not (booleans[0] & booleans[1]).any()


def test_ref_davis_averages_annotators():
    metric = RefDAVISA()
    metric.update(video("a", 4, 5, annotator=[0, 1, 0, 1], object=[1, 1, 2, 2]))
    scores = metric.compute()
    own = [float(scores[f"j_and_f/annotator_{who}"]) for who in (0, 1)]
    assert float(scores["j_and_f"]) == pytest.approx(sum(own) / 2, abs=1e-14)


def test_revos_without_foreground_has_no_robustness():
    metric = ReVOS()
    metric.update(video("a", 3, 5, no_target=(2,), kind=["referring", "reasoning", None]))
    scores = metric.compute()
    assert "r" not in scores and {"j_and_f/referring", "a/reasoning"} <= scores.keys()
    middle = (float(scores["j/referring"]) + float(scores["j/reasoning"])) / 2
    assert float(scores["j"]) == pytest.approx(middle, abs=1e-14)
    assert len(metric.table()) == 3


def test_mose_segments():
    metric = MOSEv2()
    part = video("a", 1, 12)
    masks, targets = part.masks, part.targets
    targets.masks[0] = False
    for t in (0, 1, 2, 5, 6, 9, 10, 11):
        targets.masks[0, t, 2:15, 2:15] = True
    masks = targets.masks.clone()
    masks[0, 5:7] = False
    metric.update(replace(part, masks=masks))
    scores = metric.compute()
    assert float(scores["j_disappear"]) == 1.0
    assert float(scores["j_reappear"]) == pytest.approx((1 / 170 + 1) / 2)


@pytest.mark.parametrize(
    ("seen", "gone", "back"),
    [("##.#", [(2, 3)], [(3, 4)]), ("..##.#", [(4, 5)], [(2, 4), (5, 6)]), ("....", [], []), ("####", [], [])],
)
def test_mose_leaves_out_the_run_at_frame_0_only(seen, gone, back):
    found = segments(np.array([letter == "#" for letter in seen]))
    assert [[(s.start, s.stop) for s in own] for own in found] == [gone, back]


def still(name, boxes, truth, size=(20, 30), no_target=False):
    """One image: a predicted and a true box (or None)."""
    metas = video(name, 1, 1, size, no_target=(0,) if no_target else ()).meta
    masks = torch.zeros(2, 1, 1, *size, dtype=torch.bool)
    for plane, box in zip(masks, (boxes, truth), strict=True):
        if box:
            plane[..., box[0] : box[1], box[2] : box[3]] = True
    return SegmentedWindow(masks[0], Targets(masks[1], torch.ones(1, 1, dtype=torch.bool)), metas)


def test_refcoco_thresholds_include_equality_unless_strict():
    loose, strict = RefCOCO(), RefCOCO(strict=True)
    for metric in (loose, strict):
        metric.update(still("a", (0, 5, 0, 10), (0, 10, 0, 10)))  # IoU exactly 1/2
        metric.update(still("b", (0, 10, 0, 10), (0, 10, 0, 10)))
    assert float(loose.compute()["p@0.5"]) == 1.0 and float(strict.compute()["p@0.5"]) == 0.5
    assert float(loose.compute()["o_iou"]) == 0.75 and float(loose.compute()["m_iou"]) == 0.75


def test_a_square_canvas_weighs_pictures_otherwise():
    """IoU 0.9 of 10,000 pixels in 640x480 and 0.1 of 1,000 in 240x240."""
    one = still("a", (0, 90, 0, 100), (0, 100, 0, 100), (480, 640))
    other = still("b", (0, 10, 0, 10), (0, 20, 0, 50), (240, 240))
    scores = {}
    for canvas in (0, 240, 480):
        metric = RefCOCO(canvas=canvas)
        metric.update(one)
        metric.update(other)
        scores[canvas] = {name: float(value) for name, value in metric.compute().items()}
        assert ("on squares of" in metric.rule) == bool(canvas)
    assert scores[0]["o_iou"] == pytest.approx(9100 / 11000) and scores[0]["m_iou"] == pytest.approx(0.5)
    # 640x480 to 240x240: heights halve, widths shrink to 3/8, so that 10,000 pixels become 50 x 37
    assert scores[240]["o_iou"] == pytest.approx((45 * 37 + 100) / (50 * 37 + 1000)) and scores[240]["m_iou"] == 0.5
    assert scores[480]["o_iou"] == pytest.approx((90 * 75 + 400) / (100 * 75 + 4000))
    for metric in (GRefCOCO(canvas=480), RefZOM(canvas=480)):
        metric.update(other)
        assert float(metric.compute()["m_iou"]) == pytest.approx(0.1) and "squares of 480" in metric.rule


def test_grefcoco_judges_silence_by_pixels_without_a_head():
    metric = GRefCOCO(empty_pixels=50)
    metric.update(still("silent", (0, 7, 0, 7), None, no_target=True))  # 49 pixels are cleared
    metric.update(still("talks", (0, 10, 0, 10), None, no_target=True))
    metric.update(still("hit", (0, 10, 0, 10), (0, 10, 0, 10)))
    metric.update(still("missed", (0, 1, 0, 1), (0, 10, 0, 10)))
    scores = metric.compute()
    assert float(scores["n_acc"]) == 0.5 and float(scores["t_acc"]) == 0.5
    assert float(scores["g_iou"]) == 0.5 and float(scores["c_iou"]) == pytest.approx(100 / 300)


def decided():
    """Four samples of a network with a no-target head."""
    return [
        replace(part, no_target=torch.tensor([says_none]))
        for part, says_none in (
            (still("none, said", (0, 3, 0, 3), None, no_target=True), True),  # 9 pixels drawn all the same
            (still("none, missed", None, None, no_target=True), False),
            (still("hit", (0, 10, 0, 10), (0, 10, 0, 10)), False),
            (still("denied", (0, 5, 0, 10), (0, 10, 0, 10)), True),
        )
    ]


def test_grefcoco_with_a_head_reports_both_decisions():
    metric = GRefCOCO()
    for part in decided():
        metric.update(part)
    scores = {name: float(value) for name, value in metric.compute().items()}
    assert scores["g_iou"] == 0.5 and scores["c_iou"] == 100 / 200 and scores["m_iou"] == 0.5
    assert scores["n_acc"] == 0.5 and scores["t_acc"] == 0.5
    assert scores["g_iou_mask"] == 2.5 / 4 and scores["c_iou_mask"] == pytest.approx(150 / 209)
    assert scores["n_acc_mask"] == 0.5 and scores["t_acc_mask"] == 1.0
    plain = GRefCOCO()
    plain.update(still("hit", (0, 10, 0, 10), (0, 10, 0, 10)))
    assert not any(name.endswith("_mask") for name in plain.compute())


def test_ref_zom_clears_the_mask_that_the_head_denies():
    metric = RefZOM()
    for part in decided():
        metric.update(part)
    scores = {name: float(value) for name, value in metric.compute().items()}
    assert scores["acc"] == 1.0 and scores["acc_mask"] == 0.5
    assert scores["o_iou"] == 0.5 and scores["m_iou"] == 0.5


def test_ref_zom_keeps_its_groups_apart():
    metric = RefZOM()
    metric.update(still("zero", None, None, no_target=True))
    metric.update(still("zero2", (0, 1, 0, 1), None, no_target=True))
    metric.update(still("one", (0, 10, 0, 10), (0, 10, 0, 10)))
    scores = metric.compute()
    assert float(scores["acc"]) == 0.5 and float(scores["o_iou"]) == 1.0


def test_a2d_takes_the_best_scored_candidate():
    metric = A2D()
    part = still("a", (0, 5, 0, 10), (0, 10, 0, 10))
    proposals = torch.stack([part.masks, part.targets.masks], dim=2)
    metric.update(replace(part, proposals=proposals, scores=torch.tensor([[[0.1, 0.9]]])))
    assert float(metric.compute()["m_iou"]) == 1.0 and float(metric.compute()["map"]) == pytest.approx(1.0)


@pytest.mark.parametrize("objects", [1, 2, 5])
def test_merging_equals_counting_how_many_objects_came_before(objects):
    masks = torch.rand(objects, 3, 9, 13, generator=torch.Generator().manual_seed(objects)) > 0.5
    before = masks.clone()
    merged = merge_objects(masks)
    assert torch.equal(merged, masks & (masks.cumsum(0) == 1)) and torch.equal(masks, before)
    assert torch.equal(merged.any(0), masks.any(0)) and int(merged.sum(0).max()) == 1
    apart = torch.nn.functional.one_hot(torch.randint(0, 300, (2, 9, 11)), 300).movedim(-1, 0).bool()
    for alone in (apart, apart[:200], apart[:, :0]):  # masks that nobody else claims need no copy
        assert torch.equal(merge_objects(alone), alone)
    crowd = torch.ones(257, 1, 2, 2, dtype=torch.bool)  # as many as a byte counts, and one
    assert merge_objects(crowd).flatten(1).all(1).nonzero().tolist() == [[0]]
