"""MovingShapes: drawn from the index alone, splits disjoint, words true of the pictures."""

import pickle

import numpy as np
import pytest
import torch

from rvos_lightning.data import MovingShapes
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.shapes.grammar import Query, matches, resolve, word
from rvos_lightning.data.shapes.kinds import MAKERS, PRESETS
from rvos_lightning.data.shapes.moving_shapes import VOCABULARY, ShapesReader, split_of
from rvos_lightning.data.shapes.scene import COLOURS, DIRECTIONS, Motion, Scene, Thing


def reader(split: str = "train", difficulty: str = "easy", kind: str | None = None, **kwargs: int) -> ShapesReader:
    kinds = None if kind is None else {kind: 1.0}
    return MovingShapes(difficulty=difficulty, kinds=kinds, size=64, train_clips=200, **kwargs).reader(split)


def test_a_clip_follows_from_seed_and_index_alone() -> None:
    first, second = reader(), pickle.loads(pickle.dumps(reader()))
    second.read_frames(3, range(8))  # another order of reading
    assert torch.equal(first.read_frames(7, range(8)), second.read_frames(7, range(8)))
    assert first.items[14] == second.items[14] and first.items[14] != reader(data_seed=1).items[14]
    assert torch.equal(first.read_frames(7, [5, 2, 2]), first.read_frames(7, range(8))[[5, 2, 2]])


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
def test_splits_never_share_a_scene(difficulty: str) -> None:
    signatures = {}
    for split in ("train", "val", "test"):
        for seed in (0, 1):
            drawn = reader(split, difficulty, data_seed=seed, val_clips=80, test_clips=80)
            scenes = [drawn.story(i).scene for i in range(80)]
            assert {split_of(scene) for scene in scenes} == {split}
            signatures.setdefault(split, set()).update(scene.signature() for scene in scenes)
    assert len(signatures["train"]) == 160  # and hardly ever the same scene twice
    assert not signatures["train"] & signatures["val"] and not signatures["val"] & signatures["test"]


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_speaks_the_vocabulary_and_the_truth(kind: str) -> None:
    drawn = reader(difficulty="hard" if kind == "attributes" else "medium", kind=kind)
    words = set(VOCABULARY)
    visible = []
    for index in range(30):
        item, scene = drawn.items[2 * index], drawn.story(index).scene
        assert set(item.expression.split()) <= words and item.subsets[0] == kind
        masks, annotated = drawn.read_masks(2 * index, range(8))
        labels = drawn.read_labels(index, range(8))
        assert annotated.all() and torch.equal(masks, sum((labels == o for o in item.objects), torch.zeros_like(masks)))
        assert (len(item.objects) == 0) == (kind == "no_target") and (len(item.objects) > 1) == (kind == "multi")
        shapes = {scene.things[n - 1].shape for n in item.objects}
        assert set((item.facts.category or "").split(", ")) - {""} == shapes
        visible.append(bool(masks.any()) or kind == "no_target")
        for number in item.objects:
            thing = scene.things[number - 1]
            inside = (labels == number)[:, None].expand(-1, 3, -1, -1)
            if inside.any():
                mean = drawn.read_frames(index, range(8)).float().movedim(1, 0)[:, labels == number].mean(1)
                assert (mean - torch.tensor(COLOURS[thing.colour])).abs().max() < 45
    assert all(visible)


def test_distractors_differ_in_exactly_one_respect() -> None:
    drawn = reader()
    for index in range(40):
        things = drawn.story(index).scene.things
        facts = [(t.shape, t.colour, t.motion.direction) for t in things]
        differences = [[a != b for a, b in zip(facts[0], other, strict=True)] for other in facts[1:]]
        assert [sum(d) for d in differences] == [1, 1, 1]
        assert sorted(d.index(True) for d in differences) == [0, 1, 2]


def test_pictures_move_as_the_words_say() -> None:
    drawn = reader()
    grid = torch.arange(64.0)
    for index in range(20):
        masks = drawn.read_masks(2 * index, range(8))[0].float()
        area = masks.sum((1, 2))
        if (area < 0.8 * area.max()).any():
            continue  # partly hidden: its centroid tells little
        x, y = (masks.sum(1) * grid).sum(1) / area, (masks.sum(2) * grid).sum(1) / area
        moved = torch.stack([x[-1] - x[0], y[-1] - y[0]])
        direction = next(d for d in ("left", "right", "up", "down") if d in drawn.items[2 * index].expression.split())
        assert (moved / moved.norm()) @ torch.tensor(DIRECTIONS[direction]) > 0.95 and moved.norm() > 20


def test_late_targets_are_absent_first_while_a_look_alike_is_there() -> None:
    drawn = reader(difficulty="medium", kind="tracking_bias")
    late = 0
    for index in range(30):
        things = drawn.story(index).scene.things
        assert things[1].appears == 0 and (things[0].shape, things[0].colour) == (things[1].shape, things[1].colour)
        masks = drawn.read_masks(2 * index, range(8))[0]
        if things[0].appears > 0:
            late += 1
            assert not masks[:3].any() and masks[-1].any()
        else:
            assert things[0].motion.action == "start" and things[1].motion.action == "still"
    assert 5 < late < 25


def test_occluded_targets_vanish_and_come_back() -> None:
    drawn = reader(difficulty="medium", kind="occlusion")
    areas = torch.stack([drawn.read_masks(2 * i, range(8))[0].sum((1, 2)) for i in range(30)]).float()
    hidden = areas.min(1).values / areas.max(1).values
    assert hidden.median() < 0.35 and (areas[:, 0] > 0).float().mean() > 0.9


def test_doubtful_words_are_not_used() -> None:
    up, diagonal = Motion("steady", "up"), Motion("steady", "up and left")
    assert matches(Thing("circle", "red", motion=diagonal), Query(motion=up)) is None
    assert matches(Thing("circle", "red", motion=Motion("stop", "up")), Query(motion=up)) is None
    assert matches(Thing("circle", "red"), Query(size="big")) is None
    pair = Scene("x", (Thing("circle", "red", motion=up), Thing("circle", "red", motion=up)))
    assert resolve(pair, Query(shape="circle")) is None  # "the circle" of two
    assert resolve(pair, Query(shape="circle", plural=True)) == (0, 1)
    assert resolve(pair, Query(colour="blue")) == ()


def test_plural_wording() -> None:
    query = Query(shape="square", colour="red", motion=Motion("steady", "left"), plural=True)
    sentences = {word(query, np.random.default_rng(seed)) for seed in range(60)}
    assert "all the red squares that move left" in sentences
    assert not any(" moves " in sentence or " is " in sentence for sentence in sentences)


def test_several_sentences_a_video_share_its_frames() -> None:
    data = MovingShapes(size=32, train_clips=8, batch_size=3, items_per_video=2)
    batch = next(iter(data.train_dataloader()))
    assert batch.clip.frames.shape == (3, 8, 3, 32, 32) and batch.clip.video.tolist() == [0, 0, 1, 1, 2, 2]
    assert len({m.video for m in batch.clip.meta}) == 3 and batch.targets.masks.shape == (6, 8, 32, 32)


def test_unknown_kinds_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="unknown 'dance'.*tracking_bias"):
        MovingShapes(kinds={"dance": 1.0}).train_dataloader()
    with pytest.raises(DataError, match="positive"):
        MovingShapes(kinds={"turn": 0.0}).val_dataloader()
    with pytest.raises(DataError, match="data.batch_size is 0"):
        MovingShapes(batch_size=0).train_dataloader()


def test_sentences_that_only_a_direction_tells_are_a_subset() -> None:
    drawn, counts = reader(kind="attributes"), {"direction": 0, "looks": 0}
    for index in range(80):
        scene, item = drawn.story(index // 2).scene, drawn.items[index]
        asked = scene.things[item.objects[0] - 1]
        alike = [t for t in scene.things if (t.shape, t.colour, t.size) == (asked.shape, asked.colour, asked.size)]
        told = "direction" if len(alike) > 1 else "looks"
        assert item.subsets == ("attributes", told)
        counts[told] += 1
    assert min(counts.values()) > 0
    assert MovingShapes(stills=True).reader("val").items[0].subsets[1:] == ()


def test_presets_hold_all_named_subsets() -> None:
    for difficulty in ("medium", "hard"):
        assert {"tracking_bias", "occlusion", "multi", "no_target"} <= set(PRESETS[difficulty].kinds)


@pytest.mark.parametrize("size", [511, 512, 1024])
def test_pictures_of_any_size(size: int) -> None:
    frames = (
        MovingShapes(size=size, train_clips=1, clip_length=2, difficulty="medium").reader("train").read_frames(0, [1])
    )
    assert tuple(frames.shape) == (1, 3, size, size) and frames.float().std() > 5
