"""Long-RVOS: minutes of video, objects that vanish and return, sentences of three types."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused, blocks_of, refuse_if
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import require, safe_path
from rvos_lightning.data.readers.expressions import Entry, read_expressions, table
from rvos_lightning.data.readers.file_reader import FileReader
from rvos_lightning.data.readers.layout import missing, needed_tree
from rvos_lightning.data.sources.file_tree import FileTree, open_tree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.png_masks import BinaryFolders, OtherSize
from rvos_lightning.metrics.expressions import LongRVOS as Protocol
from rvos_lightning.metrics.layouts import LAYOUTS

Split = Literal["train", "valid", "test"]

TYPES = {"static": "static", "dynamic": "dynamic", "static+dynamic": "hybrid", "hybrid": "hybrid"}
"""What a sentence speaks of (looks, motion, or both), and the name under which scores are kept apart by it."""


class LongRVOSReader(FileReader):
    """`<root>/<split>/{JPEGImages, Annotations/<video>/<object>/<frame>.png, meta_expressions.json}`.

    Every frame is annotated; one without a mask file does not show the object.
    """

    protocol, layout = Protocol, LAYOUTS["long_rvos"]
    licence = "Long-RVOS: Apache-2.0 as tagged where it is downloaded; code MIT"
    counts = {"train": Count((1855,), ()), "valid": Count((112,), ()), "test": Count((226,), ())}

    def __init__(self, root: Path | str, split: str, other_size: OtherSize = "error") -> None:
        """Reads the expressions.

        Raises:
            Refused: files are missing, or an object that a sentence means has no masks.
        """
        root = Path(root)
        frames = needed_tree(root, f"{split}/JPEGImages", split)
        path = root / split / "meta_expressions.json"
        entries = read_expressions(path)
        masks = open_tree(root, f"{split}/Annotations")
        if masks is None and split != "test":
            raise Refused([missing(root / split / "Annotations", f"the masks of split {split}", split)])
        items = list(_items(entries, path, hidden=masks is None))
        videos = [Video(entry.id, entry.frames) for entry in entries]
        if masks is not None:
            refuse_if(without_masks(videos, items, masks, split))
        truth = None if masks is None else BinaryFolders(masks, other_size, "all")
        super().__init__("long_rvos", split, videos, items, ImageFrames(frames), truth, [path])


def without_masks(videos: list[Video], items: list[Item], masks: FileTree, split: str) -> Iterator[Problem]:
    """Objects that sentences mean and that have no folder of masks."""
    meant: dict[int, dict[str, Item]] = {}
    for item in items:
        meant.setdefault(item.video, {}).update({str(each): item for each in item.objects or ()})
    for number, objects in meant.items():
        video = videos[number]
        for name in sorted(objects.keys() - set(masks.names(video.id))):
            place, what = f"{masks.place}/{video.id}/{name}", "missing: the masks of an object that sentences mean"
            yield Problem(place, what, "Unpack the masks again.", blocks_of(split)[:1])


def _items(entries: list[Entry], path: Path, hidden: bool) -> Iterator[Item]:
    for index, _, key, expression, place in table(entries, path):
        written = require(expression, "type", str, place)
        if written not in TYPES:
            raise DataError(f"{place}: field 'type' must be one of {', '.join(TYPES)}, found {written[:40]!r}.")
        kind = TYPES[written]
        label = str(require(expression, "obj_id", (int, str), place))
        if "/" in safe_path(label, place):
            raise DataError(f"{place}: field 'obj_id' must name a folder of masks, found {label[:40]!r}.")
        facts = Facts(int(label) if label.isdecimal() else None, kind=kind)
        yield Item(index, key, expression["exp"], None if hidden else (label,), (kind,), facts)


class LongRVOS(DiskData):
    """Long-RVOS.

    Args:
        root: folder that holds train, valid, test.
        train_split: "train", or None for none (likewise below).
        val_split: "valid".
        test_split: "test", or "valid".
        predict_split: likewise.
        other_size: what to do with a mask that is not of its frame's size.
        kwargs: see `VideoData`.
    """

    opens = LongRVOSReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = "valid",
        test_split: Split | None = "test",
        predict_split: Split | None = "test",
        other_size: OtherSize = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, (train_split, val_split, test_split, predict_split), {"other_size": other_size}, **kwargs
        )
