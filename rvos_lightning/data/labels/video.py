"""A video with drawn objects and sentences, as every annotation tool can say it: what converters pass to each other."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, UInt8

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.sources.frame_names import FILMS as FILMS
from rvos_lightning.data.sources.mask_pictures import Size
from rvos_lightning.data.sources.rle import Rle, polygons, union_into

Key = TypeVar("Key", bound=Hashable)
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".JPG", ".JPEG", ".PNG", ".BMP", ".WEBP")


@dataclass(frozen=True)
class Sentence:
    """What somebody says.

    Attributes:
        text: the words.
        objects: ids of the objects meant; empty: nothing in the video; None: the answer is kept back.
        annotator: who wrote it.
    """

    text: str
    objects: tuple[str, ...] | None = None
    annotator: str | None = None


@dataclass(frozen=True)
class DrawnObject:
    """One object through a video.

    Attributes:
        masks: run lengths by frame position; None: looked for and not there. Frames left out: nobody looked.
        category: what kind of thing it is.
        annotator: who drew it.
    """

    masks: Mapping[int, Rle | None] = field(default_factory=dict)
    category: str | None = None
    annotator: str | None = None


@dataclass(frozen=True)
class LabelledVideo:
    """One video.

    Attributes:
        id: a plain name.
        frames: names in temporal order.
        size: (height, width) in pixels.
        objects: by id.
        sentences: by id.
        files: name of each frame's picture as its data set calls it, e.g. `street/00000.jpg`; empty for a film.
        pictures: where those files lie; empty where only their names are known.
        film: the film file.
        fps: frames a second.
    """

    id: str
    frames: tuple[str, ...]
    size: Size
    objects: Mapping[str, DrawnObject] = field(default_factory=dict)
    sentences: Mapping[str, Sentence] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    pictures: tuple[Path, ...] = ()
    film: Path | None = None
    fps: float | None = None


class Losses:
    """What a conversion cannot keep, each kind counted once, to be said at the end."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def say(self, what: str, times: int = 1) -> None:
        """Note a loss, `times` times over; `{}` in it stands for their number."""
        if times:
            self._counts[what] += times

    def lines(self) -> list[str]:
        """One line a kind."""
        return [what.replace("{}", f"{count:,}") for what, count in self._counts.items()]


def encode(mask: Bool[np.ndarray, "height width"]) -> Rle | None:
    """Run lengths of a mask; None of an empty one."""
    from pycocotools import mask as library

    return library.encode(np.asfortranarray(mask.astype(np.uint8))) if mask.any() else None


def decode(masks: Sequence[Rle | None], size: Size) -> UInt8[np.ndarray, "height width"]:
    """The union of masks, 1 inside."""
    out = np.empty(size, np.uint8)
    union_into([mask for mask in masks if mask is not None], out)
    return out


def cropped(mask: Rle, size: Size) -> tuple[int, int, UInt8[np.ndarray, "high wide"]]:
    """Left, top, and the pixels of the smallest rectangle around a mask that is not empty, 1 inside."""
    plane = decode([mask], size)
    rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    top, left = int(rows[0]), int(columns[0])
    return left, top, plane[top : rows[-1] + 1, left : columns[-1] + 1]


def united(masks: Sequence[Rle | None], size: Size, place: str) -> Rle | None:
    """The union as one mask; None where there is nothing.

    Raises:
        DataError: a mask of another size than its frame.
    """
    some = [mask for mask in masks if mask is not None]
    for mask in some:
        if tuple(mask["size"]) != tuple(size):
            have, want = mask["size"], size
            raise DataError(
                f"{place}: a mask of {have[1]}x{have[0]} pixels on a frame of {want[1]}x{want[0]}. "
                "Frames and annotations belong to different copies, or one was resized."
            )
    return encode(decode(some, size) > 0) if some else None


def polygon(points: Sequence[Sequence[float]], size: Size, place: str) -> Rle | None:
    """Pixels inside a polygon of (x, y) corners, those on its border as COCO counts them; None for a line or point."""
    return polygons([[float(value) for point in points for value in point]], size, place)


def turned_box(box: Sequence[float], degrees: float, pivot: tuple[float, float]) -> list[tuple[float, float]]:
    """Corners of a box (left, top, right, bottom), turned clockwise around a point."""
    left, top, right, bottom = box
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        (pivot[0] + (x - pivot[0]) * cosine - (y - pivot[1]) * sine,
         pivot[1] + (x - pivot[0]) * sine + (y - pivot[1]) * cosine)
        for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))
    ]  # fmt: skip


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0, corners: int = 72
) -> list[tuple[float, float]]:
    """Corners of a polygon along an ellipse, turned clockwise around its centre."""
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    around = [(radii[0] * math.cos(angle), radii[1] * math.sin(angle)) for angle in angles]
    return [(centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine) for x, y in around]


def plain_name(text: str) -> str:
    """A name fit for a folder: no slashes, dots in front, or signs that a file system refuses."""
    kept = "".join(sign if sign.isalnum() or sign in "-_. " else "_" for sign in text).strip(" .")
    return kept.replace(" ", "_")[:120] or "video"


def plain_names(wanted: Mapping[Key, str]) -> dict[Key, str]:
    """A plain name for each key, no two alike: names that are plain already stay, others make way."""
    found: dict[Key, str] = {}
    for key, text in sorted(wanted.items(), key=lambda entry: plain_name(entry[1]) != entry[1]):
        name = plain_name(text)
        while name in found.values():
            name += "_"
        found[key] = name
    return {key: found[key] for key in wanted}
