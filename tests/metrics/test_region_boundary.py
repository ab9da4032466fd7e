"""Counting: both back ends against the slow truth, on shapes made to catch each shortcut."""

import numpy as np
import pytest
import torch

from rvos_lightning.metrics import packed_bits
from rvos_lightning.metrics.region_boundary import (
    boundary_measure,
    boundary_radius,
    frame_counts,
    j_and_f,
    mean_recall_decay,
    region_similarity,
)
from rvos_lightning.metrics.shifted_planes import plane_counts
from tests.benchmarks.bench_metrics import dilate_boolean, dilate_cv2, slow_pair


def blobs(pairs, height, width, seed):
    """Random blobs, empty frames, full frames, lines along borders and single pixels."""
    random = np.random.default_rng(seed)
    masks = np.zeros((2, pairs, height, width), bool)
    for side in range(2):
        for index in range(pairs):
            kind = random.integers(7)
            y0, x0 = random.integers(height), random.integers(width)
            y1, x1 = random.integers(y0, height) + 1, random.integers(x0, width) + 1
            if kind < 3:
                masks[side, index, y0:y1, x0:x1] = True
            elif kind == 3:
                masks[side, index] = random.random((height, width)) < random.random() * 0.3
            elif kind == 4:
                masks[side, index, y0, x0] = True
            elif kind == 5:
                masks[side, index, -1 if random.random() < 0.5 else slice(None), :] = True
            # kind 6 stays empty
    return torch.from_numpy(masks)


@pytest.mark.parametrize("size", [(1, 1), (1, 130), (63, 64), (65, 63), (40, 128), (50, 191), (97, 129), (240, 256)])
def test_both_back_ends_equal_the_slow_truth(size):
    truth, predicted = blobs(14, *size, seed=sum(size))
    slow = [slow_pair(t, p, dilate_boolean) for t, p in zip(truth.numpy(), predicted.numpy(), strict=True)]
    assert frame_counts(truth, predicted).tolist() == slow
    assert plane_counts(truth, predicted, boundary_radius(*size)).tolist() == slow


def test_slow_truths_agree():
    truth, predicted = blobs(6, 60, 80, seed=5).numpy()
    for t, p in zip(truth, predicted, strict=True):
        assert slow_pair(t, p, dilate_boolean) == slow_pair(t, p, dilate_cv2)


def test_small_blocks_and_old_numpy_give_the_same(monkeypatch):
    truth, predicted = blobs(20, 70, 150, seed=1)
    whole = frame_counts(truth, predicted)
    monkeypatch.setattr(packed_bits, "BLOCK_WORDS", 200)
    monkeypatch.setattr(packed_bits, "STEP_PIXELS", 3 * 70 * 150)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert torch.equal(frame_counts(truth, predicted), whole)


def test_leading_dimensions_and_nothing():
    truth, predicted = blobs(12, 30, 50, seed=2)
    flat = frame_counts(truth, predicted)
    assert torch.equal(
        frame_counts(truth.reshape(3, 4, 30, 50), predicted.reshape(3, 4, 30, 50)), flat.reshape(3, 4, 8)
    )
    assert frame_counts(truth[:0], predicted[:0]).shape == (0, 8)
    assert torch.equal(frame_counts(truth[0], predicted[0]), flat[0])
    part = torch.zeros(12, 60, 50, dtype=torch.bool)  # not contiguous
    part[:, ::2] = truth
    assert torch.equal(frame_counts(part[:, ::2], predicted), flat)


def test_void_is_cleared_before_boundaries():
    truth, predicted = blobs(8, 30, 50, seed=3)
    void = torch.zeros_like(truth)
    void[:, 5:20, 5:30] = True
    assert torch.equal(frame_counts(truth, predicted, void), frame_counts(truth & ~void, predicted & ~void))


def test_emptiness():
    empty, full = torch.zeros(1, 20, 30, dtype=torch.bool), torch.ones(1, 20, 30, dtype=torch.bool)
    box = empty.clone()
    box[:, 5:9, 5:9] = True
    expected = {(0, 0): (1, 1), (0, 2): (0, 0), (2, 0): (0, 0), (1, 0): (0, 1), (2, 2): (1, 1)}
    masks = empty, full, box
    for (truth, predicted), (j, f) in expected.items():
        assert j_and_f(masks[predicted], masks[truth]) == (j, f)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="bring the prediction to the size of the truth"):
        frame_counts(torch.zeros(1, 4, 5, dtype=torch.bool), torch.zeros(1, 4, 6, dtype=torch.bool))


def test_radius_is_exact_where_single_precision_is_not():
    assert [boundary_radius(*size) for size in ((225, 300), (450, 600), (480, 854), (1080, 1920))] == [3, 6, 8, 18]


def test_ratios_are_float64():
    counts = torch.tensor([[1, 3, 3, 7, 2, 5, 2, 2]])
    assert region_similarity(counts).item() == 1 / 3
    precision, recall = 5 / 7, 2 / 3
    assert boundary_measure(counts).item() == 2 * precision * recall / (precision + recall)


def test_decay_of_long_videos():
    mean, recall, decay = mean_recall_decay(np.r_[np.ones(300), np.zeros(300)])
    assert (mean, recall, decay) == (0.5, 0.5, 1.0)
    with pytest.raises(ValueError, match="at least one scored frame"):
        mean_recall_decay(np.zeros(0))
