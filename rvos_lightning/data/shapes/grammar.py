"""What can be said about a scene, which things it means, and how it is worded.

An expression is a `Query`; `resolve` finds the things it means, so that truth follows from the words and not from
how the scene was made. Where a listener could doubt, `resolve` says so and the expression is not used.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rvos_lightning.data.shapes.scene import COLOURS, DIRECTIONS, SHAPES, SPEEDS, Motion, Scene, Thing, frame_times

Relation = Literal["left of", "right of", "above", "below"]
RELATIONS: dict[str, tuple[int, float]] = {
    "left of": (0, -1.0),
    "right of": (0, 1.0),
    "above": (1, -1.0),
    "below": (1, 1.0),
}
MARGIN = 0.12
"""A relation holds when it does so by this much of the picture's side on every frame, and fails likewise."""


@dataclass(frozen=True)
class Query:
    """What an expression says; None or "" is left unsaid.

    Attributes:
        shape, colour, size: attributes said.
        motion: motion said; `speed` and `when` are never said.
        late: says that the thing appears late (True) or is there from the start (False).
        speed: "faster" or "slower" of two things.
        relation: side on which it lies of the one thing that `other` means.
        plural: means every thing that matches, two at least.
    """

    shape: str = ""
    colour: str = ""
    size: str = ""
    motion: Motion | None = None
    late: bool | None = None
    speed: Literal["faster", "slower", ""] = ""
    relation: Relation | None = None
    other: "Query | None" = None
    plural: bool = False


def _moves_as(thing: Thing, said: Motion) -> bool | None:
    motion = thing.motion
    if said.action == motion.action:
        if (said.direction, said.then) == (motion.direction, motion.then):
            return True
        if said.action == "steady" and set(said.direction.split()) & set(motion.direction.split()) - {"and"}:
            return None  # "moving up" of something that goes up and left
        return False
    if said.action == "steady":
        said_words, words = set(said.direction.split()), set(f"{motion.direction} {motion.then}".split())
        return None if said_words & words - {"and"} else False
    if said.action == "still":
        return None if motion.action in ("stop", "start") else False
    return False


def matches(thing: Thing, query: Query) -> bool | None:
    """Does the thing fit everything but speed and relation; None if a listener could doubt."""
    verdicts: list[bool | None] = []
    if query.shape:
        verdicts.append(thing.shape == query.shape)
    if query.colour:
        verdicts.append(thing.colour == query.colour)
    if query.size:
        verdicts.append(True if thing.size == query.size else None if thing.size == "" else False)
    if query.late is not None:
        verdicts.append((thing.appears > 0) == query.late)
    if query.motion is not None:
        verdicts.append(_moves_as(thing, query.motion))
    return False if False in verdicts else None if None in verdicts else True


def resolve(scene: Scene, query: Query) -> tuple[int, ...] | None:
    """Indices of the things the query means, () for none; None where it is ambiguous or wrongly singular."""
    verdicts = [matches(thing, query) for thing in scene.things]
    if None in verdicts:
        return None
    found = [i for i, verdict in enumerate(verdicts) if verdict]
    if query.speed:
        return _by_speed(scene, found, query.speed)
    if query.relation is not None and query.other is not None:
        reference = resolve(scene, query.other)
        if reference is None or len(reference) != 1:
            return None
        sides = [_lies(scene.things[i], scene.things[reference[0]], query.relation) for i in found]
        if None in sides:
            return None
        found = [i for i, side in zip(found, sides, strict=True) if side]
    fits = len(found) != 1 if query.plural else len(found) <= 1
    return tuple(found) if fits else None


def _by_speed(scene: Scene, found: list[int], word: str) -> tuple[int, ...] | None:
    if len(found) != 2:
        return None
    first, second = sorted(found, key=lambda i: SPEEDS[scene.things[i].motion.speed])
    if scene.things[first].motion.speed == scene.things[second].motion.speed:
        return None
    return (second,) if word == "faster" else (first,)


def _lies(thing: Thing, other: Thing, relation: str) -> bool | None:
    axis, sign = RELATIONS[relation]
    times = frame_times(7)
    gaps = sign * (thing.centres(times) - other.centres(times))[:, axis]
    return True if gaps.min() > MARGIN else False if gaps.max() < -MARGIN else None


_STEADY = ("moving {d}", "that moves {d}", "going {d}", "which is moving {d}", "heading {d}")
_TURN = ("that moves {d} and then turns {e}", "going {d} first and then {e}", "which turns {e} after moving {d}")
_STOP = ("that moves {d} and then stops", "which stops after moving {d}", "going {d} until it stops")
_START = ("that stands still first and then moves {d}", "that starts moving {d} late", "which waits before going {d}")
_STILL = ("that stands still", "not moving", "which stays in place")
_LATE = ("that appears late", "which shows up later", "that is not there at first")
_EARLY = ("that is there from the start", "which is visible all the time")
_CLAUSES = {"steady": _STEADY, "turn": _TURN, "stop": _STOP, "start": _START, "still": _STILL}
_OPENINGS = ("the {}", "the {}", "the {}", "find the {}", "segment the {}")
_MANY = ("the {}", "all {}", "all the {}", "every one of the {}")
_NOUNS = ("object", "thing")
_SYNONYMS = {"circle": ("circle", "circle", "disc"), "square": ("square", "square", "box")}


def _pick(options: tuple[str, ...], random: np.random.Generator, plain: bool) -> str:
    return options[0] if plain else options[int(random.integers(len(options)))]


def _plural(clause: str) -> str:
    for singular, plural in (
        ("moves", "move"), ("turns", "turn"), ("stands", "stand"), ("starts", "start"), ("stops", "stop"),
        ("is", "are"), ("it", "they"), ("appears", "appear"), ("shows", "show"), ("stays", "stay"), ("waits", "wait"),
    ):  # fmt: skip
        clause = " ".join(plural if word == singular else word for word in clause.split())
    return clause


def word(query: Query, random: np.random.Generator, plain: bool = False) -> str:
    """One wording of a query; `plain` always takes the first."""
    options = _SYNONYMS.get(query.shape, (query.shape,)) if query.shape else _NOUNS
    noun = _pick(options, random, plain)
    if query.plural:
        noun = {"cross": "crosses", "box": "boxes"}.get(noun, noun + "s")
    phrase = " ".join(part for part in (query.speed, query.size, query.colour, noun) if part)
    clauses = []
    if query.motion is not None:
        clause = _pick(_CLAUSES[query.motion.action], random, plain)
        clauses.append(clause.format(d=query.motion.direction, e=query.motion.then))
    if query.late is not None:
        clauses.append(_pick(_LATE if query.late else _EARLY, random, plain))
    said = " and ".join(clauses)
    phrase = f"{phrase} {_plural(said) if query.plural else said}".strip()
    if query.relation is not None and query.other is not None:
        phrase = f"{phrase} {query.relation} the {query.other.colour} {query.other.shape}"
    return _pick(_MANY if query.plural else _OPENINGS, random, plain).format(phrase)


def _vocabulary() -> tuple[str, ...]:
    sentences = [*_STEADY, *_TURN, *_STOP, *_START, *_STILL, *_LATE, *_EARLY, *_OPENINGS, *_MANY, *_NOUNS]
    sentences += [_plural(sentence) for sentence in sentences]
    nouns = [*SHAPES, *_NOUNS, *(noun for nouns in _SYNONYMS.values() for noun in nouns)]
    sentences += nouns + [{"cross": "crosses", "box": "boxes"}.get(noun, noun + "s") for noun in nouns]
    sentences += [*DIRECTIONS, *COLOURS, *RELATIONS, "small", "big", "faster", "slower", "and"]
    return tuple(sorted({token for sentence in sentences for token in sentence.split() if "{" not in token}))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word the grammar can utter, sorted."""
