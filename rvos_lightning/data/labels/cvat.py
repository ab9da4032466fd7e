"""CVAT for video 1.1: tracks of polygons, boxes, ellipses and masks in XML.

Frames before a track's first shape, and from one that is `outside` to the next that is not, do not show the object.
Ours declare three attributes of their labels, `object`, `annotator` and `unlabelled`, which CVAT keeps: the object's
id, who drew it, and that nobody looked for it on that frame.
"""

import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.coco_records import POLYGONS, UNNAMED
from rvos_lightning.data.labels.footage import Footage, find, name_of
from rvos_lightning.data.labels.guarded_xml import read_xml
from rvos_lightning.data.labels.sentences import put_beside
from rvos_lightning.data.labels.video import (
    DrawnObject,
    LabelledVideo,
    Losses,
    cropped,
    ellipse,
    encode,
    plain_name,
    polygon,
    turned_box,
    united,
)
from rvos_lightning.data.limits import within
from rvos_lightning.data.sources.file_tree import Zip
from rvos_lightning.data.sources.mask_pictures import Size
from rvos_lightning.data.sources.rle import Rle

SHAPES = ("polygon", "box", "ellipse", "mask")
BOXES = "{} boxes were filled: every pixel inside counts as the object"
ELLIPSES = "{} ellipses became pixels"
OTHERS = "{} shapes that enclose no area (points, polylines, cuboids, skeletons) were left out"
SPARSE = (
    "{} frames lie between key frames, of shapes that cannot be interpolated, and the file leaves them out: they count "
    "as not drawn. CVAT's own export has every frame"
)


ATTRIBUTES = (
    ("object", "False", "text", ""),
    ("annotator", "False", "text", ""),
    ("unlabelled", "True", "checkbox", "false"),
)
"""Of every label that we write: name, whether it changes, kind, default."""


@dataclass(frozen=True)
class Shape:
    """One element of a track.

    Attributes:
        box: (left, top, right, bottom, rotation) where it is a box, which is interpolated.
        mask: the pixels; None where nothing encloses any.
    """

    outside: bool
    unlabelled: bool
    mask: Rle | None
    box: tuple[float, ...] | None = None


def read(source: Path, frames: Path, losses: Losses) -> Iterator[LabelledVideo]:
    """The video of one XML file (also in the zip that CVAT hands out), or of each in a folder.

    Raises:
        DataError: another kind of file (images, a project), numbers that are none, or frames that are not there.
    """
    files = sorted(source.glob("*.xml")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no XML file in it. Give the annotations.xml that CVAT has exported.")
    for file in files:
        if zipfile.is_zipfile(file):
            content = Zip(file).read("annotations.xml")
        else:
            content = file.read_bytes()
        yield _video(file, read_xml(content, file), frames, losses)


def _video(file: Path, root: ElementTree.Element, frames: Path, losses: Losses) -> LabelledVideo:
    if root.tag != "annotations":
        raise DataError(f"{file}: its outermost element is <{root.tag}>, not <annotations>: no export of CVAT.")
    if root.find("image") is not None:
        raise DataError(f"{file}: made as CVAT for images 1.1, which has no tracks. Export it as CVAT for video 1.1.")
    meta = root.find("meta")
    task = (
        None if meta is None else next((one for name in ("task", "job") if (one := meta.find(name)) is not None), None)
    )
    if meta is None or task is None:
        what = "a whole project" if meta is not None and meta.find("project") is not None else "no <task> in its <meta>"
        raise DataError(f"{file}: {what}. Export each task alone, as CVAT for video 1.1.")
    said = [task.findtext("name"), task.findtext("source"), meta.findtext("source")]
    given = next((Path(one).stem for one in said if one and one.strip()), name_of(file, frames))
    footage, name = find(frames, given), plain_name(given)
    count = len(footage.frames)
    place = _Frames(task, footage, file)
    size = _size(meta, task, footage, file)
    objects: dict[str, DrawnObject] = {}
    for track in root.iter("track"):
        where = f"{file}: track {track.get('id')}"
        shapes = _shapes(track, place, size, losses, where)
        if not shapes:
            continue
        said = _attributes(track)
        label = track.get("label") or UNNAMED
        key = plain_name(said.get("object") or f"{label}_{track.get('id')}")
        while key in objects:
            key += "_"
        masks = _filled(shapes, place.asked, count, size, losses, where)
        kind = None if label == UNNAMED else label
        objects[key] = DrawnObject(masks, kind, said.get("annotator") or None)
    files = tuple(f"{name}/{path.name}" for path in footage.pictures)
    return LabelledVideo(name, footage.frames, size, objects, {}, files, footage.pictures, footage.film)


def _size(meta: ElementTree.Element, task: ElementTree.Element, footage: Footage, file: Path) -> Size:
    for holder in (meta, task):
        found = holder.find("original_size")
        if found is not None:
            size = (_whole(found.findtext("height"), file), _whole(found.findtext("width"), file))
            if size != tuple(footage.size):
                raise DataError(
                    f"{file}: drawn on frames of {size[1]}x{size[0]} pixels, but those given have "
                    f"{footage.size[1]}x{footage.size[0]}."
                )
    return footage.size


class _Frames:
    """Position of a frame that the file names by its number in the source film.

    Attributes:
        asked: positions of the task's own frames; nobody looked at others.
    """

    def __init__(self, task: ElementTree.Element, footage: Footage, file: Path) -> None:
        self.file, self.count = file, len(footage.frames)
        start = task.findtext("start_frame")
        step = (task.findtext("frame_filter") or "").replace(" ", "").removeprefix("step=")
        size = task.findtext("size")
        cut = footage.film is None and size is not None and _whole(size, file) == self.count
        first, every = _whole(start, file) if start else 0, max(1, _whole(step, file)) if step else 1
        self.start, self.step = (first, every) if cut else (0, 1)
        stop = task.findtext("stop_frame")
        last = _whole(stop, file) if stop and not cut else self.count - 1
        self.asked = range(0, self.count) if cut else range(first, min(last, self.count - 1) + 1, every)

    def __call__(self, number: str | None, place: str) -> int:
        position, rest = divmod(_whole(number, place) - self.start, self.step)
        if rest or not 0 <= position < self.count:
            raise DataError(
                f"{place}: frame {number}, but the video has {self.count} frames"
                f"{f' from {self.start} on in steps of {self.step}' if self.start or self.step > 1 else ''}. "
                "Point --frames to the frames that were annotated."
            )
        return position


def _shapes(
    track: ElementTree.Element, place: _Frames, size: Size, losses: Losses, where: str
) -> dict[int, list[Shape]]:
    found: dict[int, list[Shape]] = {}
    for element in track:
        if element.tag not in SHAPES:
            losses.say(OTHERS, int(element.tag != "attribute"))
            continue
        position = place(element.get("frame"), f"{where}, {element.tag}")
        at = f"{where}, frame {element.get('frame')}"
        outside = element.get("outside") == "1"
        unlabelled = _attributes_of(element).get("unlabelled") == "true"
        mask, box = (None, None) if outside else _area(element, size, losses, at)
        found.setdefault(position, []).append(Shape(outside, unlabelled, mask, box))
    return dict(sorted(found.items()))


def _area(
    element: ElementTree.Element, size: Size, losses: Losses, place: str
) -> tuple[Rle | None, tuple[float, ...] | None]:
    """The pixels of a shape, and its numbers where it is a box."""
    if element.tag == "polygon":
        losses.say(POLYGONS)
        pairs = [pair.split(",") for pair in (element.get("points") or "").split(";") if pair]
        if any(len(pair) != 2 for pair in pairs):
            raise DataError(f"{place}: `points` must be x,y;x,y;..., found {str(element.get('points'))[:40]!r}.")
        return polygon([[_number(value, place) for value in pair] for pair in pairs], size, place), None
    if element.tag == "mask":
        return _mask(element, size, place), None
    names = ("xtl", "ytl", "xbr", "ybr") if element.tag == "box" else ("cx", "cy", "rx", "ry")
    numbers = [_number(element.get(name), place) for name in names]
    turn = _number(element.get("rotation") or "0", place)
    if element.tag == "ellipse":
        losses.say(ELLIPSES)
        return polygon(ellipse((numbers[0], numbers[1]), (numbers[2], numbers[3]), turn), size, place), None
    losses.say(BOXES)
    return _box((*numbers, turn), size, place), (*numbers, turn)


def _box(box: Sequence[float], size: Size, place: str) -> Rle | None:
    left, top, right, bottom, turn = box
    return polygon(turned_box((left, top, right, bottom), turn, ((left + right) / 2, (top + bottom) / 2)), size, place)


def _mask(element: ElementTree.Element, size: Size, place: str) -> Rle | None:
    """Runs row by row inside a rectangle, outside first."""
    left, top, width, height = (_whole(element.get(name), place) for name in ("left", "top", "width", "height"))
    within("picture_pixels", width * height, place)
    text = element.get("rle") or ""
    within("rle_bytes", len(text), place)
    runs = np.array([_whole(part, place) for part in text.split(",")] if text.strip() else [], np.int64)
    if runs.sum() != width * height or left + width > size[1] or top + height > size[0]:
        raise DataError(
            f"{place}: runs of {int(runs.sum())} pixels for a rectangle of {width}x{height} at {left},{top} on a frame "
            f"of {size[1]}x{size[0]}. The file is damaged or belongs to other frames."
        )
    plane = np.zeros(size, bool)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    plane[top : top + height, left : left + width] = inside
    return encode(plane)


def _filled(
    shapes: Mapping[int, Sequence[Shape]], asked: range, count: int, size: Size, losses: Losses, place: str
) -> dict[int, Rle | None]:
    """Masks of every frame of the task that the track says something about."""
    keys = list(shapes)
    masks: dict[int, Rle | None] = {position: None for position in range(keys[0]) if position in asked}
    for index, key in enumerate(keys):
        own, end = shapes[key], keys[index + 1] if index + 1 < len(keys) else count
        if not all(shape.unlabelled for shape in own):
            masks[key] = united([shape.mask for shape in own if not shape.outside], size, place)
        gap = [position for position in range(key + 1, end) if position in asked]
        if all(shape.outside for shape in own):
            masks |= {} if own[0].unlabelled else {position: None for position in gap}
        elif len(own) == 1 and own[0].box is not None:
            after = shapes[end][0].box if end in shapes and len(shapes[end]) == 1 else None
            for position in gap:
                share = (position - key) / (end - key)
                box = own[0].box if after is None else _between(own[0].box, after, share)
                masks[position] = _box(box, size, place)
        else:
            losses.say(SPARSE, len(gap))
    return masks


def _between(one: Sequence[float], other: Sequence[float], share: float) -> list[float]:
    """A box on its way to another; it turns the shorter way round."""
    *ways, turn = (b - a for a, b in zip(one, other, strict=True))
    return [a + way * share for a, way in zip(one, (*ways, (turn + 180) % 360 - 180), strict=True)]


def _attributes(track: ElementTree.Element) -> dict[str, str]:
    """Attributes of a track's first shapes, which hold those that never change."""
    found: dict[str, str] = {}
    for element in track:
        for name, value in _attributes_of(element).items():
            found.setdefault(name, value)
    return found


def _attributes_of(element: ElementTree.Element) -> dict[str, str]:
    return {one.get("name") or "": (one.text or "").strip() for one in element.findall("attribute")}


def _whole(text: str | None, place: Any) -> int:
    value = _number(text, place)
    if value != int(value) or not 0 <= value < 1 << 31:
        raise DataError(f"{place}: expected a whole number from 0, found {text!r}.")
    return int(value)


def _number(text: str | None, place: Any) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise DataError(f"{place}: expected a number, found {text!r}.")
    return value


def write(videos: Sequence[LabelledVideo], out: Path, losses: Losses) -> None:
    """One `<video>.xml` a video, in a folder; masks as CVAT's own run lengths."""
    out.mkdir()
    for video in videos:
        lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>", *_meta(video)]
        for number, (key, one) in enumerate(video.objects.items()):
            label = quoteattr(one.category or UNNAMED)
            lines.append(f'  <track id="{number}" label={label} source="manual">')
            lines += [line for position in range(len(video.frames)) for line in _element(video, key, one, position)]
            lines.append("  </track>")
        (out / f"{video.id}.xml").write_text("\n".join([*lines, "</annotations>", ""]), encoding="utf-8")
    put_beside(out / "sentences.csv", videos, losses, "sentences.csv")


def _meta(video: LabelledVideo) -> Iterator[str]:
    labels = dict.fromkeys(one.category or UNNAMED for one in video.objects.values())
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>{mutable}</mutable><input_type>{kind}</input_type>"
        f"<default_value>{default}</default_value><values>{default}</values></attribute>"
        for name, mutable, kind, default in ATTRIBUTES
    )
    count = len(video.frames)
    yield f"  <meta><task><name>{escape(video.id)}</name><size>{count}</size><mode>interpolation</mode>"
    yield f"    <start_frame>0</start_frame><stop_frame>{count - 1}</stop_frame><frame_filter></frame_filter><labels>"
    for label in labels:
        yield f"      <label><name>{escape(label)}</name><attributes>{attributes}</attributes></label>"
    height, width = video.size
    yield f"    </labels><original_size><width>{width}</width><height>{height}</height></original_size></task></meta>"


def _element(video: LabelledVideo, key: str, one: DrawnObject, position: int) -> Iterator[str]:
    mask = one.masks.get(position)
    left, top, width, height, runs = 0, 0, 1, 1, [0, 1]
    if mask is not None:
        left, top, plane = cropped(mask, video.size)
        height, width = plane.shape
        inside = plane.ravel().astype(np.int8)
        edges = np.flatnonzero(np.diff(inside)) + 1
        runs = np.diff([0, *edges, len(inside)]).tolist()
        runs = [0, *runs] if inside[0] else runs
    outside = int(mask is None)
    yield (
        f'    <mask frame="{position}" outside="{outside}" occluded="0" keyframe="1" left="{left}" top="{top}" '
        f'width="{width}" height="{height}" z_order="0" rle="{", ".join(map(str, runs))}">'
    )
    said = {"object": key, "annotator": one.annotator or "", "unlabelled": str(position not in one.masks).lower()}
    yield "".join(f"<attribute name={quoteattr(name)}>{escape(value)}</attribute>" for name, value in said.items())
    yield "    </mask>"
