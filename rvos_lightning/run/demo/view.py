"""What the page shows: one frame with what was pointed at and what was found; nothing of the web here."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.video_files import IMAGES, VIDEOS, Footage, file_names, open_footage
from rvos_lightning.run.drawing import (
    COLOURS,
    Colour,
    Picture,
    draw_marks,
    marks_of,
    number_at,
    outline,
)

LOCK = Lock()  # a film is decoded from where it stands: one reader at a time
KINDS = ("click on it", "click off it", "box (two corners)")


@lru_cache(maxsize=8)
def footage(source: str) -> Footage:
    """The one video that a path means.

    Raises:
        DataError: unreadable, or several.
    """
    found = open_footage(source)
    if len(found) != 1:
        raise DataError(f"{Path(source).name}: {len(found)} films; choose one of them")
    return found[0]


def frame(
    source: str, position: int, prompts: Sequence[dict[str, Any]], corner: Sequence[float] | None, result: str | None
) -> Picture:
    """A frame with the masks found on it, the clicks and boxes of all objects, and a box's first corner.

    Args:
        source: see `footage`.
        position: of the frame.
        prompts: as in `GivenPrompts`.
        corner: x, y of the corner that was clicked already.
        result: folder with the masks; None before there are any.
    """
    with LOCK:
        film = footage(source)
        picture = np.ascontiguousarray(film.read([position])[0].permute(1, 2, 0).numpy())
    objects = list(dict.fromkeys(str(entry["object"]) for entry in prompts))
    colours = colours_of(result)
    labels = found_masks(film, position, result)
    for label in [] if labels is None else np.unique(labels[labels > 0]).tolist():
        outline(picture, labels == label, colours[label - 1])
        number_at(picture, labels == label, label, colours[label - 1])
    marks = [mark for mark in marks_of(prompts, objects) if mark.frame == position]
    draw_marks(picture, marks, colours)
    if corner is not None:
        x, y = (round(side) for side in corner)
        picture[max(0, y - 1) : y + 2] = picture[:, max(0, x - 1) : x + 2] = (255, 255, 255)
    return picture


def colours_of(result: str | None) -> list[Colour]:
    """The colours of a result's objects, as its film has them; for those that came later, others."""
    record = {} if result is None else json.loads(Path(result, "record.json").read_text())
    own = [(*entry["colour"],) for entry in record.get("expressions", ())]
    return [*own, *(colour for _ in range(26) for colour in COLOURS if colour not in own or len(own) >= len(COLOURS))]


def found_masks(film: Footage, position: int, result: str | None) -> np.ndarray | None:
    """The label of every pixel, 0 where nothing was found; None without a result."""
    from PIL import Image

    path = Path(result or "", "masks", file_names(film.frames)[position])
    if result is None or not path.exists():
        return None
    with Image.open(path) as image:
        return np.array(image)


def pointed(
    prompts: Sequence[dict[str, Any]],
    position: int,
    name: str,
    kind: str,
    corner: Sequence[float] | None,
    at: Sequence[float],
) -> tuple[list[dict[str, Any]], list[float] | None]:
    """The prompts after one more click, and a box's first corner, if that is what it was.

    Clicks on one object and frame make up one entry, as one act of a user.
    """
    new: dict[str, Any] = {"object": name.strip() or "object", "frame": position}
    if kind == KINDS[2]:
        if corner is None:
            return list(prompts), list(at)
        (left, right), (top, bottom) = sorted((corner[0], at[0])), sorted((corner[1], at[1]))
        return [*prompts, {**new, "box": [left, top, max(right, left + 1), max(bottom, top + 1)]}], None
    label = int(kind == KINDS[0])
    last = prompts[-1] if prompts else {}
    if "clicks" in last and all(last[key] == new[key] for key in new):
        joined = {**last, "clicks": [*last["clicks"], list(at)], "labels": [*last["labels"], label]}
        return [*prompts[:-1], joined], None
    return [*prompts, {**new, "clicks": [list(at)], "labels": [label]}], None


def undone(prompts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the last click or box."""
    if not prompts:
        return []
    last = prompts[-1]
    if len(last.get("clicks", [])) < 2:
        return list(prompts[:-1])
    return [*prompts[:-1], {**last, "clicks": last["clicks"][:-1], "labels": last["labels"][:-1]}]


def told(prompts: Sequence[dict[str, Any]]) -> str:
    """What was pointed at, a line an entry."""
    lines = []
    for entry in prompts:
        if "box" in entry:
            what = "box " + ", ".join(f"{side:g}" for side in entry["box"])
        else:
            pairs = zip(entry["clicks"], entry["labels"], strict=True)
            what = ", ".join(f"{'+' if on else '-'}({x:g}, {y:g})" for (x, y), on in pairs)
        lines.append(f"{entry['object']}, frame {entry['frame']}: {what}")
    return "\n".join(lines) or "nothing yet: choose a frame and click on it"


def offered(films: Path | None) -> list[tuple[str, str]]:
    """Name and path of the films, pictures and folders of pictures in a folder.

    Raises:
        DataError: no such folder, or nothing in it.
    """
    if films is None:
        return []
    if not films.is_dir():
        raise DataError(f"--films {films}: no such folder")
    known = IMAGES | VIDEOS
    found = [path for path in sorted(films.iterdir()) if path.suffix.lower() in known or _holds_pictures(path)]
    if not found:
        raise DataError(f"--films {films}: no films, pictures or folders of pictures in it")
    return [(path.name, str(path)) for path in found]


def _holds_pictures(path: Path) -> bool:
    return path.is_dir() and any(inside.suffix.lower() in IMAGES for inside in path.iterdir())
