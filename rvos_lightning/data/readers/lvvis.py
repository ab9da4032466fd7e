"""LV-VIS: tracks of 1,196 categories in the format of YouTube-VIS."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import JsonStream, require, safe_path
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
from rvos_lightning.data.readers.layout import needed_file, needed_tree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.rle_store import Track, stored
from rvos_lightning.metrics.expressions import JAndF
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.objects import SAV

Items = Literal["tracks", "categories"]
Split = Literal["train", "val", "test"]


class LVVISReader(FileReader):
    """`<root>/<split>/JPEGImages/<video>/%05d.jpg` and `<split>_instances.json`.

    Items are tracks, without expression; or, with `items` "categories", all tracks of a category in a video under its
    name as the expression (underscores to spaces), as VISA trains on it. `Facts.seen` tells base
    categories from novel ones.
    """

    layout, licence = LAYOUTS["sav"], "LV-VIS: CC BY-NC-SA 4.0"
    counts = {"train": Count((3083,), ()), "val": Count((837,), ()), "test": Count((908,), ())}

    def __init__(self, root: Path | str, split: str, items: Items = "tracks", cache: Path | None = None) -> None:
        """Reads videos and tracks; masks go to a store."""
        root = Path(root)
        frames = ImageFrames(needed_tree(root, f"{split}/JPEGImages", split))
        names = (f"{split}_instances.json", f"{split}/{split}_instances.json", f"{split}/instances.json")
        more = (f"annotations/{split}_instances.json", f"*{split}*.json", f"{split}/*.json")
        path = needed_file(root, (*names, *more), split, "the tracks")
        self.protocol = SAV if items == "tracks" else JAndF
        listing = _Listing(path)
        tracks = listing.tracks
        store = stored([path], lambda: _tracks(path, listing.order), cache) if tracks else None
        made = _category_items(listing) if items == "categories" else _track_items(listing)
        truth = None if store is None else StoredMasks(store)
        super().__init__("lvvis", split, listing.videos, made, frames, truth, [path])


class _Listing:
    """Everything but the masks: videos in file order, tracks as (annotation id, video index, category id)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.videos: list[Video] = []
        self.order: dict[int, list[int]] = {}
        self.index: dict[int, int] = {}
        self.tracks: list[tuple[int, int, int]] = []
        self.categories: dict[int, dict[str, Any]] = {}
        pending = []
        for key, value in JsonStream(path).members(("videos", "annotations", "categories")):
            if key == "videos":
                self._video(value)
            elif key == "categories":
                self.categories[require(value, "id", int, f"{path}: categories")] = value
            elif key == "annotations" and value is not None:
                place = f"{path}: annotations"
                pending.append(tuple(require(value, name, int, place) for name in ("id", "video_id", "category_id")))
        for number, video, category in pending:
            if video not in self.index:
                raise DataError(f"{path}: annotation {number}: field 'video_id' {video} is not among the videos.")
            self.tracks.append((number, self.index[video], category))

    def _video(self, record: dict[str, Any]) -> None:
        place = f"{self.path}: video {record.get('id')}"
        names = [PurePosixPath(safe_path(name, place)) for name in require(record, "file_names", list, place)]
        if not names or len({name.parent for name in names}) != 1:
            raise DataError(f"{place}: field 'file_names' must list the frames of one folder.")
        self.order[record["id"]] = sorted(range(len(names)), key=lambda i: names[i].stem)
        self.index[record["id"]] = len(self.videos)
        size = (int(require(record, "height", int, place)), int(require(record, "width", int, place)))
        self.videos.append(Video(names[0].parent.as_posix(), tuple(sorted(name.stem for name in names)), size))


def _tracks(path: Path, order: dict[int, list[int]]) -> Iterator[Track]:
    for key, value in JsonStream(path).members(("videos", "annotations", "categories")):
        if key == "annotations":
            masks = require(value, "segmentations", list, f"{path}: annotation {value['id']}")
            frames = order[value["video_id"]]
            if len(masks) != len(frames):
                raise DataError(f"{path}: annotation {value['id']}: {len(masks)} masks for {len(frames)} frames.")
            yield Track(str(value["id"]), [masks[i] for i in frames])


def _facts(listing: _Listing, category: int) -> Facts:
    record = listing.categories.get(category, {})
    seen = record["partition"] < 2 if "partition" in record else None  # 2 and above are novel categories
    return Facts(category=record.get("name", str(category)), seen=seen)


def _track_items(listing: _Listing) -> Iterator[Item]:
    for number, video, category in listing.tracks:
        yield Item(video, str(number), None, (number,), (), _facts(listing, category))


def _category_items(listing: _Listing) -> Iterator[Item]:
    members: dict[tuple[int, int], list[int]] = {}
    for number, video, category in listing.tracks:
        members.setdefault((video, category), []).append(number)
    for (video, category), numbers in sorted(members.items()):
        facts = _facts(listing, category)
        yield Item(video, str(category), str(facts.category).replace("_", " "), tuple(numbers), (), facts)


class LVVIS(DiskData):
    """LV-VIS.

    Args:
        root: folder that holds train, val, test and the annotation files.
        train_split: "train", or None for none (likewise below).
        val_split: "val".
        test_split: "val".
        predict_split: "test", whose masks only the server has.
        items: "tracks" for promptable systems, "categories" for referring ones.
        cache: where the mask store is kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = LVVISReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = "val",
        test_split: Split | None = "val",
        predict_split: Split | None = "test",
        items: Items = "tracks",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, (train_split, val_split, test_split, predict_split), {"items": items, "cache": cache}, **kwargs
        )
