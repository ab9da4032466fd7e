"""LVOS v1 and v2: long videos at six frames a second, objects that come late and go."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import read_json, read_text, require
from rvos_lightning.data.readers.file_reader import Masks
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import needed_file, needed_tree
from rvos_lightning.data.readers.vos_reader import IndexedMaps, Public, VosReader, list_videos
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import Size
from rvos_lightning.data.sources.png_masks import OtherSize
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.objects import LVOS as Protocol

FOLDERS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
UNSEEN = "unseen_videos.txt"
STRIDE = 5  # video frames from one annotated frame to the next


class Span(NamedTuple):
    """Numbers of the frames that an object is annotated on: `range(start, end, STRIDE)`, of which there are `count`."""

    start: int
    end: int
    count: int


Spans = Mapping[tuple[str, int], Span]  # (video, object)


class LVOSReader(VosReader):
    """`<root>/{train,val,test}/{JPEGImages,Annotations}/<video>/%08d.{jpg,png}` and `<split>_meta.json` beside them.

    The meta file gives each object's range of frames; only those are annotated for it. Which videos show categories
    that training does not know stands in `unseen_videos.txt` (of the evaluation program, beside the splits); without it
    there is one score for all. Masks of `test` are hidden but for each object's first.
    """

    layout = LAYOUTS["lvos"]
    licence = "LVOS: CC BY-NC-SA 4.0 (non-commercial research), recalled; see its page"
    counts = {
        "train": Count((120, 420), (), "the data set's papers, v1 and v2"),
        "val": Count((50, 140), (), "the data set's papers, v1 and v2"),
        "test": Count((50, 160), (), "the data set's papers, v1 and v2"),
    }

    def __init__(self, root: Path | str, split: str, cache: Path | None = None) -> None:
        """Lists videos and objects; the first time reads all masks for their labels.

        Raises:
            Refused: files are missing.
            DataError: the meta file names an object or frame that is not there.
        """
        root = Path(root)
        folder = next((name for name in FOLDERS[split] if (root / name).exists()), split)
        frames = needed_tree(root, f"{folder}/JPEGImages", split)
        masks = needed_tree(root, f"{folder}/Annotations", split, "the masks")
        self.meta = needed_file(root, _meta_names(folder), split, "the ranges of objects")
        self.spans = spans = read_spans(self.meta)
        videos = list_videos(frames, masks)
        odd = next((f"{v.id}/{frame}" for v in videos for frame in v.frames if not frame.isdecimal()), None)
        if odd is not None:
            raise DataError(f"{frames.place}/{odd}: frames of LVOS are numbers, as the ranges of objects count them.")
        labels = [sorted(label for name, label in spans if name == video.id) for video in videos]
        self.lost = sorted({name for name, _ in spans} - {video.id for video in videos})
        unseen = set(read_text(root / UNSEEN).split()) if (root / UNSEEN).is_file() else None
        seen = None if unseen is None else [video.id not in unseen for video in videos]
        self.protocol = partial(Protocol, unseen is not None)
        index = LabelIndex.of_files(videos, masks, cache)
        public = "first" if split == "test" else "some"
        truth = RangedMaps(masks, index, spans, public)
        super().__init__("lvos", split, videos, frames, masks, index, public, labels, seen=seen, truth=truth)
        self.files = (self.meta,)

    def problems(self, fast: bool) -> Iterator[Problem]:
        """No list of unseen videos; ranges that other frames than the video's belong to; videos without frames."""
        yield from super().problems(fast)
        if not self.protocol().unseen:
            remedy = "Put that of LVOS's evaluation program beside the splits; scores are not official without."
            yield Problem(UNSEEN, "missing: seen and unseen videos cannot be told apart", remedy)
        for name in self.lost:
            yield Problem(f"{self.meta}: video {name}", "no frames or masks of it", "Unpack again.", ("validate",))
        for (name, label), span in self.spans.items():
            listed = len(range(span.start, span.end, STRIDE))
            if listed != span.count:
                what = f"frame_range of object {label} lists {listed} frames, frame_nums says {span.count}"
                yield Problem(f"{self.meta}: video {name}", what, "The official program divides by frame_nums.")


class RangedMaps(IndexedMaps):
    """Object maps; a frame is annotated for an object within the object's range only."""

    def __init__(
        self, tree: FileTree, index: LabelIndex, spans: Spans, public: Public, other: OtherSize = "error"
    ) -> None:
        """`spans`: by video and object."""
        super().__init__(tree, index, public, other)
        self.spans = dict(spans)

    def inside(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"]:
        """Frames of the video that belong to the item's range."""
        numbers, span = np.array([int(frame) for frame in video.frames]), self.spans[video.id, int(item.objects[0])]
        return (span.start <= numbers) & (numbers < span.end) & ((numbers - span.start) % STRIDE == 0)

    def read_all(self, video: Video, items: Sequence[Item], positions: Sequence[int], size: Size) -> list[Masks]:
        """See `MaskSource.read_all`."""
        truths = super().read_all(video, items, positions, size)
        for item, (_, annotated) in zip(items, truths, strict=True):
            annotated &= torch.from_numpy(self.inside(video, item)[list(positions)])
        return truths

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"]:
        """See `MaskSource.visible`."""
        return super().visible(video, item) & self.inside(video, item)

    def missing(self, video: Video) -> list[str]:
        """See `MaskSource.missing`: frames in the range of any object."""
        if self.public == "first":
            return []
        own = [span for (name, _), span in self.spans.items() if name == video.id]
        wanted = {number for span in own for number in range(span.start, span.end, STRIDE)}
        there = set(self.tree.names(video.id))
        names = [f"{frame}.png" for frame in video.frames if frame.isdecimal() and int(frame) in wanted]
        return [f"{video.id}/{name}" for name in names if name not in there]


def read_spans(path: Path) -> Spans:
    """Frame ranges of all objects of a meta file.

    Raises:
        DataError: a field is missing or of the wrong kind.
    """
    spans: dict[tuple[str, int], Span] = {}
    for video, record in require(read_json(path), "videos", dict, str(path)).items():
        for label, facts in require(record, "objects", dict, f"{path}: video {video}").items():
            place = f"{path}: video {video}, object {label}"
            if not label.isdecimal() or not 0 < int(label) < 255:
                raise DataError(f"{place}: no number of a palette mask (1 to 254).")
            frames = require(facts, "frame_range", dict, place)
            numbers = [_number(frames, name, place) for name in ("start", "end", "frame_nums")]
            spans[video, int(label)] = Span(*numbers)
    return spans


def _number(record: dict[str, Any], field: str, place: str) -> int:
    """A whole number, which the files also write as text."""
    value = require(record, field, (int, str), f"{place}, frame_range")
    if not str(value).isdecimal():
        raise DataError(f"{place}, frame_range: field {field!r} must be a number from 0, found {str(value)[:40]!r}.")
    return int(value)


def _meta_names(folder: str) -> tuple[str, ...]:
    other = {"val": "valid", "valid": "val"}.get(folder, folder)
    return tuple(f"{place}{name}_meta.json" for place in (f"{folder}/", "") for name in (folder, other))


class LVOS(DiskData):
    """LVOS v1 or v2.

    Args:
        root: folder that holds train, val, test, and `unseen_videos.txt` of the evaluation program.
        train_split: "train", "val", or None for none (likewise below).
        val_split: likewise.
        test_split: likewise.
        predict_split: "test" for the server.
        cache: where the index of objects is kept; None: beside the masks.
        kwargs: see `VideoData`.
    """

    opens = LVOSReader

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = "val",
        test_split: str | None = "val",
        predict_split: str | None = "test",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, (train_split, val_split, test_split, predict_split), {"cache": cache}, **kwargs)
