"""YouTube-VIS JSON: `videos`, `annotations` with one segmentation or null a frame, `categories`.

Ours also carry what the format has no field for, in fields that its readers pass over: `unlabelled` (frames on which
nobody looked for an object), an object's `name` and `annotator`, and `expressions`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.coco_records import (
    UNNAMED,
    by_owner,
    categories_of,
    category_names,
    category_of,
    category_rows,
    drawn,
    expression_rows,
    expressions_in,
    mask_of,
    measures,
    object_name,
    positions,
    sentences_of,
    text_of,
)
from rvos_lightning.data.labels.footage import of_pictures, picture_below
from rvos_lightning.data.labels.video import LabelledVideo, Losses, plain_name
from rvos_lightning.data.readers.annotation_files import read_json, require
from rvos_lightning.data.sources.frame_names import natural


def read(source: Path, frames: Path, losses: Losses) -> Iterator[LabelledVideo]:
    """Videos of a file; `file_names` start at `frames`.

    Raises:
        DataError: a field missing or of another kind, or pictures that are not there.
    """
    table = read_json(source)
    records = {name: require(table, name, list, str(source)) for name in ("videos", "annotations", "categories")}
    names = category_names(records["categories"], f"{source}: categories")
    own = by_owner(records["videos"], records["annotations"], "video", source)
    said = expressions_in(table, {record["id"] for record in records["videos"]}, source)
    for record in records["videos"]:
        yield _video(record, own.get(record["id"], []), names, said, source, frames, losses)


def _video(
    record: dict[str, Any], annotations: Sequence[dict[str, Any]], categories: dict[int, str], said: list[Any],
    source: Path, root: Path, losses: Losses,
) -> LabelledVideo:  # fmt: skip
    place = f"{source}: video {record['id']}"
    files = require(record, "file_names", list, place)
    if not files or not all(isinstance(name, str) for name in files):
        raise DataError(f"{place}: field 'file_names' must name the frames' pictures.")
    order = sorted(range(len(files)), key=lambda index: natural(files[index]))
    footage = of_pictures([picture_below(root, files[index], place) for index in order])
    size = (require(record, "height", int, place), require(record, "width", int, place))
    objects, tracks = {}, {}
    for one in annotations:
        where = f"{source}: annotation {one['id']}"
        parts = require(one, "segmentations", list, where)
        if len(parts) != len(files):
            raise DataError(f"{where}: {len(parts)} segmentations for {len(files)} frames.")
        category = category_of(one, categories, where)
        boxes = one.get("bboxes") or [None] * len(parts)
        skipped = positions(one.get("unlabelled"), len(files), where)
        masks = {}
        for position, index in enumerate(order):
            box = boxes[index] if isinstance(boxes, list) and index < len(boxes) else None
            if index not in skipped:
                masks[position] = mask_of({"bbox": box}, parts[index], size, losses, f"{where}, frame {index}")
        name = object_name(one, category, one["id"], objects)
        objects[name], tracks[one["id"]] = drawn(masks, category, one), name
    name = record.get("name") or str(Path(files[0]).parent)
    name = plain_name(str(record["id"]) if name == "." else str(name))
    sentences = sentences_of(said, record["id"], tracks, source)
    return LabelledVideo(
        name, footage.frames, size, objects, sentences, tuple(files), footage.pictures, None, record.get("fps")
    )


def write(videos: Sequence[LabelledVideo], out: Path, losses: Losses) -> None:
    """One JSON file; frame names start at the split's `frames` folder."""
    categories = categories_of(videos)
    tracks: dict[tuple[str, str], int] = {}
    rows, annotations = [], []
    for number, video in enumerate(videos, start=1):
        files = picture_names(video, losses)
        size = {"height": video.size[0], "width": video.size[1], "length": len(files)}
        rate = {} if video.fps is None else {"fps": video.fps}
        rows.append({"id": number, "name": video.id, "file_names": files, **size, **rate})
        for key, one in video.objects.items():
            tracks[video.id, key] = len(annotations) + 1
            masks = [one.masks.get(position) for position in range(len(files))]
            facts = [None if mask is None else measures(mask) for mask in masks]
            record: dict[str, Any] = {"id": len(annotations) + 1, "video_id": number, "iscrowd": 0, "name": key}
            record |= {"category_id": categories[one.category or UNNAMED], **size}
            record["segmentations"] = [None if mask is None else text_of(mask) for mask in masks]
            record["bboxes"] = [None if fact is None else fact["bbox"] for fact in facts]
            record["areas"] = [None if fact is None else fact["area"] for fact in facts]
            if unlabelled := [position for position in range(len(files)) if position not in one.masks]:
                record["unlabelled"] = unlabelled
            record |= {} if one.annotator is None else {"annotator": one.annotator}
            annotations.append(record)
    table = {"info": {}, "licenses": [], "videos": rows, "annotations": annotations}
    table |= {"categories": category_rows(categories), "expressions": expression_rows(videos, tracks)}
    out.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def picture_names(video: LabelledVideo, losses: Losses) -> list[str]:
    """Names of a video's pictures; those that a film's frames would have."""
    if video.files:
        return list(video.files)
    losses.say("{} films have no pictures to name: extract them, ffmpeg -i FILM -start_number 0 frames/VIDEO/%05d.jpg")
    return [f"{video.id}/{frame}.jpg" for frame in video.frames]
