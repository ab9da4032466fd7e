"""One scene maker a kind of expression: a target among things that differ from it in exactly one respect."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rvos_lightning.data.shapes.grammar import RELATIONS, Query
from rvos_lightning.data.shapes.scene import COLOURS, DIRECTIONS, SHAPES, Motion, Scene, Thing, place_all


@dataclass(frozen=True)
class Preset:
    """How hard scenes are.

    Attributes:
        shapes, colours, directions: what things are drawn from.
        distractors: how many differ from the target in one respect.
        sizes: small and big things occur among the distractors of `attributes` scenes.
        strength, drift: of the background, see `shapes_render.background`.
        kinds: kind of expression -> weight.
        moving: False: things stand still and no sentence speaks of motion, so that one picture tells all.
    """

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    directions: tuple[str, ...]
    distractors: int
    sizes: bool
    strength: float
    drift: float
    kinds: dict[str, float]
    moving: bool = True


_AXES = ("left", "right", "up", "down")
Draft = tuple[Scene, list[Query]]
Maker = Callable[[Preset, np.random.Generator], Draft]


def _one(options: tuple[str, ...], random: np.random.Generator, but: str = "") -> str:
    left = [option for option in options if option != but]
    return left[int(random.integers(len(left)))]


def said(thing: Thing) -> Query:
    """Everything that can be said of a thing by itself."""
    motion = None if thing.motion.action == "still" else replace(thing.motion, speed="", when=0.5)
    return Query(shape=thing.shape, colour=thing.colour, size=thing.size, motion=motion)


def _steady(preset: Preset, random: np.random.Generator) -> Thing:
    motion = Motion("steady", _one(preset.directions, random)) if preset.moving else Motion("still")
    return Thing(_one(preset.shapes, random), _one(preset.colours, random), motion=motion)


def vary(thing: Thing, what: str, preset: Preset, random: np.random.Generator) -> Thing:
    """A thing that differs in `what` alone."""
    if what == "shape":
        return replace(thing, shape=_one(preset.shapes, random, thing.shape))
    if what == "colour":
        return replace(thing, colour=_one(preset.colours, random, thing.colour))
    if what == "size":
        return replace(thing, size="small" if thing.size == "big" else "big")
    direction = _one(preset.directions, random, thing.motion.direction)
    return replace(thing, motion=replace(thing.motion, direction=direction))


def _crowd(target: Thing, alike: list[Thing], preset: Preset, random: np.random.Generator) -> tuple[Thing, ...]:
    """The target, given look-alikes, and things of another shape or colour up to the preset's number."""
    things = [target, *alike]
    for i in range(max(0, preset.distractors - len(alike))):
        things.append(vary(target, ("shape", "colour")[i % 2], preset, random))
    return place_all(things, random)


def attributes(preset: Preset, random: np.random.Generator) -> Draft:
    """Shape, colour, direction (and size): each distractor differs in one of them."""
    target = _steady(preset, random)
    respects = ["shape", "colour", "direction"] if preset.moving else ["shape", "colour"]
    if preset.sizes and random.random() < 0.5:
        target = replace(target, size=_one(("small", "big"), random))
        respects.append("size")
    start = int(random.integers(len(respects))) if preset.distractors > 3 else 0
    turns = [respects[(start + i) % len(respects)] for i in range(max(preset.distractors, len(respects)))]
    things = place_all([target, *(vary(target, what, preset, random) for what in turns)], random)
    return Scene("attributes", things), [said(thing) for thing in things]


def size(preset: Preset, random: np.random.Generator) -> Draft:
    """A small and a big thing, otherwise alike."""
    target = replace(_steady(preset, random), size=_one(("small", "big"), random))
    things = _crowd(target, [vary(target, "size", preset, random)], preset, random)
    return Scene("size", things), [replace(said(thing), motion=None) for thing in things]


def turn(preset: Preset, random: np.random.Generator) -> Draft:
    """A turning thing, one that goes straight on and one that turns the other way."""
    preset = replace(preset, directions=_AXES)
    target = _steady(preset, random)
    across = ("up", "down") if target.motion.direction in ("left", "right") else ("left", "right")
    then = _one(across, random)
    other = _one(across, random, then)
    target = replace(target, motion=replace(target.motion, action="turn", then=then))
    alike = [
        replace(target, motion=replace(target.motion, then=other)),
        replace(target, motion=Motion("steady", target.motion.direction)),
    ]
    things = _crowd(target, alike, preset, random)
    return Scene("turn", things), [said(thing) for thing in things]


def _changing(action: str, preset: Preset, random: np.random.Generator) -> Draft:
    target = _steady(preset, random)
    target = replace(target, motion=replace(target.motion, action=action, when=float(random.uniform(0.4, 0.6))))
    alike = [replace(target, motion=Motion("steady", target.motion.direction))]
    alike.append(vary(target, "direction", preset, random))
    things = _crowd(target, alike, preset, random)
    return Scene(action, things), [said(thing) for thing in things]


def stop(preset: Preset, random: np.random.Generator) -> Draft:
    """One stops half-way, one does not, one stops after another direction."""
    return _changing("stop", preset, random)


def start(preset: Preset, random: np.random.Generator) -> Draft:
    """One starts half-way, one moves all the time, one starts in another direction."""
    return _changing("start", preset, random)


def speed(preset: Preset, random: np.random.Generator) -> Draft:
    """Two things alike but for their speed."""
    target = _steady(preset, random)
    quick = replace(target, motion=replace(target.motion, speed="fast"))
    slow = replace(target, motion=replace(target.motion, speed="slow"))
    things = _crowd(quick, [slow], preset, random)
    plain = Query(shape=target.shape, colour=target.colour)
    queries = [replace(plain, speed="faster"), replace(plain, speed="slower")]
    return Scene("speed", things), queries[:: 1 if random.random() < 0.5 else -1]


def relation(preset: Preset, random: np.random.Generator) -> Draft:
    """Two things alike on either side of a third; all stand or drift together."""
    motion = Motion("still")
    if preset.moving and random.random() < 0.5:
        motion = Motion("steady", _one(preset.directions, random), speed="slow")
    target = Thing(_one(preset.shapes, random), _one(preset.colours, random), motion=motion)
    other = Thing(_one(preset.shapes, random, target.shape), _one(preset.colours, random, target.colour), motion=motion)
    name, opposite = (("left of", "right of"), ("above", "below"))[int(random.integers(2))]
    axis = RELATIONS[name][0]
    spread = np.sort(random.uniform(0.05, 0.25, size=2))
    placed = []
    for thing, along in ((other, 0.0), (target, -spread[0] - 0.17), (replace(target), spread[1] + 0.17)):
        centre = [0.0, 0.0]
        centre[axis], centre[1 - axis] = 0.5 + along, float(random.uniform(0.3, 0.7))
        shift = motion.path(np.array([1.0]))[0] / 2
        tilt = float(random.uniform(0.02, 0.35))
        placed.append(replace(thing, start=(centre[0] - shift[0], centre[1] - shift[1]), tilt=tilt))
    extra = vary(
        other, "colour", replace(preset, colours=tuple(c for c in preset.colours if c != target.colour)), random
    )
    things = place_all([placed[1], placed[2], placed[0], extra], random)
    plain = Query(shape=target.shape, colour=target.colour, other=Query(shape=other.shape, colour=other.colour))
    queries = [replace(plain, relation=name), replace(plain, relation=opposite)]
    return Scene("relation", things), queries[:: 1 if random.random() < 0.5 else -1]


def late(preset: Preset, random: np.random.Generator) -> Draft:
    """One appears late, its twin is there from the start; both move alike."""
    twin = _steady(preset, random)
    target = replace(twin, appears=float(random.uniform(0.35, 0.6)))
    things = _crowd(target, [twin], preset, random)
    plain = Query(shape=twin.shape, colour=twin.colour)
    return Scene("late", things), [replace(plain, late=True), replace(plain, late=False)]


def tracking_bias(preset: Preset, random: np.random.Generator) -> Draft:
    """The action begins late while a look-alike is there first: the cases SAMWISE's memory encoder is for."""
    target = _steady(preset, random)
    when = float(random.uniform(0.4, 0.6))
    if random.random() < 0.5:
        target = replace(target, motion=replace(target.motion, speed="fast"), appears=when)
    else:
        target = replace(target, motion=replace(target.motion, action="start", when=when))
    alike = [replace(target, motion=Motion("still"), appears=0.0)]
    things = _crowd(target, alike, replace(preset, distractors=2), random)
    return Scene("tracking_bias", things), [said(things[0])]


def occlusion(preset: Preset, random: np.random.Generator) -> Draft:
    """The target passes behind a wall."""
    target = _steady(preset, random)
    target = replace(target, motion=Motion("steady", _one(("left", "right"), random), speed="fast"))
    alike = [vary(target, "direction", preset, random)]
    things = _crowd(target, alike, preset, random)
    middle = things[0].start[0] + things[0].motion.path(np.array([0.5]))[0, 0]
    width = random.uniform(0.16, 0.26)
    scene = Scene("occlusion", things, walls=((float(middle - width / 2), float(middle + width / 2)),))
    return scene, [said(thing) for thing in things]


def multi(preset: Preset, random: np.random.Generator) -> Draft:
    """Two or three things share what is said, the others do not."""
    base = _steady(preset, random)
    count = int(random.integers(2, 4))
    respect = int(random.integers(3 if preset.moving else 2))
    things = []
    for _ in range(count):
        thing = base if respect == 2 or not preset.moving else vary(base, "direction", preset, random)
        things.append(vary(thing, "colour", preset, random) if respect == 1 else thing)
    for i in range(2):
        what = {0: ("shape", "colour"), 1: ("shape", "shape"), 2: ("direction", "colour")}[respect][i]
        things.append(vary(base, what, preset, random))
    query = Query(
        shape=base.shape,
        colour="" if respect == 1 else base.colour,
        motion=base.motion if respect == 2 else None,
        plural=True,
    )
    return Scene("multi", place_all(things, random), target=-1), [query]


def no_target(preset: Preset, random: np.random.Generator) -> Draft:
    """Something that is nearly there is asked for."""
    scene, queries = attributes(replace(preset, sizes=False), random)
    absent = said(vary(scene.things[0], "colour", preset, random))
    if random.random() < 0.5:
        absent = said(vary(scene.things[0], "direction" if preset.moving else "shape", preset, random))
    return replace(scene, kind="no_target", target=-1), [absent, *queries]


MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        attributes, size, turn, stop, start, speed, relation, late, tracking_bias, occlusion, multi, no_target,
    )
}  # fmt: skip

STILL = {"attributes": 0.4, "size": 0.1, "relation": 0.2, "multi": 0.15, "no_target": 0.15}
"""Kinds that one picture tells."""

_ALL = dict.fromkeys(MAKERS, 0.07) | {"attributes": 0.16, "tracking_bias": 0.1, "multi": 0.1, "no_target": 0.08}
PRESETS: dict[str, Preset] = {
    "easy": Preset(SHAPES[:3], tuple(COLOURS)[:4], _AXES, 3, False, 0.12, 0.0, {"attributes": 1.0}),
    "medium": Preset(SHAPES[:4], tuple(COLOURS)[:6], tuple(DIRECTIONS), 3, True, 0.3, 0.0, _ALL),
    "hard": Preset(SHAPES, tuple(COLOURS), tuple(DIRECTIONS), 5, True, 0.6, 1.5, _ALL),
}
