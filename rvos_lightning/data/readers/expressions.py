"""The expression files that MeViS, ReVOS, Ref-YouTube-VOS and converted Ref-DAVIS17 share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rvos_lightning.data.problems import Problem, blocks_of
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import read_json, require, safe_path
from rvos_lightning.data.sources.rle_store import RleStore


class Entry(NamedTuple):
    """One video of an expression file: its frames in order, its expressions by id, and the raw record."""

    id: str
    frames: tuple[str, ...]
    expressions: dict[str, dict[str, Any]]
    record: dict[str, Any]


def read_expressions(path: Path) -> list[Entry]:
    """All videos of `meta_expressions.json`, in file order; frames sorted, because some files are not.

    Raises:
        DataError: a field is missing or of the wrong kind, a video has no frame, a frame is listed twice.
    """
    videos = require(read_json(path), "videos", dict, str(path))
    return [_entry(path, name, record) for name, record in videos.items()]


def _entry(path: Path, name: str, record: Any) -> Entry:
    place = f"{path}: video {name}"
    safe_path(name, path)
    frames = require(record, "frames", list, place)
    odd = next((frame for frame in frames if not isinstance(frame, str) or "/" in safe_path(frame, place)), None)
    if odd is not None or None in frames:
        raise DataError(f"{place}: field 'frames' must hold plain frame names, found {str(odd)[:40]!r}.")
    frames = sorted(frames)
    if not frames:
        raise DataError(f"{place}: field 'frames' is empty.")
    if len(set(frames)) != len(frames):
        raise DataError(f"{place}: field 'frames' lists a frame twice.")
    expressions = require(record, "expressions", dict, place)
    for key, expression in expressions.items():
        require(expression, "exp", str, f"{place}, expression {key}")
    return Entry(name, tuple(frames), expressions, record)


def annotation_ids(expression: dict[str, Any], place: str) -> tuple[int, ...] | None:
    """Field `anno_id` (a list, or one number); empty means no target, None that the truth is hidden."""
    if "anno_id" not in expression:
        return None
    ids = require(expression, "anno_id", (list, int), place)
    ids = ids if isinstance(ids, list) else [ids]
    odd = [each for each in ids if isinstance(each, bool) or not isinstance(each, int | str)]
    if odd:
        raise DataError(f"{place}: field 'anno_id' must hold numbers, found {str(odd[0])[:40]}.")
    return tuple(ids)


def table(entries: list[Entry], path: Path) -> Iterator[tuple[int, Entry, str, dict[str, Any], str]]:
    """Every expression as (video index, entry, expression id, record, place for errors)."""
    for index, entry in enumerate(entries):
        for key, expression in entry.expressions.items():
            yield index, entry, key, expression, f"{path}: video {entry.id}, expression {key}"


def track_problems(videos: list[Video], items: list[Item], store: RleStore, split: str) -> Iterator[Problem]:
    """Annotations that expressions name but the mask file lacks, or that are not one mask per frame."""
    blocks = blocks_of(split)[:1]
    for item in items:
        video = videos[item.video]
        rows = store.rows(item.objects or ())
        lengths = store.lengths(rows)
        for key, row, length in zip(item.objects or (), rows.tolist(), lengths.tolist(), strict=True):
            place = f"video {video.id}, expression {item.id}, annotation {key}"
            if row < 0:
                yield Problem(
                    place, "not in mask_dict.json", "The two files are of different releases; get both.", blocks
                )
                continue
            if length != len(video.frames):
                what = f"{length} masks for {len(video.frames)} frames"
                yield Problem(place, what, "Masks are indexed by frame; leave the video out with `exclude`.", blocks)


def stored_size(objects: tuple[int | str, ...], store: RleStore) -> tuple[int, int] | None:
    """(height, width) of a video, taken from the first of some annotations that has a mask."""
    rows = store.rows(objects)
    sizes = store.sizes(rows[rows >= 0])
    known = sizes[sizes[:, 0] > 0]
    return (int(known[0, 0]), int(known[0, 1])) if len(known) else None
