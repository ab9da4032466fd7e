"""Questions about scenes and their answers in words: what a small language model is taught with before it segments."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from rvos_lightning.data.reader import Item
from rvos_lightning.data.shapes.grammar import Query, resolve, word
from rvos_lightning.data.shapes.kinds import Preset, vary
from rvos_lightning.data.shapes.moving_shapes import ShapesReader, Story
from rvos_lightning.data.shapes.scene import Scene, Thing, frame_times


class Asked(NamedTuple):
    """A question and its answer in words; or, without one, a sentence and the things that shall be pointed at."""

    question: str
    answer: str | None
    things: tuple[int, ...] = ()


NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven")
COLUMNS, ROWS = ("left", "middle", "right"), ("top", "middle", "bottom")
KINDS = {
    "point": 0.4, "exists": 0.2, "where": 0.14, "motion": 0.08,
    "colour": 0.06, "shape": 0.06, "size": 0.02, "count": 0.02,
}  # fmt: skip
"""Kind of question -> how often it is asked; the rest are captions."""
TRIES = 20


@dataclass(frozen=True)
class Quiz(Story):
    """A scene, questions about it in place of sentences, and what each is and is answered; None: by pointing."""

    kinds: tuple[str, ...] = ()
    answers: tuple[str | None, ...] = ()


def phrase(query: Query, random: np.random.Generator) -> str:
    """A thing as sentences call it, without what opens a sentence: `red disc that moves left`."""
    return re.sub(r"^(find |segment |all |every one of )?(the )?", "", word(query, random))


def query_of(thing: Thing, words: set[str]) -> Query:
    """What is said of a thing if these are mentioned: shape, colour, size, motion."""
    motion = replace(thing.motion, speed="", when=0.5)
    said = Query(
        shape=thing.shape if "shape" in words else "",
        colour=thing.colour if "colour" in words else "",
        size=thing.size if "size" in words else "",
    )
    return replace(said, motion=motion) if "motion" in words and motion.action != "still" else said


def some_words(random: np.random.Generator, but: str = "") -> set[str]:
    """Which attributes to mention; most often all."""
    return {what for what in ("shape", "colour", "size", "motion") if what != but and random.random() < 0.8}


def one_thing(scene: Scene, random: np.random.Generator, but: str = "") -> tuple[Thing, Query] | None:
    """A thing, and words that mean it alone; None where the words drawn do not."""
    index = int(random.integers(len(scene.things)))
    query = query_of(scene.things[index], some_words(random, but))
    return (scene.things[index], query) if resolve(scene, query) == (index,) else None


def present_or_not(
    scene: Scene, preset: Preset, random: np.random.Generator, absent: bool
) -> tuple[Query, tuple[int, ...]] | None:
    """Words that mean one thing of the scene, or none as they differ from one in one attribute; and what they mean."""
    thing = scene.things[int(random.integers(len(scene.things)))]
    words = some_words(random)
    if absent:
        what = ("shape", "colour", "direction")[int(random.integers(3 if thing.motion.action == "steady" else 2))]
        thing = vary(thing, what, preset, random)
        words |= {"motion" if what == "direction" else what}
    query = query_of(thing, words)
    found = resolve(scene, query)
    return None if found is None or absent is bool(found) else (query, found)


def exists(scene: Scene, preset: Preset, random: np.random.Generator) -> Asked | None:
    """Whether there is such a thing."""
    absent = random.random() < 0.5
    if (found := present_or_not(scene, preset, random, absent)) is None:
        return None
    return Asked(f"is there a {phrase(found[0], random)}?", "no" if absent else "yes")


def point(scene: Scene, preset: Preset, random: np.random.Generator) -> Asked | None:
    """A sentence about a thing, or about nothing."""
    if (found := present_or_not(scene, preset, random, random.random() < 0.3)) is None:
        return None
    return Asked(word(found[0], random), None, found[1])


def place(centre: np.ndarray) -> str:
    """Column and row of a picture's nine fields."""
    column, row = (min(2, max(0, int(3 * value))) for value in centre)
    return f"{COLUMNS[column]} {ROWS[row]}"


def where(scene: Scene, preset: Preset, random: np.random.Generator) -> Asked | None:
    """In which field of the picture a thing is on the first or last frame."""
    if (found := one_thing(scene, random)) is None:
        return None
    thing, query = found
    first = random.random() < 0.5
    centre = thing.centres(frame_times(2))[0 if first else 1]
    if thing.appears or (np.abs(3 * centre - np.round(3 * centre).clip(1, 2)) < 0.12).any():
        return None  # too near to two fields
    where = f"where is the {phrase(query, random)} {'first' if first else 'then'}?"
    return Asked(where, place(centre))


def motion(scene: Scene, preset: Preset, random: np.random.Generator) -> Asked | None:
    """Which way a thing moves."""
    if (found := one_thing(scene, random, "motion")) is None or found[0].motion.action not in ("steady", "still"):
        return None
    return Asked(f"which way is the {phrase(found[1], random)} moving?", found[0].motion.direction or "not")


def attribute(what: str) -> Callable[[Scene, Preset, np.random.Generator], Asked | None]:
    """Asks for a thing's shape, colour or size."""

    def ask(scene: Scene, preset: Preset, random: np.random.Generator) -> Asked | None:
        if (found := one_thing(scene, random, what)) is None or not (answer := getattr(found[0], what)):
            return None
        return Asked(f"what {what} is the {phrase(found[1], random)}?", answer)

    return ask


def count(scene: Scene, preset: Preset, random: np.random.Generator) -> Asked | None:
    """How many things share some words."""
    what = ("shape", "colour", "motion")[int(random.integers(3))]
    query = query_of(scene.things[int(random.integers(len(scene.things)))], {what})
    if (found := resolve(scene, replace(query, plural=True))) is None:
        found = resolve(scene, query)
    if found is None or len(found) >= len(NUMBERS):
        return None
    return Asked(f"how many are there: {phrase(replace(query, plural=True), random)}?", NUMBERS[len(found)])


def caption(scene: Scene, preset: Preset, random: np.random.Generator) -> Asked | None:
    """All things, from left to right as they are first."""
    things = sorted(scene.things, key=lambda thing: thing.start[0])
    named = (word(query_of(thing, {"shape", "colour", "size", "motion"}), random, plain=True) for thing in things)
    return Asked("what is there?", ", ".join(named))


MAKERS = {
    "point": point, "exists": exists, "where": where, "motion": motion, "count": count, "caption": caption,
    "colour": attribute("colour"), "shape": attribute("shape"), "size": attribute("size"),
}  # fmt: skip
WORDS = tuple(
    "is there a an the where first then which way moving what colour shape size how many are yes no not".split()
)
VOCABULARY: tuple[str, ...] = tuple(sorted({*WORDS, *NUMBERS, *COLUMNS, *ROWS}))
"""Words of questions and answers beside those of sentences."""


class QuestionReader(ShapesReader):
    """The same videos with questions in place of sentences; `Facts.answer` holds each one's answer.

    Its subset is a question's kind: exists, where, motion, colour, shape, size, count, caption; or point, which is a
    sentence without an answer. No other means pixels, and no frame of theirs is annotated.

    Args:
        others: see `ShapesReader`.
        shares: kind of question -> how often it is asked; the rest are captions.
        named: see `ShapesReader`.
    """

    def __init__(self, *others: Any, shares: Mapping[str, float] = KINDS, **named: Any) -> None:
        super().__init__(*others, **named)
        self.shares = dict(shares)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"shares": self.shares}

    def _tell(self, index: int) -> Story:
        scene = super()._tell(index).scene
        random = self._random(index, 2)
        kinds, asked = zip(
            *(question(scene, self.preset, random, self.shares) for _ in range(self.expressions)), strict=True
        )
        texts = tuple((one.question, one.things) for one in asked)
        return Quiz(scene, texts, kinds, tuple(one.answer for one in asked))

    def _item(self, index: int) -> Item:
        video, number = divmod(index, self.expressions)
        story: Any = self.story(video)
        item, kind = super()._item(index), story.kinds[number]
        return replace(item, subsets=(kind,), facts=replace(item.facts, kind=kind, answer=story.answers[number]))

    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]]:
        """Visible pixels of what shall be pointed at."""
        masks, annotated = super().read_masks(item, positions)
        return masks, annotated & (self.items[item].facts.answer is None)


def question(
    scene: Scene, preset: Preset, random: np.random.Generator, shares: Mapping[str, float]
) -> tuple[str, Asked]:
    """A kind of question that can be asked of a scene, the question and its answer."""
    for _ in range(TRIES):
        draw = random.random()
        kind = next(
            (k for k, edge in zip(shares, np.cumsum([*shares.values()]), strict=True) if draw < edge), "caption"
        )
        if (pair := MAKERS[kind](scene, preset, random)) is not None:
            return kind, pair
    return "caption", caption(scene, preset, random)
