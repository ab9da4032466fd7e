"""Things that move: the symbolic content of a `MovingShapes` clip, before any pixel is drawn.

Lengths are in units of the picture's side, x to the right and y downwards; time runs from 0 (first frame) to 1 (last).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 48, 48),
    "green": (40, 190, 70),
    "blue": (56, 92, 236),
    "yellow": (238, 214, 40),
    "purple": (168, 64, 208),
    "orange": (246, 140, 32),
    "cyan": (40, 205, 220),
    "white": (240, 240, 240),
}
SIZES = {"small": 0.085, "": 0.125, "big": 0.175}
"""Size word -> radius; the middle size has no word."""

DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up and left": (-0.7071, -0.7071),
    "up and right": (0.7071, -0.7071),
    "down and left": (-0.7071, 0.7071),
    "down and right": (0.7071, 0.7071),
}
SPEEDS = {"slow": 0.16, "": 0.42, "fast": 0.52}
"""Speed word -> distance covered in a clip of constant motion."""

Action = Literal["still", "steady", "turn", "stop", "start"]


@dataclass(frozen=True)
class Motion:
    """How a thing moves.

    Attributes:
        action: still; steady; turn (a second direction from `when` on); stop (at `when`); start (at `when`).
        direction: key of `DIRECTIONS`; "" for still.
        then: second direction of a turn.
        speed: key of `SPEEDS`.
        when: time of the change.
    """

    action: Action = "steady"
    direction: str = ""
    then: str = ""
    speed: str = ""
    when: float = 0.5

    def path(self, times: Float[np.ndarray, "time"]) -> Float[np.ndarray, "time 2"]:
        """Displacement from the starting point at each time."""
        if self.action == "still":
            return np.zeros((len(times), 2))
        first = np.array(DIRECTIONS[self.direction])
        # Half-way motions go faster, so that a glance at part of the clip does not tell them by their distance alone.
        speed = SPEEDS[self.speed] * (1.0 if self.action == "steady" else 1.4)
        if self.action == "steady":
            return times[:, None] * first * speed
        before, after = np.minimum(times, self.when)[:, None], np.maximum(times - self.when, 0)[:, None]
        if self.action == "stop":
            return before * first * speed
        if self.action == "start":
            return after * first * speed
        return before * first * speed + after * np.array(DIRECTIONS[self.then]) * speed


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        shape: one of `SHAPES`.
        colour: key of `COLOURS`.
        size: key of `SIZES`.
        motion: how it moves.
        appears: time of its first frame; 0 for the whole clip.
        start: (x, y) of its centre at time 0.
        tilt: rotation in radians, no part of any description.
    """

    shape: str
    colour: str
    size: str = ""
    motion: Motion = Motion()
    appears: float = 0.0
    start: tuple[float, float] = (0.5, 0.5)
    tilt: float = 0.0

    @property
    def radius(self) -> float:
        """Half its width."""
        return SIZES[self.size]

    def centres(self, times: Float[np.ndarray, "time"]) -> Float[np.ndarray, "time 2"]:
        """Centre (x, y) at each time, whether it has appeared or not."""
        return np.asarray(self.start) + self.motion.path(times)


@dataclass(frozen=True)
class Scene:
    """What happens in a clip.

    Attributes:
        kind: the kind of expression the scene was made for.
        things: drawn in this order, later ones in front.
        target: index of the thing the first expression means; -1 where it means none or several.
        walls: x ranges of opaque vertical bars in front of everything, behind which things are occluded.
    """

    kind: str
    things: tuple[Thing, ...]
    target: int = 0
    walls: tuple[tuple[float, float], ...] = ()

    def signature(self) -> str:
        """Everything visible but the background, rounded to 1/1000: equal signatures mean equal scenes."""
        rows = sorted(
            f"{t.shape} {t.colour} {t.size} {t.motion} {t.appears:.3f} {t.start[0]:.3f} {t.start[1]:.3f} {t.tilt:.2f}"
            for t in self.things
        )
        return "|".join(rows) + repr(self.walls)


def frame_times(frames: int) -> Float[np.ndarray, "time"]:
    """Time of every frame, 0 to 1."""
    return np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)


_CHECKED = frame_times(7)


def place(thing: Thing, others: list[Thing], random: np.random.Generator, tries: int = 48) -> Thing:
    """Give a thing a start so that its whole path stays inside and clear of the others' as far as can be.

    Of `tries` random starts the one with the widest gap is taken; things may then overlap a little.
    """
    path = thing.motion.path(_CHECKED)
    radius = thing.radius
    low, high = radius - path.min(0), 1 - radius - path.max(0)
    starts = low + random.random((tries, 2)) * np.maximum(high - low, 0)
    gap = np.full(tries, np.inf)
    for other in others:
        between = starts[:, None] + (path - other.centres(_CHECKED))[None]
        gap = np.minimum(gap, np.sqrt((between**2).sum(-1)).min(1) - radius - other.radius)
    best = int(np.argmax(gap >= 0.02)) if (gap >= 0.02).any() else int(gap.argmax())
    return replace(
        thing, start=(float(starts[best, 0]), float(starts[best, 1])), tilt=float(random.uniform(-0.35, 0.35))
    )


def place_all(things: list[Thing], random: np.random.Generator) -> tuple[Thing, ...]:
    """Place things one after the other; those that already have a place (tilt other than 0) keep it."""
    placed: list[Thing] = [t for t in things if t.tilt]
    result = []
    for thing in things:
        if not thing.tilt:
            thing = place(thing, placed, random)
            placed.append(thing)
        result.append(thing)
    return tuple(result)
