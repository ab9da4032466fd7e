"""How masks, prompts and words are drawn: outlines in colours unlike what they cover, words that can be read.

Pictures are numpy arrays here, uint8 `[height, width, 3]`, as OpenCV and Pillow want them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

Picture = UInt8[np.ndarray, "height width 3"]
Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (0, 220, 255), (255, 60, 220), (255, 225, 0), (90, 255, 60), (255, 140, 0), (80, 120, 255), (255, 50, 60),
    (190, 110, 255), (0, 255, 180), (255, 170, 190),
)  # fmt: skip
"""Vivid colours, of which each object gets one that its own pixels do not have."""

GROUND: Colour = (24, 26, 30)
INK: Colour = (240, 240, 240)
FAINT: Colour = (130, 134, 140)
ON, OFF = (40, 200, 80), (235, 50, 50)  # clicks that add, clicks that take away


@dataclass(frozen=True)
class Mark:
    """Something pointed at.

    Attributes:
        frame: position in the video.
        item: which object, counted from 0.
        points: x, y in pixels, and whether it lies on the object.
        box: left, top, right, bottom in pixels.
    """

    frame: int
    item: int
    points: tuple[tuple[float, float, bool], ...] = ()
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Entry:
    """A line of a legend: what a colour stands for; `faint` where it is not to be seen now."""

    colour: Colour
    text: str
    faint: bool = False


def pick_colours(
    frames: UInt8[np.ndarray, "time height width 3"], masks: Bool[np.ndarray, "items time height width"]
) -> list[Colour]:
    """A colour for each item, far from the pixels in and around it and from the colours taken before (in CIELAB)."""
    step = max(1, int((frames.shape[0] * frames.shape[1] * frames.shape[2] / 20000) ** 0.5))
    pixels, covers = _lab(frames[:, ::step, ::step]), masks[:, :, ::step, ::step]
    ours = _lab(np.array(COLOURS, np.uint8)[None])[0]
    anywhere = _contrast(pixels.reshape(-1, 3), ours, 4)
    taken: list[int] = []
    for cover in covers:
        wide = np.stack([cv2.dilate(one.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0 for one in cover])
        under = pixels[wide] if cover.any() else pixels.reshape(-1, 3)
        contrast = _contrast(under, ours, 15) + anywhere / 2
        others = [np.linalg.norm(ours - ours[one], axis=-1) for one in taken]
        apart = np.min([np.full(len(ours), 60.0), *others], axis=0)  # beyond 60 nobody mistakes two colours
        apart[taken] -= 200 * (len(taken) < len(ours))
        taken.append(int((contrast + apart).argmax()))
    return [COLOURS[one] for one in taken]


def _contrast(pixels: np.ndarray, colours: np.ndarray, share: float) -> np.ndarray:
    """How far each colour is from all but the nearest `share` per cent of the pixels."""
    return np.percentile(np.linalg.norm(pixels[:, None] - colours[None], axis=-1), share, axis=0)


def _lab(pictures: np.ndarray) -> np.ndarray:
    flat = pictures.reshape(pictures.shape[0], -1, 3).astype(np.float32) / 255
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(pictures.shape)


def magnify(picture: np.ndarray, times: int) -> np.ndarray:
    """A picture or mask `[height, width, ...]` with every pixel repeated."""
    return picture if times == 1 else picture.repeat(times, 0).repeat(times, 1)


def outline(picture: Picture, mask: Bool[np.ndarray, "height width"], colour: Colour, opacity: float = 0.35) -> None:
    """Fill the mask thinly and draw its border, cased in black so that no ground swallows it; in place."""
    if not mask.any():
        return
    thick = max(1, round(max(mask.shape) / 400))
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    top, left = max(0, rows[0] - 2 * thick), max(0, columns[0] - 2 * thick)
    part = np.s_[top : rows[-1] + 2 * thick + 1, left : columns[-1] + 2 * thick + 1]
    inside = mask[part].astype(np.uint8)
    core = cv2.erode(inside, np.ones((2 * thick + 1,) * 2, np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    wide = cv2.dilate(inside, np.ones((2 * max(1, thick // 2) + 1,) * 2, np.uint8))
    view = picture[part]
    tint = np.full_like(view, colour)
    cv2.copyTo(cv2.addWeighted(view, 1 - opacity, tint, opacity, 0), inside, view)
    cv2.copyTo(np.zeros_like(view), wide - inside, view)
    cv2.copyTo(tint, inside - core, view)


def number_at(picture: Picture, mask: Bool[np.ndarray, "height width"], number: int, colour: Colour) -> None:
    """An item's number where its mask begins, as in the legend; in place."""
    if not mask.any():
        return
    sign = _badge(str(number), colour, letters(picture.shape))
    rows = mask.any(1).nonzero()[0]
    columns = mask[rows[0]].nonzero()[0]
    top = int(np.clip(rows[0] - sign.shape[0] // 2, 0, max(0, picture.shape[0] - sign.shape[0])))
    left = int(np.clip(columns.mean() - sign.shape[1] / 2, 0, max(0, picture.shape[1] - sign.shape[1])))
    room = picture[top : top + sign.shape[0], left : left + sign.shape[1]]
    room[:] = sign[: room.shape[0], : room.shape[1]]


@lru_cache(maxsize=256)
def _badge(text: str, colour: Colour, size: int) -> Picture:
    from PIL import Image, ImageDraw

    font = font_for(text, size)
    width, height = round(font.getlength(text) + 0.7 * size), round(1.3 * size)
    image = Image.new("RGB", (width, height), colour)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width - 1, height - 1), outline="black")
    draw.text((width / 2, height / 2), text, fill="black", font=font, anchor="mm")
    return np.array(image)


def draw_marks(picture: Picture, marks: Sequence[Mark], colours: Sequence[Colour], times: int = 1) -> None:
    """Clicks (green +, red -) and boxes in their object's colour; in place."""
    size = max(5, round(max(picture.shape[:2]) / 90))
    for mark in marks:
        if mark.box is not None:
            left, top, right, bottom = (round(side * times) for side in mark.box)
            thick = max(2, size // 4)
            for colour, wide in (((0, 0, 0), thick + 2), (colours[mark.item], thick)):
                cv2.rectangle(picture, (left, top), (right, bottom), colour, wide)
        for x, y, on in mark.points:
            at = (round((x + 0.5) * times), round((y + 0.5) * times))
            for radius, colour in ((size + 2, (0, 0, 0)), (size + 1, (255, 255, 255)), (size - 1, ON if on else OFF)):
                cv2.circle(picture, at, radius, colour, -1, cv2.LINE_AA)
            arm, thick = max(2, size - 3), max(1, size // 4)
            cv2.line(picture, (at[0] - arm, at[1]), (at[0] + arm, at[1]), (255, 255, 255), thick)
            if on:
                cv2.line(picture, (at[0], at[1] - arm), (at[0], at[1] + arm), (255, 255, 255), thick)


def letters(shape: Sequence[int]) -> int:
    """Size of letters on a picture of (height, width)."""
    return int(np.clip(round(max(shape[:2]) / 48), 12, 40))


@lru_cache(maxsize=64)
def font_for(text: str, size: int):  # noqa: ANN201 (Pillow is imported where pictures are drawn)
    """DejaVu Sans, or an installed font that has more of the letters."""
    from matplotlib import font_manager
    from PIL import ImageFont

    path = font_manager.findfont("DejaVu Sans")
    if not text.isascii():
        path = _covering(frozenset(text) - {" ", "\n"}, path)
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=64)
def _covering(characters: frozenset[str], usual: str) -> str:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    wanted = {ord(character) for character in characters}
    best, missing = usual, len(wanted - FT2Font(usual).get_charmap().keys())
    for entry in font_manager.fontManager.ttflist if missing else ():
        if "Last Resort" in entry.name:  # has a box for everything
            continue
        try:
            lacks = len(wanted - FT2Font(entry.fname).get_charmap().keys())
        except (OSError, RuntimeError):  # a font file that has gone, or is none
            continue
        if lacks < missing:
            best, missing = entry.fname, lacks
        if not missing:
            break
    return best


def wrapped(text: str, width: float, size: int) -> list[str]:
    """Lines no wider than `width` pixels, broken between words, inside them only where one is too long."""
    font, lines, line = font_for(text, size), [], ""
    for word in " ".join(text.split()).split(" "):
        together = f"{line} {word}".strip()
        if font.getlength(together) <= width:
            line = together
            continue
        lines += [line] if line else []
        while len(word) > 1 and font.getlength(word) > width:
            fits = max(1, next((n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width), 1))
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line or not lines else lines


def words_strip(text: str, width: int, size: int, colour: Colour = INK, ground: Colour = GROUND) -> Picture:
    """Words on a strip of their own, on as many lines as they need."""
    from PIL import Image, ImageDraw

    lines = wrapped(text, width - size, size)
    image = Image.new("RGB", (width, round(1.35 * size * len(lines) + 0.5 * size)), ground)
    draw, font = ImageDraw.Draw(image), font_for(text, size)
    for number, line in enumerate(lines):
        draw.text((size / 2, (0.9 + 1.35 * number) * size), line, fill=colour, font=font, anchor="lm")
    return np.array(image)


@lru_cache(maxsize=64)  # most frames of a film have the one before's
def legend(entries: tuple[Entry, ...], width: int, size: int) -> Picture:
    """What the colours stand for, on a dark strip: number, words; several to a line where there is room."""
    from PIL import Image, ImageDraw

    swatch, gap = round(1.7 * size), round(0.8 * size)
    placed, x, line = [], gap, 0
    for number, entry in enumerate(entries, 1):
        rows = wrapped(entry.text, max(width - swatch - 2 * gap, 4 * size), size)
        needs = swatch + max(font_for(entry.text, size).getlength(row) for row in rows) + gap
        if x > gap and x + needs > width:
            x, line = gap, line + 1
        placed.append((number, entry, rows, x, line))
        x, line = (x + needs + gap, line) if len(rows) == 1 else (gap, line + len(rows))
    last = line if x > gap else line - 1
    image = Image.new("RGB", (width, round((1.5 * (last + 1) + 0.7) * size)), GROUND)
    draw = ImageDraw.Draw(image)
    for number, entry, rows, x, line in placed:
        y = (1.5 * line + 1.1) * size
        box = (x, y - 0.6 * size, x + swatch - gap / 2, y + 0.6 * size)
        draw.rectangle(box, outline=entry.colour, width=2, fill=None if entry.faint else entry.colour)
        centre, ink = ((box[0] + box[2]) / 2, y), entry.colour if entry.faint else "black"
        draw.text(centre, str(number), fill=ink, font=font_for("1", round(0.85 * size)), anchor="mm")
        for row, text in enumerate(rows):
            at = (x + swatch, y + 1.5 * row * size)
            draw.text(at, text, fill=FAINT if entry.faint else INK, font=font_for(text, size), anchor="lm")
    return np.array(image)


def stacked(pictures: Sequence[Picture], gap: int = 0, ground: Colour = GROUND) -> Picture:
    """Pictures one below the other, each filled up to the widest."""
    width = max(picture.shape[1] for picture in pictures)
    parts = []
    for picture in pictures:
        part = np.full((picture.shape[0] + (gap if parts else 0), width, 3), ground, np.uint8)
        part[part.shape[0] - picture.shape[0] :, : picture.shape[1]] = picture
        parts.append(part)
    return np.concatenate(parts)


def in_a_row(pictures: Sequence[Picture], gap: int, ground: Colour = GROUND) -> Picture:
    """Pictures side by side with gaps between."""
    return stacked([picture.transpose(1, 0, 2) for picture in pictures], gap, ground).transpose(1, 0, 2)


def counted(clicks: int, boxes: int, masks: int) -> str:
    """How an object was pointed at: `3 clicks, 1 box`; nothing where it was not."""
    kinds = ((clicks, "click", "clicks"), (boxes, "box", "boxes"), (masks, "mask", "masks"))
    return ", ".join(f"{number} {one if number == 1 else several}" for number, one, several in kinds if number)


def marks_of(prompts: Sequence[Mapping[str, Any]], items: Sequence[str]) -> list[Mark]:
    """What was pointed at, to be drawn; masks that were given speak for themselves."""
    marks = []
    for entry in prompts:
        if (name := str(entry["object"])) not in items:
            continue
        clicks = entry.get("clicks", [])
        labels = entry.get("labels") or [1] * len(clicks)
        points = tuple((float(x), float(y), bool(on)) for (x, y), on in zip(clicks, labels, strict=True))
        box = tuple(map(float, entry["box"])) if "box" in entry else None
        marks.append(Mark(entry["frame"], items.index(name), points, box))  # type: ignore[arg-type]
    return marks
