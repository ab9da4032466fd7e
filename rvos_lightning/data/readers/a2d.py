"""A2D-Sentences: actor and action sentences on clips, masks in HDF5 files for three to five frames a video."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.limits import within
from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import read_json, read_text, safe_path
from rvos_lightning.data.readers.file_reader import FileReader
from rvos_lightning.data.readers.layout import missing, needed_file, needed_tree, without_notes
from rvos_lightning.data.readers.one_frame import OneFrame
from rvos_lightning.data.sources.arrays import hdf5_fields
from rvos_lightning.data.sources.file_tree import FileTree, open_tree
from rvos_lightning.data.sources.film import FilmFrames
from rvos_lightning.data.sources.image_files import FrameSource, ImageFrames
from rvos_lightning.data.sources.table_file import cache_path, write_whole
from rvos_lightning.metrics.images import A2D

Split = Literal["train", "test"]
Row = tuple[str, str, int, int]  # sentence, video, frame number (from 1), instance

MASKS = "text_annotations/a2d_annotation_with_instances"
USAGE = {"train": "0", "test": "1"}


PREPARED = "the split that published codes prepare"


class A2DReader(FileReader):
    """`Release/{clips320H/<video>.mp4, videoset.csv}` and `text_annotations/`; frame numbers start at 1.

    An item is a sentence on one annotated frame, as the prepared JSON lists them (found at `root` or made from the
    text file); only that frame is annotated. Frames extracted as `JPEGImages/<video>/%05d.jpg` are read in preference
    to the mp4 files, because reading a window of an mp4 decodes everything from the key frame before it.
    """

    protocol, licence = A2D, "A2D-Sentences: research use, on request"
    counts = {"train": Count((3017,), (), PREPARED), "test": Count((737,), (), PREPARED)}

    def __init__(self, root: Path | str, split: str, cache: Path | None = None) -> None:
        """Lists sentences; without prepared JSON the first time opens every HDF5 file for its instances."""
        root = Path(root)
        table = _videoset(root, split)
        masks = needed_tree(root, MASKS, split, "the masks of instances")
        rows, files = _rows(root, split, table, masks, cache)
        names = sorted({video for _, video, _, _ in rows})
        lost = [name for name in names if name not in table]
        if lost:
            raise DataError(
                f"{root / 'Release/videoset.csv'}: no video {lost[0]} of split {split}, which has sentences."
            )
        index = {name: number for number, name in enumerate(names)}
        videos = [Video(name, tuple(f"{n:05d}" for n in range(1, table[name] + 1))) for name in names]
        items = list(_items(rows, index))
        super().__init__("a2d_sentences", split, videos, items, _frames(root, split), Hdf5Masks(masks), files)


class Hdf5Masks(OneFrame):
    """`<video>/%05d.h5` with `instance` (ids) and `reMask` (one mask each, columns first)."""

    def file(self, video: Video, item: Item) -> str:
        """See `OneFrame.file`."""
        return f"{video.id}/{video.frames[item.facts.frame]}.h5"

    def mask(self, data: bytes, item: Item, place: str) -> Bool[np.ndarray, "height width"]:
        """See `OneFrame.mask`."""
        ids, planes = read_instances(data, place)
        where = np.flatnonzero(ids == int(item.objects[0])) if item.objects else []
        if not len(where):
            raise DataError(f"{place}: field 'instance' holds {ids.tolist()}, not {item.objects}. Get it again.")
        return planes[where].any(0)

    def counted(self, video: Video) -> int | None:
        """See `MaskSource.counted`."""
        return sum(name.endswith(".h5") for name in self.tree.names(video.id))


def read_instances(data: bytes, place: str) -> tuple[np.ndarray, Bool[np.ndarray, "instances height width"]]:
    """Instance ids and masks of one HDF5 file; a single instance is stored without the leading axis."""
    found, planes = hdf5_fields(data, ("instance", "reMask"), place)
    if not np.isfinite(found).all():
        raise DataError(f"{place}: field 'instance' holds values that are no numbers. Get the file again.")
    ids = found.ravel().astype(np.int64)
    planes = planes[None] if planes.ndim == 2 else planes
    if planes.ndim != 3 or len(planes) != len(ids):
        raise DataError(f"{place}: {len(ids)} ids in 'instance', but 'reMask' has shape {planes.shape}.")
    return ids, planes.transpose(0, 2, 1) > 0


def _videoset(root: Path, split: str) -> dict[str, int]:
    """Number of frames of each video of a split."""
    path = needed_file(root, ("Release/videoset.csv", "videoset.csv"), split, "the table of videos")
    rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
    short = next((number for number, row in enumerate(rows, 1) if len(row) < 9), None)
    if short is not None:
        raise DataError(f"{path}: line {short}: expected 9 columns, found {len(rows[short - 1])}.")
    odd = next(
        (number for number, row in enumerate(rows, 1) if row[8].strip() in "01" and not row[6].isdecimal()), None
    )
    if odd is not None:
        raise DataError(f"{path}: line {odd}: column 7 must be a number of frames, found {rows[odd - 1][6][:40]!r}.")
    left_out = root / "text_annotations" / "a2d_missed_videos.txt"
    missed = set(read_text(left_out).split()) if left_out.is_file() else set()
    chosen = [row for row in rows if row[8].strip() == USAGE[split] and row[0] not in missed]
    for row in chosen:
        within("video_frames", int(row[6]), f"{path}: video {row[0]}")
    return {safe_path(row[0], path): int(row[6]) for row in chosen}


def _rows(
    root: Path, split: str, table: dict[str, int], masks: FileTree, cache: Path | None
) -> tuple[list[Row], list[Path]]:
    prepared = without_notes(root.glob(f"a2d_sentences*{split}_annotations*.json"))
    prepared = [path for path in prepared if "coco_format" not in path.name]
    if prepared:
        return _checked(read_json(prepared[0]), prepared[0]), [prepared[0]]
    texts = needed_file(root, ("text_annotations/a2d_annotation.txt",), split, "the sentences")
    kept = cache_path([texts, root / "Release" / "videoset.csv"], ".json", cache, tag=f"a2d_{split}")
    if not kept.is_file():
        made = json.dumps(list(_made(texts, table, masks))).encode()
        kept = write_whole(kept, lambda file: file.write(made))
    return _checked(read_json(kept), kept), [texts]


def _checked(rows: Any, path: Path) -> list[Row]:
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of rows, found {type(rows).__name__}. Get the file again.")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or [type(value) for value in row] != [str, str, int, int]:
            raise DataError(
                f"{path}: row {number}: expected [text, video, frame number, instance], found {str(row)[:80]}."
            )
        safe_path(row[1], f"{path}: row {number}")
        within("video_frames", row[2], f"{path}: row {number}")
        if row[2] < 1:
            raise DataError(f"{path}: row {number}: frame numbers start at 1, found {row[2]}.")
    return [tuple(row) for row in rows]


def _made(path: Path, table: dict[str, int], masks: FileTree) -> Iterator[Row]:
    """Rows of the prepared JSON, from the sentences and the instances that each HDF5 file holds."""
    held: dict[str, list[tuple[int, set[int]]]] = {}
    for row in csv.reader(read_text(path).splitlines(), skipinitialspace=True):
        if len(row) < 3 or not row[1].strip().isdecimal() or row[0] not in table:
            continue  # the header, other splits, and the one instance called "1 (copy)"
        video, instance = row[0], int(row[1])
        if video not in held:
            names = [name for name in masks.names(video) if name.endswith(".h5") and name[:-3].isdecimal()]
            held[video] = [(int(n[:-3]), _instances(masks, f"{video}/{n}")) for n in names]
        text = ",".join(row[2:]).strip()
        yield from ((text, video, frame, instance) for frame, found in held[video] if instance in found)


def _instances(masks: FileTree, name: str) -> set[int]:
    ids, _ = read_instances(masks.read(name), f"{masks.place}/{name}")
    return set(ids.tolist())


def _items(rows: list[Row], index: dict[str, int]) -> Iterator[Item]:
    seen: dict[tuple[str, str], int] = {}
    for text, video, frame, instance in rows:
        key = f"{frame:05d}_{instance}"
        again = seen[video, key] = seen.get((video, key), 0) + 1
        facts = Facts(frame=frame - 1, object=instance, image=f"v_{video}_f_{frame}_i_{instance}")
        yield Item(index[video], key if again == 1 else f"{key}_{again}", text, (instance,), (), facts)


def _frames(root: Path, split: str) -> FrameSource:
    for name in ("JPEGImages", "Release/JPEGImages", "Release/frames"):
        tree = open_tree(root, name)
        if tree is not None:
            return ImageFrames(tree)
    clips = next((root / name for name in ("Release/clips320H", "clips320H") if (root / name).is_dir()), None)
    if clips is None:
        raise Refused([missing(root / "Release" / "clips320H", "the mp4 files (or JPEGImages made from them)", split)])
    return FilmFrames(clips, first=1)


class A2DSentences(DiskData):
    """A2D-Sentences.

    Args:
        root: folder that holds Release, text_annotations and, if present, the prepared JSON files.
        train_split: "train", or None for none (likewise below).
        val_split: "test".
        test_split: "test".
        predict_split: "test".
        cache: where a list made from the text file is kept; None: beside it.
        kwargs: see `VideoData`.
    """

    opens = A2DReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = "test",
        test_split: Split | None = "test",
        predict_split: Split | None = "test",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, (train_split, val_split, test_split, predict_split), {"cache": cache}, **kwargs)
