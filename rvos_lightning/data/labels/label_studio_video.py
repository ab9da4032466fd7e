"""Label Studio's rectangles in videos: key frames, between which a box moves in a straight line."""

from collections.abc import Mapping
from typing import Any

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.cvat import BOXES
from rvos_lightning.data.labels.footage import Footage
from rvos_lightning.data.labels.video import Losses, polygon, turned_box
from rvos_lightning.data.readers.annotation_files import require
from rvos_lightning.data.sources.rle import Rle

FIELDS = ("x", "y", "width", "height")
ROUNDED = "{} rectangles belong to films of another number of frames than Label Studio counted: check its frame rate"


def track_masks(value: Mapping[str, Any], footage: Footage, losses: Losses, place: str) -> dict[int, Rle | None]:
    """A rectangle on every frame of its video.

    A key frame shows the box; while it is enabled the box goes on to the next one, or stays to the end.

    Raises:
        DataError: key frames out of order or beyond the film, or fields missing.
    """
    count = len(footage.frames)
    keys = [_key(one, count, place) for one in require(value, "sequence", list, place)]
    if not keys or any(after[0] <= before[0] for before, after in zip(keys, keys[1:], strict=False)):
        raise DataError(f"{place}: field 'sequence' must list key frames in rising order.")
    losses.say(ROUNDED, int(isinstance(value.get("framesCount"), int) and value["framesCount"] != count))
    masks: dict[int, Rle | None] = dict.fromkeys(range(count))
    for index, (frame, enabled, box) in enumerate(keys):
        after = keys[index + 1] if index + 1 < len(keys) else None
        end = frame + 1 if not enabled else count if after is None else after[0]
        for position in range(frame, end):
            share = 0.0 if after is None else (position - frame) / (after[0] - frame)
            moved = box if after is None else [a + (b - a) * share for a, b in zip(box, after[2], strict=True)]
            masks[position] = _filled(moved, footage.size, place)
    losses.say(BOXES, sum(mask is not None for mask in masks.values()))
    return masks


def _key(record: Any, count: int, place: str) -> tuple[int, bool, list[float]]:
    """Position (Label Studio counts frames from 1), whether the box goes on, and box in per cent with its turn."""
    frame = require(record, "frame", int, place)
    if not 1 <= frame <= count:
        raise DataError(
            f"{place}: key frame {frame}, but the video has {count} frames. Point --frames to its own film."
        )
    box = [float(require(record, name, (int, float), place)) for name in FIELDS]
    turn = record.get("rotation")
    return frame - 1, record.get("enabled") is not False, [*box, float(turn) if isinstance(turn, int | float) else 0.0]


def _filled(box: list[float], size: tuple[int, int], place: str) -> Rle | None:
    x, y, width, height, turn = box
    wide, high = size[1] / 100, size[0] / 100
    corners = (x * wide, y * high, (x + width) * wide, (y + height) * high)
    return polygon(turned_box(corners, turn, (corners[0], corners[1])), size, place)
