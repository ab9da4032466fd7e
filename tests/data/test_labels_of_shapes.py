"""Names of attributes as items of MovingShapes: each mask is the union of the things that the scene says have it."""

import pickle

import numpy as np
import torch

from rvos_lightning.data.shapes.labels import labels_of
from rvos_lightning.data.shapes.moving_shapes import MovingShapes


def reader(**more):
    return MovingShapes(labels=True, size=48, clip_length=3, **more).reader("val")


def test_every_name_is_an_item_of_every_video_and_means_what_has_it():
    made = reader(kinds={"attributes": 1.0, "size": 1.0})
    names = [name for _, name in labels_of(made.preset)]
    assert names == "circle square triangle red green blue yellow small big left right up down".split()
    for video in range(4):
        things, pixels = made.story(video).scene.things, made.read_labels(video, [0, 2])
        for number, name in enumerate(names):
            item = made.items[video * len(names) + number]
            assert (item.video, item.expression) == (video, name)
            expected = torch.zeros_like(pixels, dtype=torch.bool)
            for index, thing in enumerate(things, 1):
                if name in (thing.shape, thing.colour, thing.size, thing.motion.direction):
                    expected |= pixels == index
            masks, annotated = made.read_masks(video * len(names) + number, [0, 2])
            assert torch.equal(masks, expected) and annotated.all()
            assert item.no_target == (item.objects == ())
    assert made.items[0].subsets == ("shape",) and made.items[len(names) - 1].subsets == ("direction",)


def test_the_videos_are_those_of_the_sentences():
    sentences, labels = MovingShapes(size=48, clip_length=3).reader("val"), reader()
    assert torch.equal(sentences.read_frames(3, [0, 1, 2]), labels.read_frames(3, [0, 1, 2]))
    again = pickle.loads(pickle.dumps(labels))
    assert again.items[30].expression == labels.items[30].expression


def test_what_turns_or_stops_has_no_one_direction():
    made = reader(difficulty="medium", kinds={"turn": 1.0})
    for index, (_, things) in enumerate(made.story(0).expressions):
        if made.labels[index][0] == "direction":
            assert all(made.story(0).scene.things[thing].motion.action == "steady" for thing in things)
    assert any(thing.motion.action == "turn" for thing in made.story(0).scene.things)


def test_parts_of_things_lie_on_either_side_of_their_centres():
    made = MovingShapes(labels=["column", "row"], size=48, clip_length=3, items_per_video=4).reader("val")
    assert [name for _, name in made.labels] == ["left part", "right part", "upper part", "lower part"]
    assert pickle.loads(pickle.dumps(made)).items[1].expression == "right part"
    left, right, upper, lower = (made.read_masks(item, [0, 2])[0] for item in range(4))
    pixels, things = made.read_labels(0, [0, 2]), made.story(0).scene.things
    for halves in ((left, right), (upper, lower)):
        assert torch.equal(halves[0] ^ halves[1], pixels > 0) and not (halves[0] & halves[1]).any()
    for index, thing in enumerate(things):
        for time, (x, y) in enumerate(thing.centres(np.array([0.0, 1.0])) * 48):
            rows, columns = torch.where((pixels[time] == index + 1) & left[time] & upper[time])
            assert (columns + 0.5 < x).all() and (rows + 0.5 < y).all() and len(rows)
