"""Published sampling rules, each against its own definition."""

from pathlib import Path

import numpy as np
import pytest

from rvos_lightning.data.clips.sampling import (
    AroundReference,
    ClipSampling,
    Contiguous,
    Local,
    LocalGlobal,
    RandomDistinct,
    Reverse,
    Uniform,
    UniformWithOffset,
    uniform_positions,
)

RULES = [LocalGlobal(), Local(), Uniform(), Contiguous(), Contiguous(True, 3), RandomDistinct(), AroundReference()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 40])
def test_clips_are_full_sorted_and_inside(rule: ClipSampling, frames: int) -> None:
    for seed in range(30):
        random = np.random.default_rng(seed)
        positions = rule(frames, 8, int(random.integers(frames)), random)
        assert len(positions) == 8 and positions == sorted(positions)
        assert 0 <= positions[0] and positions[-1] < frames
        again = np.random.default_rng(seed)
        assert positions == rule(frames, 8, int(again.integers(frames)), again)


def test_local_global_is_near_and_far() -> None:
    for seed in range(100):
        positions = LocalGlobal()(60, 8, 30, np.random.default_rng(seed))
        assert 30 in positions
        assert any(27 <= p <= 29 for p in positions) and any(31 <= p <= 33 for p in positions)
    assert LocalGlobal()(60, 8, 0, np.random.default_rng(0))[:2] == [0, 0]  # the published duplicate at the border


def test_local_stays_within_a_clip_length() -> None:
    for seed in range(100):
        positions = Local()(60, 8, 30, np.random.default_rng(seed))
        assert all(22 <= p < 38 for p in positions) and len(set(positions)) == 8
        assert sum(p < 30 for p in positions) == 4


def test_uniform_equals_the_published_examples() -> None:
    assert uniform_positions(20, 5) == [0, 4, 9, 14, 19]
    assert uniform_positions(50, 8) == [0, 7, 14, 21, 28, 35, 42, 49]
    assert uniform_positions(100, 12) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]


def test_uniform_with_offset() -> None:
    assert UniformWithOffset(0.0)(20, 5, 0, np.random.default_rng(0)) == [2, 6, 10, 14, 18]
    assert UniformWithOffset()(4, 5, 0, np.random.default_rng(0)) == [0, 1, 2, 3]
    for frames in range(6, 60):
        for offset in (-0.5, 0.5):
            positions = UniformWithOffset(offset)(frames, 5, 0, np.random.default_rng(0))
            assert 0 <= positions[0] and positions[-1] < frames and positions == sorted(set(positions))


def test_random_distinct_repeats_only_where_published() -> None:
    for frames, distinct in ((20, True), (7, True), (6, False), (5, False)):
        clips = [RandomDistinct()(frames, 5, 0, np.random.default_rng(seed)) for seed in range(40)]
        assert all(len(set(clip)) == 5 for clip in clips) == distinct


def test_contiguous_contains_its_anchor_and_strides() -> None:
    for seed in range(50):
        positions = Contiguous(around_anchor=True, stride=2)(50, 5, 33, np.random.default_rng(seed))
        assert positions[0] <= 33 <= positions[-1] and set(np.diff(positions)) == {2}
    assert Contiguous()(3, 5, 0, np.random.default_rng(0)) == [0, 1, 2, 2, 2]


def test_reverse_turns_the_given_share() -> None:
    clips = [Reverse(Contiguous(), 0.3)(30, 5, 0, np.random.default_rng(seed)) for seed in range(400)]
    assert 0.22 < np.mean([clip[0] > clip[-1] for clip in clips]) < 0.38


def test_offsets_equal_the_recorded_tables() -> None:
    recording = Path(__file__).parents[1] / "golden" / "sa2va" / "f_frames.npz"
    if not recording.exists():
        pytest.skip("recording not copied")
    tables = np.load(recording)
    for k in tables["ks"]:
        rows = {int(n): row for n, row in zip(tables["video_lengths"], tables[f"uniform_k{k}"], strict=True)}
        assert all(uniform_positions(n, int(k)) == list(row) for n, row in rows.items())
    for key in (key for key in tables.files if key.startswith("train_uniform_k")):
        k = int(key.rsplit("k", 1)[1])
        rows = iter(tables[key])
        for n in (int(n) for n in tables["video_lengths"] if n > k):
            for u in tables["train_u"]:
                assert [n, *UniformWithOffset(float(u))(n, k, 0, np.random.default_rng(0))] == list(next(rows))
