"""Questions about MovingShapes: their answers follow from the scenes, and all kinds are asked."""

import pickle
import re
from collections import Counter

import pytest

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.shapes import questions
from rvos_lightning.data.shapes.grammar import VOCABULARY
from rvos_lightning.data.shapes.moving_shapes import MovingShapes

COLOUR = "(red|green|blue|yellow)"


def reader(**more):
    made = MovingShapes(
        kinds={"attributes": 0.8, "size": 0.2},
        questions=True,
        expressions_per_video=8,
        size=32,
        clip_length=3,
        val_clips=192,
        **more,
    )
    return made.reader("val")


def asked(made):
    return list(made.items)


@pytest.fixture(scope="module")
def items():
    return asked(reader())


def test_every_kind_is_asked_and_both_answers_are_given(items):
    kinds = Counter(item.facts.kind for item in items)
    assert kinds.keys() == questions.MAKERS.keys()
    answers = Counter(item.facts.answer for item in items if item.facts.kind == "exists")
    assert answers.keys() == {"yes", "no"} and 0.8 < answers["yes"] / answers["no"] < 1.25
    pointed = [item for item in items if item.facts.kind == "point"]
    assert all(item.facts.answer is None for item in pointed) and {len(item.objects) for item in pointed} == {0, 1}
    others = [item for item in items if item.facts.kind != "point"]
    assert all(item.expression.endswith("?") and item.objects == () and item.facts.answer for item in others)
    assert all(item.subsets == (item.facts.kind,) for item in items)


def test_shares_say_what_is_asked():
    data = MovingShapes(questions={"exists": 0.5, "point": 0.5}, size=32, clip_length=3)
    made = pickle.loads(pickle.dumps(data.reader("val")))
    assert {item.facts.kind for item in made.items} == {"exists", "point"}
    with pytest.raises(DataError, match="questions: unknown 'whether'; give shares of some of point, exists"):
        MovingShapes(questions={"whether": 1.0}).check()


def test_words_are_in_the_vocabulary(items):
    known = {*VOCABULARY, *questions.VOCABULARY}
    assert {
        word
        for item in items
        for text in (item.expression, item.facts.answer or "")
        for word in re.findall(r"\w+", text)
    } <= known


def things_of(made, item):
    return made.story(item.video).scene.things


def test_answers_are_true():
    """Where a question names colour, shape and nothing else, the truth is read off the scene anew."""
    made, checked = reader(), Counter()
    for item in asked(made):
        things = things_of(made, item)
        if found := re.fullmatch(rf"is there a {COLOUR} (circle|square|triangle)\?", item.expression):
            there = any((thing.colour, thing.shape) == found.groups() for thing in things)
            assert item.facts.answer == ("yes" if there else "no")
            checked["exists"] += 1
        if found := re.fullmatch(rf"which way is the {COLOUR} (square|triangle) moving\?", item.expression):
            [thing] = [thing for thing in things if (thing.colour, thing.shape) == found.groups()]
            assert item.facts.answer == thing.motion.direction
            checked["motion"] += 1
        if found := re.fullmatch(rf"where is the {COLOUR} (square|triangle) (first|then)\?", item.expression):
            [thing] = [thing for thing in things if (thing.colour, thing.shape) == found.groups()[:2]]
            x, y = thing.centres(questions.frame_times(2))[int(found[3] == "then")]
            column, row = item.facts.answer.split()
            assert questions.COLUMNS[int(3 * x)] == column and questions.ROWS[int(3 * y)] == row
            checked["where"] += 1
        if item.facts.kind == "caption":
            assert item.facts.answer.count(",") == len(things) - 1
        masks, annotated = made.read_masks(8 * item.video + int(item.id), [0, 2])
        assert annotated.all() == (item.facts.kind == "point") and masks.any() == bool(item.objects)
    assert min(checked[kind] for kind in ("exists", "motion", "where")) >= 3


def test_the_videos_are_those_of_the_sentences():
    made = reader()
    sentences = MovingShapes(kinds={"attributes": 0.8, "size": 0.2}, size=32, clip_length=3).reader("val")
    assert made.story(5).scene == sentences.story(5).scene
    assert pickle.loads(pickle.dumps(made)).items[13] == made.items[13]
