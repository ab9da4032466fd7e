"""COCO JSON: a record a picture, annotations with polygons, run lengths or boxes.

A video is the pictures of one `video_id`, or else of one folder; an object goes through it by `track_id` or
`instance_id` (also among an annotation's `attributes`, as CVAT writes it). Ours also have `videos` and `tracks` as TAO
has them, and, in fields that other readers pass over, `unlabelled` and `expressions`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rvos_lightning.data.labels.coco_records import (
    CROWDS,
    KEYPOINTS,
    UNNAMED,
    by_id,
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
    sentences_of,
    text_of,
)
from rvos_lightning.data.labels.footage import of_pictures, picture_below, picture_size
from rvos_lightning.data.labels.video import LabelledVideo, Losses, plain_name, united
from rvos_lightning.data.labels.youtube_vis import picture_names
from rvos_lightning.data.readers.annotation_files import read_json, require
from rvos_lightning.data.sources.frame_names import natural

UNTRACKED = "{} annotations name no track (`track_id`, `instance_id`): each became an object of its own on its picture"
SINGLE = "{} pictures of different sizes in one folder: each became a video of one frame"


def read(source: Path, frames: Path, losses: Losses) -> Iterator[LabelledVideo]:
    """Videos of a file; `file_name` starts at `frames`.

    Raises:
        DataError: a field missing or of another kind, an id twice, or pictures that are not there.
    """
    table = read_json(source)
    lists = {name: require(table, name, list, str(source)) for name in ("images", "annotations", "categories")}
    categories = category_names(lists["categories"], f"{source}: categories")
    on = by_owner(lists["images"], lists["annotations"], "image", source, (int, str))
    images = {record["id"]: record for record in lists["images"]}
    tracks = by_id(_optional(table, "tracks", source), f"{source}: tracks")
    known = by_id(_optional(table, "videos", source), f"{source}: videos")
    groups = _grouped(images, frames, source, losses)
    said = expressions_in(table, groups.keys(), source)
    for key, group in groups.items():
        video = known.get(key, {}) if isinstance(key, int) else {}
        name = plain_name(str(video.get("name") or (f"video_{key}" if isinstance(key, int) else key)))
        builder = _Builder(source, frames, categories, losses)
        own = {number: one for number, one in tracks.items() if one.get("video_id", key) == key}
        objects, names = builder.objects(group, on, own)
        files = tuple(one["file_name"] for one in group)
        footage = of_pictures([picture_below(frames, file, str(source)) for file in files])
        sentences = sentences_of(said, key, names, source) if isinstance(key, int) else {}
        yield LabelledVideo(
            name,
            footage.frames,
            builder.size(group[0]),
            objects,
            sentences,
            files,
            footage.pictures,
            None,
            video.get("fps"),
        )


def _optional(table: dict[str, Any], field: str, source: Path) -> list[Any]:
    return require(table, field, list, str(source)) if field in table else []


def _grouped(
    images: dict[int, dict[str, Any]], root: Path, source: Path, losses: Losses
) -> dict[int | str, list[dict[str, Any]]]:
    """Pictures of each video in order, by `video_id` or folder."""
    groups: dict[int | str, list[dict[str, Any]]] = {}
    for number, record in images.items():
        file = require(record, "file_name", str, f"{source}: image {number}")
        folder = str(PurePosixPath(file).parent)
        video = record.get("video_id")
        key = folder if video is None else require(record, "video_id", int, f"{source}: image {number}")
        groups.setdefault(key, []).append(record)
    found: dict[int | str, list[dict[str, Any]]] = {}
    for key, group in groups.items():
        sizes = {(one.get("height"), one.get("width")) for one in group}
        if isinstance(key, str) and len(sizes) > 1:
            losses.say(SINGLE, len(group))
            found |= {str(PurePosixPath(one["file_name"]).with_suffix("")): [one] for one in group}
            continue
        name = key if key != "." else source.stem
        found[name] = sorted(group, key=lambda one: (_moment(one), natural(one["file_name"])))
    return found


def _moment(image: dict[str, Any]) -> int:
    for field in ("frame_index", "frame_id"):
        if type(image.get(field)) is int:
            return image[field]
    return 0


class _Builder:
    """Objects of one video from the annotations of its pictures."""

    def __init__(self, source: Path, root: Path, categories: dict[int, str], losses: Losses) -> None:
        self.source, self.root, self.categories, self.losses = source, root, categories, losses

    def size(self, image: dict[str, Any]) -> tuple[int, int]:
        """(height, width) that the file says, or else the picture."""
        place = f"{self.source}: image {image['id']}"
        if "height" not in image:
            return picture_size(picture_below(self.root, image["file_name"], place))
        return require(image, "height", int, place), require(image, "width", int, place)

    def objects(
        self, images: Sequence[dict[str, Any]], on: dict[int, list[dict[str, Any]]], tracks: dict[int, Any]
    ) -> tuple[dict[str, Any], dict[int, str]]:
        """Objects by name, and names by track."""
        masks: dict[Any, dict[int, list[Any]]] = {number: {} for number in tracks}
        kinds = {
            number: category_of(one, self.categories, f"{self.source}: track {number}")
            for number, one in tracks.items()
            if one.get("category_id") is not None
        }
        single: set[Any] = set()
        for position, image in enumerate(images):
            size = self.size(image)
            for record in on.get(image["id"], ()):
                place = f"{self.source}: annotation {record['id']}"
                track = _track(record, place)
                if track is None:
                    track = f"annotation {record['id']}"
                    single.add(track)
                rle = mask_of(record, record.get("segmentation"), size, self.losses, place)
                masks.setdefault(track, {}).setdefault(position, []).append(rle)
                kinds.setdefault(track, category_of(record, self.categories, place))
                self.losses.say(KEYPOINTS, int(bool(record.get("keypoints"))))
                self.losses.say(CROWDS, int(record.get("iscrowd") == 1))
        self.losses.say(UNTRACKED, len(single))
        objects: dict[str, Any] = {}
        names: dict[int, str] = {}
        for track, own in masks.items():
            facts = tracks.get(track, {})
            name = object_name(facts, kinds.get(track), str(track).removeprefix("annotation "), objects)
            seen = {at: united(some, self.size(images[at]), f"{self.source}: {name}") for at, some in own.items()}
            absent = {} if track in single else {at: None for at, one in enumerate(images) if not _skips(one, track)}
            objects[name], names[track] = drawn(dict(sorted((absent | seen).items())), kinds.get(track), facts), name
        return objects, names


def _track(record: dict[str, Any], place: str) -> int | str | None:
    attributes = record.get("attributes")
    for holder in (record, attributes if isinstance(attributes, dict) else {}):
        for field in ("track_id", "instance_id"):
            if holder.get(field) is not None:
                return require(holder, field, (int, str), place)
    return None


def _skips(image: dict[str, Any], track: Any) -> bool:
    skipped = image.get("unlabelled")
    return isinstance(skipped, list) and track in skipped


def write(videos: Sequence[LabelledVideo], out: Path, losses: Losses) -> None:
    """One JSON file; frame names start at the split's `frames` folder."""
    categories = categories_of(videos)
    table: dict[str, list[dict[str, Any]]] = {"videos": [], "images": [], "tracks": [], "annotations": []}
    tracks: dict[tuple[str, str], int] = {}
    for number, video in enumerate(videos, start=1):
        table["videos"].append({"id": number, "name": video.id} | ({} if video.fps is None else {"fps": video.fps}))
        for key, one in video.objects.items():
            tracks[video.id, key] = len(table["tracks"]) + 1
            row = {"id": tracks[video.id, key], "video_id": number, "name": key}
            row |= {"category_id": categories[one.category or UNNAMED]}
            table["tracks"].append(row | ({} if one.annotator is None else {"annotator": one.annotator}))
        for position, file in enumerate(picture_names(video, losses)):
            image = {"id": len(table["images"]) + 1, "file_name": file, "video_id": number, "frame_index": position}
            image |= {"height": video.size[0], "width": video.size[1]}
            skipped = [tracks[video.id, key] for key, one in video.objects.items() if position not in one.masks]
            table["images"].append(image | ({"unlabelled": skipped} if skipped else {}))
            for key, one in video.objects.items():
                if (mask := one.masks.get(position)) is not None:
                    row = {"id": len(table["annotations"]) + 1, "image_id": image["id"], "video_id": number}
                    row |= {"track_id": tracks[video.id, key], "category_id": categories[one.category or UNNAMED]}
                    table["annotations"].append(row | {"iscrowd": 0, "segmentation": text_of(mask), **measures(mask)})
    whole = {"info": {}, "licenses": [], **table, "categories": category_rows(categories)}
    whole["expressions"] = expression_rows(videos, tracks)
    out.write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
