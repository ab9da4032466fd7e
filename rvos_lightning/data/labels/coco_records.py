"""What COCO and YouTube-VIS files share: categories, segmentations, and the sentences that ours carry besides."""

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.video import (
    DrawnObject,
    LabelledVideo,
    Losses,
    Sentence,
    plain_name,
    polygon,
    turned_box,
)
from rvos_lightning.data.readers.annotation_files import require
from rvos_lightning.data.sources.mask_pictures import Size
from rvos_lightning.data.sources.rle import Rle, segmentation

UNNAMED = "unnamed"
"""Category of objects of which nobody said what they are: both formats demand one."""

POLYGONS = "{} polygons became pixels: corners between pixels are not kept"
BOXES = "{} objects have a box but no mask: the box was filled"
KEYPOINTS = "keypoints of {} annotations were left out"
CROWDS = "{} crowd regions became ordinary objects"


def by_owner(
    owners: Sequence[Any], annotations: Sequence[Any], owner: str, source: Path, ids: type | tuple[type, ...] = int
) -> dict[int, list[Any]]:
    """The annotations of each picture or video, by its id; none for one without any.

    Args:
        owners: records of the pictures or videos.
        annotations: of the whole file.
        owner: "image" or "video".
        source: for messages.
        ids: kinds of an annotation's own id.

    Raises:
        DataError: a field missing or of another kind, two records of one id, or annotations of no owner.
    """
    own: dict[int, list[Any]] = {}
    seen: set[int | str] = set()
    for record in annotations:
        number = require(record, "id", ids, f"{source}: annotations")
        if number in seen:
            raise DataError(f"{source}: two annotations have the id {number}; ids must be unique.")
        seen.add(number)
        own.setdefault(require(record, f"{owner}_id", int, f"{source}: annotation {number}"), []).append(record)
    known = [require(record, "id", int, f"{source}: {owner}s") for record in owners]
    if len(set(known)) != len(known):
        raise DataError(f"{source}: two {owner}s have one id; ids must be unique.")
    if strangers := sorted(own.keys() - set(known)):
        raise DataError(f"{source}: annotations of {owner} {strangers[0]}, which is not among the {owner}s.")
    return own


def by_id(records: Sequence[Any], place: str) -> dict[int, Any]:
    """Record by id.

    Raises:
        DataError: no id, one of another kind, or two records of one.
    """
    found: dict[int, Any] = {}
    for one in records:
        number = require(one, "id", int, place)
        if number in found:
            raise DataError(f"{place}: two have the id {number}; ids must be unique.")
        found[number] = one
    return found


def category_names(records: Sequence[Any], place: str) -> dict[int, str]:
    """Name by id.

    Raises:
        DataError: a field missing or of another kind, or two categories of one id.
    """
    named = by_id(records, place)
    return {number: require(one, "name", str, place).strip() or UNNAMED for number, one in named.items()}


def category_of(record: Any, names: Mapping[int, str], place: str) -> str:
    """The name of a record's category.

    Raises:
        DataError: the file lists no such category.
    """
    number = require(record, "category_id", int, place)
    if number not in names:
        raise DataError(f"{place}: field 'category_id' is {number}, but the categories are {str([*names])[:60]}.")
    return names[number]


def categories_of(videos: Iterable[LabelledVideo]) -> dict[str, int]:
    """Id, from 1, by name, of all categories in use."""
    names = {one.category or UNNAMED for video in videos for one in video.objects.values()}
    return {name: number for number, name in enumerate(sorted(names), start=1)}


def category_rows(ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """The `categories` of a file."""
    return [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]


def mask_of(record: Mapping[str, Any], drawn: Any, size: Size, losses: Losses, place: str) -> Rle | None:
    """The mask of an annotation: polygons or run lengths `drawn`, else its box filled."""
    if isinstance(drawn, list) and not all(_flat(part) for part in drawn):
        raise DataError(
            f"{place}: field 'segmentation' must list polygons, each [x, y, x, y, ...], found {str(drawn)[:60]}."
        )
    if drawn:
        rle = segmentation(drawn, size, place)
        losses.say(POLYGONS, int(isinstance(drawn, list)))
        if rle is not None:
            if tuple(rle["size"]) != tuple(size):
                raise DataError(f"{place}: a mask of {list(rle['size'])} on a picture of {list(size)} (height, width).")
            return rle
    box = record.get("bbox")
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4 or not _flat(box) or min(box[2:]) < 0:
        raise DataError(f"{place}: field 'bbox' must be [x, y, width, height], found {str(box)[:60]}.")
    left, top, width, height = box
    losses.say(BOXES)
    return polygon(turned_box((left, top, left + width, top + height), 0, (left, top)), size, place)


def _flat(part: Any) -> bool:
    """Whether it lists pairs of numbers."""
    return isinstance(part, list) and len(part) % 2 == 0 and all(type(value) in (int, float) for value in part)


def text_of(rle: Rle) -> dict[str, Any]:
    """Run lengths as JSON holds them."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def measures(rle: Rle) -> dict[str, Any]:
    """`area` and `bbox` of a mask."""
    from pycocotools import mask as library

    return {"area": int(library.area(rle)), "bbox": [float(value) for value in library.toBbox(rle)]}


def positions(value: Any, count: int, place: str) -> set[int]:
    """A list of frame numbers."""
    numbers = [] if value is None else value
    if not isinstance(numbers, list) or not all(type(each) is int and 0 <= each < count for each in numbers):
        raise DataError(f"{place}: field 'unlabelled' must list frame numbers below {count}, found {str(value)[:40]}.")
    return set(numbers)


def object_name(record: Mapping[str, Any], category: str | None, number: Any, taken: Mapping[str, Any]) -> str:
    """A plain id for an object: its own name where the file gives one."""
    own = record.get("name")
    name = plain_name(own) if isinstance(own, str) and own else plain_name(f"{category or 'object'}_{number}")
    while name in taken:
        name += "_"
    return name


def expression_rows(videos: Sequence[LabelledVideo], tracks: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Sentences as records; readers of the formats pass over fields that they do not know.

    Args:
        videos: whose sentences are meant, numbered from 1 in this order.
        tracks: number of an object by (video, object).
    """
    rows = []
    for number, video in enumerate(videos, start=1):
        for key, one in video.sentences.items():
            row: dict[str, Any] = {"id": key, "video_id": number, "exp": one.text}
            if one.objects is not None:
                row["track_ids"] = [tracks[video.id, each] for each in one.objects]
            if one.annotator is not None:
                row["annotator"] = one.annotator
            rows.append(row)
    return rows


def expressions_in(table: Mapping[str, Any], videos: Container[int], path: Path) -> list[Any]:
    """A file's sentences.

    Raises:
        DataError: no list, or one about none of the videos.
    """
    records = require(table, "expressions", list, str(path)) if "expressions" in table else []
    for record in records:
        if (video := require(record, "video_id", int, f"{path}: expressions")) not in videos:
            raise DataError(f"{path}: expressions about video {video}, which is not among the videos.")
    return records


def sentences_of(records: Sequence[Any], video: int, names: Mapping[int, str], path: Path) -> dict[str, Sentence]:
    """The sentences of one video; `names`: id of an object by its track's number.

    Raises:
        DataError: a field missing or of another kind, an id twice, or a track that is none of the video's.
    """
    found: dict[str, Sentence] = {}
    for record in records:
        place = f"{path}: expressions"
        if record["video_id"] != video:
            continue
        key = plain_name(str(record.get("id", len(found))))
        if key in found:
            raise DataError(f"{place}: two of video {video} have the id {key}; ids must be unique.")
        ids = require(record, "track_ids", list, place) if "track_ids" in record else None
        if lost := [each for each in ids or () if type(each) not in (int, str) or each not in names]:
            raise DataError(f"{place}, {key}: track {str(lost[0])[:40]} is none of its video's.")
        annotator = require(record, "annotator", str, place) if record.get("annotator") else None
        meant = None if ids is None else tuple(names[each] for each in ids)
        found[key] = Sentence(require(record, "exp", str, place), meant, annotator)
    return found


def drawn(masks: Mapping[int, Rle | None], category: str | None, record: Mapping[str, Any]) -> DrawnObject:
    """An object from its masks and the record that describes it."""
    annotator = record.get("annotator")
    kind = None if category == UNNAMED else category
    return DrawnObject(masks, kind, annotator if isinstance(annotator, str) and annotator else None)
