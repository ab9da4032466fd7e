"""Label Studio's JSON: rectangles tracked through videos, and brushes, polygons, rectangles, ellipses on pictures.

A picture is a frame of the video that its folder (or `video` in the task's data) names. Its regions carry no tracks:
regions of one label are one object, unless their `meta` says another (`object`, as ours does). Each annotation of a
task is the work of one annotator.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.brush import decode_brush, encode_brush
from rvos_lightning.data.labels.coco_records import POLYGONS
from rvos_lightning.data.labels.cvat import BOXES, ELLIPSES
from rvos_lightning.data.labels.footage import Footage, find
from rvos_lightning.data.labels.label_studio_video import track_masks
from rvos_lightning.data.labels.sentences import put_beside
from rvos_lightning.data.labels.video import (
    FILMS,
    PICTURES,
    DrawnObject,
    LabelledVideo,
    Losses,
    decode,
    ellipse,
    encode,
    plain_name,
    plain_names,
    polygon,
    turned_box,
    united,
)
from rvos_lightning.data.labels.youtube_vis import picture_names
from rvos_lightning.data.readers.annotation_files import read_json, require
from rvos_lightning.data.sources.mask_pictures import Size
from rvos_lightning.data.sources.rle import Rle

REGIONS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
PLAIN = {"brush": "brushlabels", "polygon": "polygonlabels", "rectangle": "rectanglelabels", "ellipse": "ellipselabels"}
OTHERS = "{} results that enclose no area (choices, key points, text, timelines) were left out"
CANCELLED = "{} skipped annotations were left out"
JOINED = "{} regions had no object of their own: regions of one label became one object a video"


@dataclass
class _Work:
    """What is gathered of one video."""

    footage: Footage
    masks: dict[tuple[str, str | None], dict[int, list[Rle | None]]] = field(default_factory=dict)
    tracks: list[tuple[str, DrawnObject]] = field(default_factory=list)
    kinds: dict[tuple[str, str | None], str | None] = field(default_factory=dict)
    looked: dict[str | None, set[int]] = field(default_factory=dict)
    skipped: dict[int, set[str]] = field(default_factory=dict)


def read(source: Path, frames: Path, losses: Losses) -> Iterator[LabelledVideo]:
    """Videos of an export in the form "JSON".

    Raises:
        DataError: another form of export, or a field missing or of another kind.
    """
    tasks = read_json(source)
    if not isinstance(tasks, list):
        raise DataError(f"{source}: must hold a list of tasks. Export the project as JSON.")
    work: dict[str, _Work] = {}
    # of the whole file: an object must not change its owner with the number of people that looked at a picture
    authors = {_author(one) for task in tasks for one in _kept(task)}
    for number, task in enumerate(tasks):
        place = f"{source}: task {task.get('id', number) if isinstance(task, dict) else number}"
        data = require(task, "data", dict, place)
        if not isinstance(task.get("annotations"), list):
            raise DataError(f"{place}: field 'annotations' is missing. Export the project as JSON, not as JSON-MIN.")
        video, frame = _whose(data, place)
        if video not in work:
            work[video] = _Work(find(frames, video))
        position = None if frame is None else _position(work[video].footage, frame, place)
        kept = _kept(task)
        losses.say(CANCELLED, len(task["annotations"]) - len(kept))
        for one in kept:
            who = _author(one) if len(authors) > 1 or isinstance(one.get("meta"), dict) else None
            _take(work[video], one, who, position, losses, place)
        if position is not None and isinstance(data.get("unlabelled"), list):
            work[video].skipped[position] = {str(each) for each in data["unlabelled"]}
    for video, own in work.items():
        yield _video(plain_name(video), own, losses)


def _kept(task: Any) -> list[dict[str, Any]]:
    given = task.get("annotations") if isinstance(task, dict) else None
    made = given if isinstance(given, list) else []
    return [one for one in made if isinstance(one, dict) and not one.get("was_cancelled")]


def _whose(data: Mapping[str, Any], place: str) -> tuple[str, str | None]:
    """The video a task is about, and the frame where it is about a picture."""
    texts = [value for value in data.values() if isinstance(value, str)]
    paths = [PurePosixPath(unquote(_path(text))) for text in texts]
    for path in paths:
        if path.suffix.lower() in FILMS:
            return _unprefixed(path.stem), None
        if path.suffix in PICTURES:
            named = data.get("video")
            folder = named if isinstance(named, str) and PurePosixPath(named).suffix == "" else path.parent.name
            return folder or "video", path.stem
    raise DataError(f"{place}: its data names neither a film nor a picture: {str(dict(data))[:80]}.")


def _path(text: str) -> str:
    """The path inside an address; local files stand in its query, after `d=`."""
    parts = urlparse(text)
    return parse_qs(parts.query).get("d", [parts.path])[0]


def _unprefixed(stem: str) -> str:
    """An uploaded file's own name, without the eight signs put in front of it."""
    head, dash, rest = stem.partition("-")
    return rest if dash and len(head) == 8 and set(head) <= set("0123456789abcdef") else stem


def _position(footage: Footage, frame: str, place: str) -> int:
    for name in (frame, _unprefixed(frame)):
        if name in footage.frames:
            return footage.frames.index(name)
    raise DataError(f"{place}: no frame {frame} among those given ({footage.frames[0]} to {footage.frames[-1]}).")


def _author(annotation: Mapping[str, Any]) -> str | None:
    meta = annotation.get("meta")
    if isinstance(meta, dict) and isinstance(meta.get("annotator"), str):
        return meta["annotator"] or None
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return None if who is None else str(who)


def _take(
    work: _Work, annotation: Mapping[str, Any], who: str | None, position: int | None, losses: Losses, place: str
) -> None:
    """One annotator's results on one task."""
    if position is not None:
        work.looked.setdefault(who, set()).add(position)
    for result in require(annotation, "result", list, place):
        kind = result.get("type") if isinstance(result, dict) else None
        kind = PLAIN.get(kind, kind) if isinstance(kind, str) else None
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict) or kind not in (*REGIONS, "videorectangle"):
            losses.say(OTHERS)
            continue
        where = f"{place}, result {result.get('id')}"
        labels = value.get("labels") if kind == "videorectangle" else value.get(kind)
        label = str(labels[0]) if isinstance(labels, list) and labels else None
        if kind == "videorectangle":
            name = f"{label or 'object'}_{result.get('id', len(work.tracks))}"
            work.tracks.append((name, DrawnObject(track_masks(value, work.footage, losses, where), label, who)))
            continue
        if position is None:
            raise DataError(f"{where}: a {kind} on a film; regions belong to pictures.")
        meta = result.get("meta")
        own = meta.get("object") if isinstance(meta, dict) else None
        losses.say(JOINED, int(not isinstance(own, str)))
        key = (own if isinstance(own, str) and own else label or "object", who)
        mask = _region(kind, value, result, work.footage.size, losses, where)
        work.masks.setdefault(key, {}).setdefault(position, []).append(mask)
        work.kinds[key] = label if not (isinstance(meta, dict) and meta.get("category") == "") else None


def _region(
    kind: str, value: Mapping[str, Any], result: Mapping[str, Any], size: Size, losses: Losses, place: str
) -> Rle | None:
    drawn = (result.get("original_height", size[0]), result.get("original_width", size[1]))
    if drawn != tuple(size):
        raise DataError(
            f"{place}: drawn on {drawn[1]}x{drawn[0]} pixels, but the frames given have {size[1]}x{size[0]}."
        )
    if kind == "brushlabels":
        return encode(decode_brush(value.get("rle"), size, place))
    wide, high = size[1] / 100, size[0] / 100  # positions are per cent of the picture

    def numbers(*names: str) -> list[float]:
        return [float(require(value, name, (int, float), place)) for name in names]

    turn = value.get("rotation") if isinstance(value.get("rotation"), int | float) else 0
    if kind == "polygonlabels":
        losses.say(POLYGONS)
        corners = require(value, "points", list, place)
        if not all(isinstance(c, list) and len(c) == 2 and all(isinstance(n, int | float) for n in c) for c in corners):
            raise DataError(f"{place}: field 'points' must list [x, y], found {str(corners)[:60]}.")
        return polygon([(x * wide, y * high) for x, y in corners], size, place)
    if kind == "rectanglelabels":
        losses.say(BOXES)
        x, y, width, height = numbers("x", "y", "width", "height")
        box = (x * wide, y * high, (x + width) * wide, (y + height) * high)
        return polygon(turned_box(box, turn, box[:2]), size, place)
    losses.say(ELLIPSES)
    x, y, across, down = numbers("x", "y", "radiusX", "radiusY")
    return polygon(ellipse((x * wide, y * high), (across * wide, down * high), turn), size, place)


def _video(video: str, work: _Work, losses: Losses) -> LabelledVideo:
    size = work.footage.size
    drawn: list[tuple[str, DrawnObject]] = []
    for (key, who), own in sorted(work.masks.items(), key=lambda entry: (entry[0][0], entry[0][1] or "")):
        looked = [at for at in work.looked[who] if key not in work.skipped.get(at, ())]
        masks = {at: united(own.get(at, []), size, f"video {video}, object {key}") for at in sorted({*looked, *own})}
        drawn.append((key, DrawnObject(masks, work.kinds[key, who], who)))
    objects = _named([*drawn, *work.tracks])
    files = tuple(f"{video}/{name}" for name in work.footage.files)
    return LabelledVideo(video, work.footage.frames, size, objects, {}, files, work.footage.pictures, work.footage.film)


def _named(drawn: Sequence[tuple[str, DrawnObject]]) -> dict[str, DrawnObject]:
    """Two annotators' drawings of one thing are two objects."""
    wanted: dict[int, str] = {}
    for number, (key, one) in enumerate(drawn):
        wanted[number] = key if key not in wanted.values() else f"{key}.{one.annotator or number}"
    return {name: drawn[number][1] for number, name in plain_names(wanted).items()}


def write(videos: Sequence[LabelledVideo], out: Path, losses: Losses) -> None:
    """A task a frame, with brushes, to be imported in Label Studio; sentences in a CSV file beside."""
    tasks = []
    for video in videos:
        for position, file in enumerate(picture_names(video, losses)):
            data: dict[str, Any] = {"image": f"/data/local-files/?d={file}", "video": video.id}
            skipped = [key for key, one in video.objects.items() if position not in one.masks]
            data |= {"unlabelled": skipped} if skipped else {}
            people: dict[str | None, list[dict[str, Any]]] = {one.annotator: [] for one in video.objects.values()}
            for key, one in video.objects.items():
                if (mask := one.masks.get(position)) is not None:
                    people[one.annotator].append(_brush(key, one, mask, video.size))
            annotations = [{"result": rows, "meta": {"annotator": who or ""}} for who, rows in people.items()]
            tasks.append({"id": len(tasks) + 1, "data": data, "annotations": annotations})
    unseen = sum(not any(one.masks.values()) for video in videos for one in video.objects.values())
    losses.say("{} objects that are to be seen on no frame were left out", unseen)
    put_beside(out.with_suffix(".sentences.csv"), videos, losses, "a CSV file beside")
    out.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")


def _brush(key: str, one: DrawnObject, mask: Rle, size: Size) -> dict[str, Any]:
    label = one.category or key
    value = {"format": "rle", "rle": encode_brush(decode([mask], size) > 0), "brushlabels": [label]}
    meta = {"object": key} | ({} if one.category is not None else {"category": ""})
    names = {"type": "brushlabels", "from_name": "tag", "to_name": "image", "origin": "manual"}
    return {"id": key, **names, "original_width": size[1], "original_height": size[0], "meta": meta, "value": value}
