"""Sentences of videos as a CSV file, for annotation tools that have no place for them.

Columns: video, id, exp, objects, annotator. `objects` holds ids with semicolons between them, "-" where the sentence
means nothing, and nothing where the answer is kept back.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.video import LabelledVideo, Losses, Sentence
from rvos_lightning.data.readers.annotation_files import read_text

NOTHING = "-"
COLUMNS = ("video", "id", "exp", "objects", "annotator")


def write_sentences(path: Path, videos: Iterable[LabelledVideo]) -> int:
    """The file, where there is a sentence at all; returns their number.

    Raises:
        DataError: there is such a file already.
    """
    rows = [
        (video.id, key, one.text, _said(one.objects), one.annotator or "")
        for video in videos
        for key, one in video.sentences.items()
    ]
    if rows:
        try:
            with path.open("x", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([COLUMNS, *rows])
        except FileExistsError as error:
            raise DataError(f"{path}: is there already, and nothing is overwritten. Give another --out.") from error
    return len(rows)


def put_beside(path: Path, videos: Sequence[LabelledVideo], losses: Losses, where: str) -> None:
    """What a tool's format has no place for: sentences go to a file beside, `where` says which; rates are lost."""
    losses.say(f"{{}} sentences went to {where}", write_sentences(path, videos))
    losses.say("frames a second of {} videos were left out", sum(video.fps is not None for video in videos))


def _said(objects: tuple[str, ...] | None) -> str:
    return "" if objects is None else ";".join(objects) or NOTHING


def with_sentences(videos: Iterable[LabelledVideo], path: Path) -> Iterator[LabelledVideo]:
    """The same videos with the sentences of a CSV file.

    Raises:
        DataError: a column missing, a video or object that there is not, an id twice; names the line.
    """
    videos = list(videos)
    table: dict[str, dict[str, Sentence]] = {video.id: {} for video in videos}
    objects = {video.id: video.objects for video in videos}
    for line, row in _rows(path):
        place = f"{path}, line {line}"
        video = row["video"].strip()
        if video not in table:
            raise DataError(f"{place}: there is no video {video!r}; there are {', '.join(list(table)[:6])}.")
        if not row["exp"].strip():
            raise DataError(f"{place}: column 'exp' is empty; say what is meant.")
        key = row.get("id", "").strip() or str(len(table[video]))
        if key in table[video]:
            raise DataError(f"{place}: video {video} has two sentences with the id {key!r}.")
        meant = _meant(row.get("objects", "").strip(), objects[video], f"{place}: video {video}")
        table[video][key] = Sentence(row["exp"], meant, row.get("annotator", "").strip() or None)
    return (replace(video, sentences={**video.sentences, **table[video.id]}) for video in videos)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    lacking = [name for name in ("video", "exp") if name not in (reader.fieldnames or ())]
    if lacking:
        raise DataError(f"{path}: no column {lacking[0]!r}; the first line names {', '.join(COLUMNS)}.")
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{path}, line {reader.line_num}: more cells than columns; quote commas in sentences.")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _meant(said: str, objects: Mapping[str, object], place: str) -> tuple[str, ...] | None:
    if not said:
        return None
    meant = () if said == NOTHING else tuple(each.strip() for each in said.split(";") if each.strip())
    if lost := next((each for each in meant if each not in objects), None):
        raise DataError(f"{place} has no object {lost!r}; it has {', '.join(objects) or 'none'}.")
    return meant


def with_categories(videos: Iterable[LabelledVideo]) -> Iterator[LabelledVideo]:
    """The same videos with each category as a sentence about all of its objects."""
    for video in videos:
        kinds: dict[str, list[str]] = {}
        for key, one in video.objects.items():
            if one.category is not None:
                kinds.setdefault(one.category.replace("_", " "), []).append(key)
        said = {f"category_{number}": Sentence(kind, tuple(ids)) for number, (kind, ids) in enumerate(kinds.items())}
        yield replace(video, sentences={**video.sentences, **said})
