"""LabelMe's JSON files, one a picture: polygons, rectangles, circles and masks.

A folder of them is a video. Shapes of one `label` and `group_id` are one object throughout it; pictures without a file
were not looked at. Ours add the fields `object`, `category` and `annotator` to shapes and `unlabelled` and `absent` to
files; LabelMe keeps them.
"""

import base64
import binascii
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.coco_records import POLYGONS
from rvos_lightning.data.labels.cvat import BOXES, ELLIPSES
from rvos_lightning.data.labels.footage import Footage, find, name_of, of_pictures, pictures_in
from rvos_lightning.data.labels.sentences import put_beside
from rvos_lightning.data.labels.video import (
    DrawnObject,
    LabelledVideo,
    Losses,
    cropped,
    ellipse,
    encode,
    plain_name,
    plain_names,
    polygon,
    turned_box,
    united,
)
from rvos_lightning.data.labels.youtube_vis import picture_names
from rvos_lightning.data.limits import within
from rvos_lightning.data.readers.annotation_files import read_json, require
from rvos_lightning.data.sources.file_tree import left_by_desktops
from rvos_lightning.data.sources.frame_names import natural
from rvos_lightning.data.sources.mask_pictures import Size, decode_ids
from rvos_lightning.data.sources.rle import Rle

OTHERS = "{} shapes that enclose no area of their picture (points, lines, such as lie outside it) were left out"
UNGROUPED = "{} shapes had no group: those of one label became one object a video"


def read(source: Path, frames: Path, losses: Losses) -> Iterator[LabelledVideo]:
    """One video for each folder of JSON files below `source`, or `source` itself.

    Raises:
        DataError: no such files, a field missing or of another kind, or frames that are not there.
    """
    here = _files(source) if source.is_dir() else []
    folders = [source] if here else sorted(one for one in source.iterdir() if one.is_dir()) if source.is_dir() else []
    found = {folder: _files(folder) for folder in folders}
    if not any(found.values()):
        raise DataError(f"{source}: neither JSON files nor folders of them. Give the folder in which LabelMe saved.")
    for folder, files in found.items():
        if files:
            beside = pictures_in(folder)
            footage = of_pictures(beside) if beside and frames == source else find(frames, folder.name)
            name = name_of(source, frames) if folder == source else folder.name
            yield _video(plain_name(name), folder, files, footage, losses)


def _files(folder: Path) -> list[Path]:
    files = (path for path in folder.glob("*.json") if not left_by_desktops(path.name))
    return sorted(files, key=lambda path: natural(path.name))


def _video(name: str, folder: Path, files: Sequence[Path], footage: Footage, losses: Losses) -> LabelledVideo:
    masks: dict[tuple[str, int | str | None], dict[int, list[Rle | None]]] = {}
    facts: dict[tuple[str, int | str | None], Mapping[str, Any]] = {}
    looked: dict[int, set[str]] = {}
    for path in files:
        record = read_json(path)
        picture = PureWindowsPath(require(record, "imagePath", str, str(path))).stem
        if picture not in footage.frames:
            raise DataError(
                f"{path}: drawn on {picture}, which is not among the frames given ({footage.frames[0]}, ...)."
            )
        position = footage.frames.index(picture)
        if position in looked:
            raise DataError(f"{path}: another file is about the picture {picture}, too; keep one.")
        size = tuple(record.get(name) for name in ("imageHeight", "imageWidth"))
        if None not in size and size != tuple(footage.size):
            have = footage.size
            raise DataError(f"{path}: drawn on {size[1]}x{size[0]} pixels, but the frames have {have[1]}x{have[0]}.")
        skipped = record.get("unlabelled")
        looked[position] = {str(each) for each in skipped} if isinstance(skipped, list) else set()
        absent = record.get("absent")
        for one in absent if isinstance(absent, list) else ():
            masks.setdefault(_key(one, str(path)), {})
            facts.setdefault(_key(one, str(path)), one)
        for number, shape in enumerate(require(record, "shapes", list, str(path))):
            place = f"{path}: shape {number}"
            key = _key(shape, place)
            losses.say(UNGROUPED, int(shape.get("group_id") is None and not isinstance(shape.get("object"), str)))
            drawn = _area(shape, footage.size, losses, place)
            losses.say(OTHERS, int(drawn is None))
            if drawn is not None:
                masks.setdefault(key, {}).setdefault(position, []).append(drawn)
                facts.setdefault(key, shape)
    losses.say("{} pictures have no JSON file: they count as not looked at", len(footage.frames) - len(looked))
    objects = {}
    names = plain_names({key: key[0] if key[1] is None else f"{key[0]}_{key[1]}" for key in masks})
    for key, own in sorted(masks.items(), key=lambda entry: names[entry[0]]):
        seen = {
            at: united(own.get(at, []), footage.size, str(folder)) for at in sorted(looked) if key[0] not in looked[at]
        }
        category, who = facts[key].get("category", facts[key]["label"]), facts[key].get("annotator")
        objects[names[key]] = DrawnObject(seen, category or None, who if isinstance(who, str) and who else None)
    pictures = tuple(f"{name}/{file}" for file in footage.files)
    return LabelledVideo(name, footage.frames, footage.size, objects, {}, pictures, footage.pictures, footage.film)


def _key(shape: Any, place: str) -> tuple[str, int | str | None]:
    """An object: its own name, or label and group."""
    label = require(shape, "label", str, place)
    if isinstance(shape.get("object"), str):
        return shape["object"], None
    return label, None if shape.get("group_id") is None else require(shape, "group_id", (int, str), place)


def _area(shape: Mapping[str, Any], size: Size, losses: Losses, place: str) -> Rle | None:
    kind = shape.get("shape_type") or "polygon"
    points = require(shape, "points", list, place)
    if not all(isinstance(p, list) and len(p) == 2 and all(type(n) in (int, float) for n in p) for p in points):
        raise DataError(f"{place}: field 'points' must list [x, y], found {str(points)[:60]}.")
    within("polygon_numbers", 2 * len(points), place)
    if kind in ("point", "points", "line", "linestrip"):
        return None
    if kind not in ("polygon", "rectangle", "circle", "mask"):
        raise DataError(f"{place}: field 'shape_type' is {str(kind)[:30]!r}; use polygon, rectangle, circle, mask.")
    if kind in ("circle", "mask") and len(points) != 2:
        raise DataError(f"{place}: a {kind} has two points, found {len(points)}.")
    if kind == "mask":
        return _mask(shape, points, size, place)
    if kind == "circle":
        losses.say(ELLIPSES)
        radius = math.dist(*points)
        return polygon(ellipse((points[0][0], points[0][1]), (radius, radius)), size, place)
    if kind == "rectangle" and len(points) == 2:
        losses.say(BOXES)
        (left, right), (top, bottom) = (sorted(point[axis] for point in points) for axis in (0, 1))
        return polygon(turned_box((left, top, right, bottom), 0, (left, top)), size, place)
    losses.say(POLYGONS)
    return polygon(points, size, place)


def _mask(shape: Mapping[str, Any], points: Sequence[Sequence[float]], size: Size, place: str) -> Rle | None:
    """A PNG inside the file, laid with its corner on the first point."""
    text = require(shape, "mask", str, place)
    within("zip_member_bytes", len(text), place)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{place}: field 'mask' is no base64 ({error}). Save it again in LabelMe.") from error
    ids = decode_ids(data, place) > 0
    plane = np.zeros(size, bool)
    left, top = (int(min(point[axis] for point in points)) for axis in (0, 1))
    box = tuple(int(max(point[axis] for point in points)) - least + 1 for axis, least in ((1, top), (0, left)))
    if any(abs(side - other) > 1 for side, other in zip(box, ids.shape, strict=True)):
        have = ids.shape
        raise DataError(f"{place}: a mask of {have[1]}x{have[0]} pixels in a box of {box[1]}x{box[0]}; draw it again.")
    inside = ids[max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
    top, left = max(0, top), max(0, left)
    plane[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return encode(plane)


def write(videos: Sequence[LabelledVideo], out: Path, losses: Losses) -> None:
    """`<video>/<frame>.json`, every object as a mask; sentences in a CSV file beside."""
    out.mkdir()
    for video in videos:
        (out / video.id).mkdir()
        for position, file in enumerate(picture_names(video, losses)):
            rows = {key: _row(key, one) for key, one in video.objects.items()}
            seen = {key: one.masks.get(position) for key, one in video.objects.items()}
            shapes = [rows[key] | _drawn(mask, video.size) for key, mask in seen.items() if mask is not None]
            absent = [rows[key] for key, one in video.objects.items() if position in one.masks and seen[key] is None]
            skipped = [key for key, one in video.objects.items() if position not in one.masks]
            record: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": Path(file).name}
            record |= {"imageData": None, "imageHeight": video.size[0], "imageWidth": video.size[1]}
            record |= {"unlabelled": skipped, "absent": absent}
            path = out / video.id / f"{video.frames[position]}.json"
            path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    put_beside(out / "sentences.csv", videos, losses, "sentences.csv")


def _row(key: str, one: DrawnObject) -> dict[str, Any]:
    label = one.category or key
    return {"label": label, "object": key, "category": one.category or "", "annotator": one.annotator or ""}


def _drawn(mask: Rle, size: Size) -> dict[str, Any]:
    from PIL import Image

    left, top, plane = cropped(mask, size)
    buffer = io.BytesIO()
    Image.fromarray(plane * np.uint8(255)).save(buffer, "PNG")
    points = [[float(left), float(top)], [float(left + plane.shape[1] - 1), float(top + plane.shape[0] - 1)]]
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"points": points, "group_id": None, "shape_type": "mask", "flags": {}, "mask": text}
