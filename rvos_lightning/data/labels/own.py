"""The layout of one's own videos: the file `annotations.json` of a split, read and written. See docs/own_data.md."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.video import FILMS, Sentence
from rvos_lightning.data.limits import within
from rvos_lightning.data.readers.annotation_files import read_json, require, safe_path

FILE, FRAMES, MASKS = "annotations.json", "frames", "masks"
FIELDS = {"frames", "film", "fps", "objects", "expressions"}
OBJECT, EXPRESSION = {"category", "annotator"}, {"exp", "objects", "annotator"}


class OwnObject(NamedTuple):
    """What the file says of an object; its masks are PNG files."""

    category: str | None
    annotator: str | None


class OwnVideo(NamedTuple):
    """One entry of the file; `frames` is empty where `film` holds them."""

    id: str
    frames: tuple[str, ...]
    film: str | None
    fps: float | None
    objects: dict[str, OwnObject]
    sentences: dict[str, Sentence]


def read_annotations(path: Path) -> list[OwnVideo]:
    """All videos of a split, in file order.

    Raises:
        DataError: not as the layout has it; names file, video, field and remedy.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: missing; it lists the videos of this split (docs/own_data.md). "
            "`rvos sample --layout own --out FOLDER` writes an example."
        )
    return videos_in(read_json(path), path)


def videos_in(content: Any, place: str | Path) -> list[OwnVideo]:
    """All videos that the content of such a file lists; raises as `read_annotations`."""
    videos = require(content, "videos", dict, str(place))
    return [_video(name, entry, f"{place}: video {name}") for name, entry in videos.items()]


def _video(name: str, entry: Any, place: str) -> OwnVideo:
    _named(name, place)
    _known(entry, FIELDS, place)
    film = _text(entry, "film", place)
    if (film is None) == ("frames" not in entry):
        raise DataError(f"{place}: give either `frames` (names of picture files) or `film` (a file in {FRAMES}/).")
    if film is not None and not _named(film, f"{place}, field 'film'").lower().endswith(FILMS):
        raise DataError(f"{place}: field 'film' is {film!r}; a film ends with one of {', '.join(FILMS)}.")
    fps = require(entry, "fps", (int, float), place) if entry.get("fps") is not None else None
    if fps is not None and not 0 < fps < 1e4:
        raise DataError(f"{place}: field 'fps' must be a number above 0, found {fps}.")
    objects = {}
    for key, record in require(entry, "objects", dict, place).items() if "objects" in entry else ():
        where = f"{place}, object {_named(key, f'{place}, an object')}"
        _known(record, OBJECT, where)
        objects[key] = OwnObject(_text(record, "category", where), _text(record, "annotator", where))
    said = {}
    for key, record in require(entry, "expressions", dict, place).items() if "expressions" in entry else ():
        where = f"{place}, expression {_named(key, f'{place}, an expression')}"
        said[key] = _sentence(record, objects, where)
    frames = () if film is not None else _frames(require(entry, "frames", list, place), place)
    return OwnVideo(name, frames, film, fps, objects, said)


def _frames(names: list[Any], place: str) -> tuple[str, ...]:
    within("video_frames", len(names), place)
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{place}: field 'frames' must hold names of pictures, found {repr(name)[:40]}.")
        _named(name, f"{place}, field 'frames'")
    if not names or len(set(names)) != len(names):
        raise DataError(f"{place}: field 'frames' {'lists a frame twice' if names else 'is empty'}.")
    return tuple(names)


def _sentence(record: Any, objects: dict[str, OwnObject], place: str) -> Sentence:
    _known(record, EXPRESSION, place)
    text = require(record, "exp", str, place)
    if not text.strip():
        raise DataError(f"{place}: field 'exp' is empty; say what is meant, or remove the expression.")
    meant = None
    if "objects" in record:
        meant = tuple(require(record, "objects", list, place))
        for each in meant:
            if not isinstance(each, str) or each not in objects:
                has = ", ".join(map(repr, list(objects)[:6])) or "none"
                raise DataError(f"{place}: field 'objects' names {each!r}, but the video has the objects: {has}.")
        if len(set(meant)) != len(meant):
            raise DataError(f"{place}: field 'objects' names an object twice.")
    return Sentence(text, meant, _text(record, "annotator", place))


def _text(record: Any, field: str, place: str) -> str | None:
    value = require(record, field, str, place) if record.get(field) is not None else None
    if value is not None and not value.strip():
        raise DataError(f"{place}: field {field!r} is empty; leave it out.")
    return value


def _known(record: Any, fields: set[str], place: str) -> None:
    """A field that nobody reads is a typing error, or truth that would be lost."""
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected an object with {', '.join(sorted(fields))}, found {str(record)[:40]!r}.")
    if strange := sorted(record.keys() - fields):
        raise DataError(f"{place}: unknown field {strange[0]!r}; fields are {', '.join(sorted(fields))}.")


def _named(name: str, place: str) -> str:
    if "/" in safe_path(name, place) or name != safe_path(name, place) or name.startswith("."):
        raise DataError(f"{place}: {name!r} is no plain name: no slashes, and no dot in front.")
    return name


def write_annotations(path: Path, videos: Iterator[OwnVideo]) -> None:
    """The file, in the form that `read_annotations` reads."""
    table = {}
    for video in videos:
        entry: dict[str, Any] = {"film": video.film} if video.film is not None else {"frames": list(video.frames)}
        entry |= {} if video.fps is None else {"fps": video.fps}
        entry["objects"] = {key: _given(record._asdict()) for key, record in video.objects.items()}
        entry["expressions"] = {
            key: _given({"exp": one.text, "objects": one.objects, "annotator": one.annotator})
            for key, one in video.sentences.items()
        }
        table[video.id] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": table}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _given(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None}
