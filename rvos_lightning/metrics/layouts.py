"""How predicted masks lie on disk: one layout a server or scorer, file names and pixel values included."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from rvos_lightning.core.types import ClipMeta

LayoutName = Literal[
    "plain",
    "mevis",
    "revos",
    "long_rvos",
    "yourvos",
    "ref_youtube_vos",
    "ref_davis",
    "davis",
    "lvos",
    "mose",
    "youtube_vos",
    "sav",
]


@dataclass(frozen=True)
class Layout:
    """File name of a mask, and what its pixels say.

    Attributes:
        pattern: format string of video, item, frame, position and annotator, relative to the zip's root.
        value: grey value of the mask; 0 = a palette picture in which every object of the frame has its number.
        note: who wants it so.
        probable: objects are merged by probability, see `id_maps.id_map_masks`.
    """

    pattern: str
    value: int
    note: str
    probable: bool = False

    @property
    def merged(self) -> bool:
        """Whether objects share a file."""
        return self.value == 0


LAYOUTS: dict[str, Layout] = {
    "plain": Layout("{video}/{item}/{frame}.png", 255, "one folder a sentence or object"),
    "mevis": Layout("{video}/{item}/{frame}.png", 255, "MeViS server: no folder above the videos"),
    "revos": Layout("{video}/{item}/{frame}.png", 1, "ReVOS scorer: 0/1, as 255 spoils A and R"),
    "long_rvos": Layout("{video}/{item}/{frame}.png", 255, "Long-RVOS scorer"),
    "yourvos": Layout("{video}/{item}/{frame}.png", 255, "YoURVOS scorer"),
    "ref_youtube_vos": Layout("Annotations/{video}/{item}/{frame}.png", 255, "Ref-YouTube-VOS server"),
    "ref_davis": Layout(
        "anno_{annotator}/{video}/{position:05d}.png", 0, "Ref-DAVIS17 protocol A, DAVIS program", probable=True
    ),
    "davis": Layout("{video}/{frame}.png", 0, "DAVIS-2017 program"),
    "lvos": Layout("{video}/{frame}.png", 0, "LVOS program"),
    "mose": Layout("{video}/{frame}.png", 0, "MOSE server"),
    "youtube_vos": Layout("Annotations/{video}/{frame}.png", 0, "YouTube-VOS server"),
    "sav": Layout("{video}/{item}/{frame}.png", 255, "SA-V scorer, one folder an object"),
}


class SubmissionError(ValueError):
    """Predictions on disk that are incomplete or misshapen; the message lists them."""


def layout_of(name: str | Layout) -> Layout:
    """The layout called `name`.

    Raises:
        SubmissionError: there is none.
    """
    if isinstance(name, Layout):
        return name
    if name not in LAYOUTS:
        raise SubmissionError(f"no layout {name!r} of predicted masks; choose {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def files_of(meta: ClipMeta, layout: Layout) -> list[str]:
    """Name of every frame's file.

    Raises:
        SubmissionError: a name would leave the folder, or a fact of `meta.facts` that it holds is missing.
    """
    facts = {"video": meta.video, "item": meta.item, "annotator": meta.facts.annotator}
    if facts["annotator"] is None and "{annotator}" in layout.pattern:
        raise SubmissionError(f"{meta.video}/{meta.item}: nobody says which annotator wrote it, which names the folder")
    positions = meta.positions or range(len(meta.frames))
    names = [layout.pattern.format(**facts, frame=f, position=p) for f, p in zip(meta.frames, positions, strict=True)]
    for name in names[:1]:
        if {"..", ""} & set(name.split("/")) or PurePosixPath(name).is_absolute():
            raise SubmissionError(f"{meta.video}/{meta.item}: {name!r} would leave the folder of predictions")
    return names


def label_of(meta: ClipMeta) -> int:
    """The object's number in a palette picture.

    Raises:
        SubmissionError: neither `Facts.object` nor the item is a number from 1 to 254.
    """
    label = meta.item if meta.facts.object is None else str(meta.facts.object)
    if not label.isdecimal() or not 1 <= int(label) <= 254:
        raise SubmissionError(f"{meta.video}/{meta.item}: {label!r} is no object number (1 to 254) for a palette PNG")
    return int(label)


def expected_files(expected: Iterable[ClipMeta], layout: Layout) -> dict[str, tuple[int, int]]:
    """Every file a complete submission has, and its size."""
    return {name: meta.original_size for meta in expected for name in files_of(meta, layout)}


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The VOC / DAVIS colours: bit k of the label becomes bit 7 - k // 3 of channel k mod 3."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((labels >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours
