"""What every data module does with a reader: clips, evaluation batches, context, users, mixtures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rvos_lightning.core.types import ClipMeta, LazyTensor, Targets, User
from rvos_lightning.data import Mixture, MovingShapes
from rvos_lightning.data.clips.clips import Units
from rvos_lightning.data.clips.sampler import Draw
from rvos_lightning.data.clips.sampling import RandomDistinct, UniformWithOffset
from rvos_lightning.data.clips.users import UserFactory
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.video_data import VideoData


class Walls(Reader):
    """Videos of given (frames, height, width); pixel value = frame number, item k's mask = column k, seen late."""

    name, split = "walls", "train"

    def __init__(self, shapes: Sequence[tuple[int, int, int]], items: int = 2, **change: Any) -> None:
        self.shapes = shapes
        self.videos = [
            Video(f"v{i}", tuple(f"{t:03d}" for t in range(n)), (h, w)) for i, (n, h, w) in enumerate(shapes)
        ]
        make = {"expression": "the wall", "objects": (1,)} | change
        self.items = [Item(v, str(k), **make) for v in range(len(shapes)) for k in range(items)]
        self.asked: list[tuple[int, int]] = []

    def read_frames(self, video: int, positions: Sequence[int]) -> Tensor:
        self.asked += [(video, int(p)) for p in positions]
        _, height, width = self.shapes[video]
        return torch.stack([torch.full((3, height, width), int(p), dtype=torch.uint8) for p in positions])

    def read_masks(self, item: int, positions: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        entry = self.items[item]
        if entry.objects is None:
            return None
        frames, height, width = self.shapes[entry.video]
        masks = torch.zeros(len(positions), height, width, dtype=torch.bool)
        for row, position in enumerate(positions):
            masks[row, :, int(entry.id)] = bool(entry.objects) and position >= frames // 2
        return masks, torch.tensor([p % 2 == 0 for p in positions])


class Walled(VideoData):
    """One reader for every split."""

    def __init__(self, walls: Reader, **kwargs: Any) -> None:
        super().__init__(**{"size": (64, 64), "clip_length": 4, "batch_size": 2} | kwargs)
        self.walls = walls

    def reader(self, split: str) -> Reader:
        return self.walls


def test_units_cover_items_and_anchors() -> None:
    walls = Walls([(10, 8, 8), (3, 8, 8)], items=3)
    assert len(Units(walls, None, 1, False, None)) == 6 and len(Units(walls, None, 2, False, None)) == 4
    anchored = Units(walls, None, 1, False, 4)
    picks = [anchored.pick(u, (0, 0), np.random.default_rng(0)) for u in range(len(anchored))]
    assert picks == [(0, [i], a) for i in range(3) for a in (0, 4, 8)] + [(1, [i], 0) for i in (3, 4, 5)]
    assert len(Units(walls, 1, 1, False, None)) == 3
    drawn = Units(walls, None, 5, True, None)
    assert len(drawn) == 2 and len(drawn.pick(1, (0, 0), np.random.default_rng(0))[1]) == 5


def test_groups_of_items_change_with_the_epoch_and_lose_none() -> None:
    units = Units(Walls([(4, 8, 8)], items=7), None, 3, False, None)
    epochs = []
    for epoch in range(4):
        groups = [units.pick(u, (0, epoch), np.random.default_rng(u))[1] for u in range(len(units))]
        assert sorted(sum(groups, [])) == list(range(7))
        epochs.append(str(groups))
    assert len(set(epochs)) > 1


def test_a_training_batch_of_unequal_videos() -> None:
    data = Walled(Walls([(9, 32, 48), (9, 64, 32)]), items_per_video=2, seed=1)
    batch = next(iter(data.train_dataloader()))
    clip, targets = batch.clip, batch.targets
    assert clip.frames.shape == (2, 4, 3, 64, 64) and clip.video.tolist() == [0, 0, 1, 1]
    sizes = {m.video: m.size for m in clip.meta}
    assert sizes == {"v0": (43, 64), "v1": (64, 32)} and {m.original_size for m in clip.meta} == {(32, 48), (64, 32)}
    for row, meta in enumerate(clip.meta):
        frame = clip.frames[clip.video[row]]
        height, width = meta.size
        assert frame[:, 0, 0, 0].tolist() == list(meta.positions)
        assert not frame[..., height:, :].any() and not frame[..., width:].any()
        assert targets.annotated[row].tolist() == [p % 2 == 0 for p in meta.positions]
        assert meta.frames == tuple(f"{p:03d}" for p in meta.positions)


def test_clips_without_their_object_are_drawn_again_but_no_target_stays() -> None:
    clips = Walled(Walls([(40, 8, 8)], items=1), sampling=RandomDistinct(), clip_length=2).train_clips()
    seen = [bool((s.masks & s.annotated[..., None, None]).any()) for s in (clips[Draw(0, i)] for i in range(30))]
    assert all(seen)
    clips.redraw = False
    assert not all(bool(clips[Draw(0, i)].masks.any()) for i in range(30))
    nothing = Walled(Walls([(40, 8, 8)], items=1, objects=())).train_clips()
    walls: Walls = nothing.reader
    assert not nothing[Draw(0, 0)].masks.any() and len(walls.asked) == 4  # read once, not redrawn


def test_a_short_clip_is_filled_with_unannotated_frames() -> None:
    data = Walled(Walls([(3, 8, 8), (9, 8, 8)], items=1), sampling=UniformWithOffset(), clip_length=6)
    batch = next(iter(data.train_dataloader()))
    row = [m.video for m in batch.clip.meta].index("v0")
    assert batch.clip.frames.shape[1] == 6 and batch.clip.meta[row].positions == (0, 1, 2, 2, 2, 2)
    assert not batch.targets.annotated[row, 3:].any()


def test_evaluation_reads_long_videos_window_by_window() -> None:
    walls = Walls([(30, 32, 48)])
    data = Walled(walls, in_memory_pixels=1000, context_frames=4)
    (batch,) = data.val_dataloader()
    assert isinstance(batch.clip.frames, LazyTensor) and isinstance(batch.targets.masks, LazyTensor)
    assert batch.clip.context.shape == (1, 4, 3, 43, 64) and batch.clip.context_positions == ((0, 9, 19, 29),)
    assert batch.clip.frames.shape == (1, 30, 3, 43, 64) and batch.targets.masks.shape == (2, 30, 32, 48)
    walls.asked.clear()
    for start in range(0, 30, 8):
        clip, targets = batch.to("cpu").clip.window(start, start + 8), batch.targets.window(start, start + 8)
        assert max(p for _, p in walls.asked) < start + 16
        assert torch.equal(clip.frames[0, :, 0, 0, 0] * 255, torch.arange(start, min(start + 8, 30)).float())
        expected = [bool(p >= 15) for p in range(start, min(start + 8, 30))]
        assert targets.masks[1, :, 0, 1].tolist() == expected and targets.annotated[0, 0] == (start % 2 == 0)


def test_reading_ahead_holds_one_window_more() -> None:
    walls = Walls([(30, 32, 48)])
    (batch,) = Walled(walls, in_memory_pixels=1000).val_dataloader()
    walls.asked.clear()
    for start in range(0, 30, 8):
        batch.clip.frames[:, start : start + 8]
        assert max(p for _, p in walls.asked) < min(start + 16, 30)
    assert sorted(walls.asked) == [(0, p) for p in range(30)]  # every frame once
    assert torch.equal(batch.clip.frames[:, 3:5][0, :, 0, 0, 0] * 255, torch.tensor([3.0, 4.0]))


def test_small_equal_videos_are_evaluated_together() -> None:
    data = Walled(Walls([(6, 8, 8)] * 5 + [(7, 8, 8)], items=3), eval_batch_size=2, items_per_video_eval=2)
    batches = list(data.val_dataloader())
    seen = [(m.video, m.item) for b in batches for m in b.clip.meta]
    assert sorted(seen) == [(f"v{v}", str(k)) for v in range(6) for k in range(3)]
    assert all(b.clip.frames.shape[0] <= 2 and b.clip.frames.shape[1] == len(b.clip.meta[0].frames) for b in batches)
    assert all(isinstance(b.clip.frames, Tensor) and b.targets.masks.shape[-2:] == (8, 8) for b in batches)


def test_evaluation_may_have_its_own_size_and_limit() -> None:
    data = Walled(Walls([(6, 32, 48)] * 3), eval_size=(32, 48), eval_resize="squash", limit=2)
    assert [b.clip.frames.shape[-2:] for b in data.val_dataloader()] == [(32, 48)] * 2


def test_hidden_truth() -> None:
    data = Walled(Walls([(6, 8, 8)], objects=None))
    (batch,) = data.predict_dataloader()
    assert batch.targets is None
    with pytest.raises(DataError, match="walls train: item '.' of video 'v0'.*hidden"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize(("text", "message"), [("  ", "empty expression"), (None, "data.simulate_user")])
def test_missing_and_empty_expressions_are_named(text: str | None, message: str) -> None:
    data = Walled(Walls([(6, 8, 8)], expression=text))
    for loader in (data.train_dataloader(), data.val_dataloader()):
        with pytest.raises(DataError, match=rf"item '.' of video 'v0'.*{message}"):
            next(iter(loader))


def test_a_mask_of_another_size_is_named() -> None:
    class Narrow(Walls):
        def read_masks(self, item: int, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
            masks, annotated = super().read_masks(item, positions)
            return masks[..., :-1], annotated

    with pytest.raises(DataError, match="mask of 7x8 pixels on a frame of 8x8"):
        next(iter(Walled(Narrow([(6, 8, 8)])).train_dataloader()))


class Pointer(User):
    """Remembers what it was made from."""

    def __init__(self, targets: Targets, meta: list[ClipMeta], seed: int) -> None:
        self.items, self.seed, self.shape = len(meta), seed, targets.masks.shape

    def first_prompt(self, item: int) -> list[Any]:
        return []

    def correct(self, item: int, frame: int, mask: Tensor) -> None:
        return None


class Pointers(UserFactory):
    """Makes `Pointer`s."""

    def __call__(self, targets: Targets, meta: list[ClipMeta], seed: int, batch_seed: int | None = None) -> User:
        return Pointer(targets, meta, seed)

    def evaluation(self, targets: Targets, meta: list[ClipMeta], seed: int) -> User:
        return Pointer(targets, meta, seed)


def test_a_user_comes_with_every_batch_and_makes_words_optional() -> None:
    data = Walled(Walls([(6, 8, 8)] * 4, expression=None), simulate_user=Pointers())
    first, again = (list(data.train_dataloader()) for _ in range(2))
    assert all(b.clip.expressions is None and b.clip.user.items == 2 for b in first)
    assert [b.clip.user.seed for b in first] == [b.clip.user.seed for b in again]
    assert len({b.clip.user.seed for b in first}) == len(first)
    (whole, *_) = data.val_dataloader()
    assert whole.clip.user.shape == (2, 6, 8, 8) and whole.clip.expressions is None


def mixture(**kwargs: Any) -> Mixture:
    sources = {
        "a": Walled(Walls([(6, 8, 8)] * 3), clip_length=2),
        "b": Walled(Walls([(5, 16, 16)] * 20), clip_length=4),
    }
    return Mixture(sources, **{"weights": {"a": 1.0, "b": 3.0}, "epoch_length": 80, "batch_size": 4} | kwargs)


def test_a_mixture_keeps_its_shares_and_its_batches_pure() -> None:
    batches = list(mixture(seed=2).train_dataloader())
    lengths = [b.clip.frames.shape[1] for b in batches]
    assert len(batches) == 20 and set(lengths) == {2, 4} and 1 <= lengths.count(2) <= 10
    again = list(mixture(seed=2).train_dataloader())
    assert all(torch.equal(a.clip.frames, b.clip.frames) for a, b in zip(batches, again, strict=True))
    other = [b.clip.frames.shape[1] for b in mixture(seed=3).train_dataloader()]
    assert other != lengths
    mixed = list(mixture(one_source_a_batch=False, seed=2).train_dataloader())
    assert any(len({m.original_size for m in b.clip.meta}) == 2 for b in mixed)


def test_a_mixture_says_what_each_source_gives() -> None:
    data = mixture(seed=2)
    rows = data.shares()
    assert [row["share"] for row in rows.values()] == [0.25, 0.75]
    assert [row["samples an epoch"] for row in rows.values()] == [20, 60]
    assert all(row["validated on"] == "-" for row in rows.values())  # nothing was opened for the table
    data.metrics("val")
    assert data.shares()["a"]["validated on"].endswith("items of train, as a")  # the toy reader's split
    assert mixture(weights={"a": 1.0}).shares()["b"]["samples"] == 0


def test_a_mixture_uses_every_sample_before_any_twice() -> None:
    clips = mixture(epoch_length=400).train_clips()
    which, sample = clips._plan(0)
    for number, size in ((0, 6), (1, 40)):
        drawn = sample[which == number]
        assert sorted(drawn[:size]) == list(range(size))
    assert abs((which == 1).mean() - 0.75) < 0.15


def test_a_mixture_evaluates_its_sources_in_turn() -> None:
    loader = mixture().val_dataloader()
    batches = list(loader)
    videos = [m.original_size for b in batches for m in b.clip.meta]
    assert videos == [(8, 8)] * 6 + [(16, 16)] * 40
    dataset = getattr(loader, "loader", loader).dataset
    assert dataset.frames == [b.clip.frames.shape[0] * b.clip.time for b in batches]  # what a progress bar counts to
    assert len(list(mixture(evaluate=["a"]).val_dataloader())) == 3
    with pytest.raises(DataError, match=r"data\.weights: 'c' is none of the sources a, b"):
        mixture(weights={"c": 1.0}).train_dataloader()


def test_workers_change_nothing() -> None:
    options = {"size": 16, "train_clips": 12, "clip_length": 2, "batch_size": 4, "items_per_video": 2}
    alone, helped = (list(MovingShapes(workers=n, **options).train_dataloader()) for n in (0, 2))
    assert all(torch.equal(a.clip.frames, b.clip.frames) for a, b in zip(alone, helped, strict=True))
    assert [a.clip.expressions for a in alone] == [b.clip.expressions for b in helped]
