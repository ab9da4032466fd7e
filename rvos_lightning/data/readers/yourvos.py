"""YoURVOS: untrimmed videos, in which the object of a sentence is there for some stretches only."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, refuse_if
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import require
from rvos_lightning.data.readers.expressions import Entry, read_expressions, table
from rvos_lightning.data.readers.file_reader import FileReader
from rvos_lightning.data.readers.layout import needed_tree
from rvos_lightning.data.readers.long_rvos import without_masks
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import ImageFrames, Size
from rvos_lightning.data.sources.png_masks import BinaryFolders, OtherSize
from rvos_lightning.metrics.expressions import YoURVOS as Protocol
from rvos_lightning.metrics.layouts import LAYOUTS

Split = Literal["train", "test"]

STRIDE = 5  # video frames from one listed frame to the next


class YoURVOSReader(FileReader):
    """`<root>/<split>/{JPEGImages/<video>, Annotations/<video>/<expression>/<frame>.png}` and
    `<root>/meta_expressions/<split>/meta_expressions.json`.

    An expression's `span` lists the first and last frame number of each stretch that shows its object; mask files,
    whose pixels hold the object's number, lie in those stretches. Every frame is annotated: one without a file does
    not show the object.
    """

    protocol, layout = Protocol, LAYOUTS["yourvos"]
    licence = "YoURVOS: terms not stated by its authors; videos of YouTube"
    counts = {"test": Count((120,), (489,), "the list of spans of its evaluation program")}

    def __init__(self, root: Path | str, split: str, other_size: OtherSize = "error") -> None:
        """Reads the expressions.

        Raises:
            Refused: files are missing, or an expression has no masks.
        """
        root = Path(root)
        frames = needed_tree(root, f"{split}/JPEGImages", split)
        masks = needed_tree(root, f"{split}/Annotations", split, "the masks")
        path = root / "meta_expressions" / split / "meta_expressions.json"
        entries = read_expressions(path)
        self.strays: list[Problem] = []
        items = [self._item(*each) for each in table(entries, path)]
        videos = [Video(entry.id, entry.frames) for entry in entries]
        refuse_if(without_masks(videos, items, masks, split))
        truth = SpanMasks(masks, other_size)
        super().__init__("yourvos", split, videos, items, ImageFrames(frames), truth, [path])

    def _item(self, index: int, entry: Entry, key: str, expression: dict[str, Any], place: str) -> Item:
        label = str(require(expression, "obj_id", (int, str), place))
        if not label.isdecimal() or not 0 < int(label) < 255:
            raise DataError(f"{place}: field 'obj_id' must be an object number from 1, found {label[:40]!r}.")
        spans = list(self._spans(expression, entry, place))
        # masks lie in a folder of the expression, which `objects` therefore names
        return Item(index, key, expression["exp"], (key,), (), Facts(int(label), spans=tuple(spans)))

    def _spans(self, expression: dict[str, Any], entry: Entry, place: str) -> Iterator[tuple[int, int]]:
        """Spans as positions of frames; of those that reach beyond the video, what lies in it."""
        where = {int(frame): position for position, frame in enumerate(entry.frames) if frame.isdecimal()}
        for span in require(expression, "span", list, place):
            pair = isinstance(span, list) and [type(number) for number in span] == [int, int]
            if not pair or not 0 <= span[0] <= span[1]:
                what = f"must hold pairs of frame numbers, first and last, found {str(span)[:40]}"
                raise DataError(f"{place}: field 'span' {what}.")
            inside = [where[number] for number in range(span[0], span[1] + 1, STRIDE) if number in where]
            if len(inside) != len(range(span[0], span[1] + 1, STRIDE)):
                what = f"span {span} holds frames that are not among the video's"
                self.strays.append(Problem(place, what, "tIoU is counted over the frames that there are."))
            if inside:
                yield inside[0], inside[-1]

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Spans that reach beyond their video."""
        yield from self.strays


class SpanMasks(BinaryFolders):
    """`<video>/<expression>/<frame>.png` with the object's number inside; no file, no object."""

    def __init__(self, tree: FileTree, other: OtherSize = "error") -> None:
        """PNG files of `tree`."""
        super().__init__(tree, other, "all")

    def inside(self, ids: UInt8[np.ndarray, "height width"], item: Item) -> Bool[np.ndarray, "height width"]:
        """See `BinaryFolders.inside`."""
        return ids == item.facts.object

    def check_video(self, video: Video, items: Sequence[Item], size: Size, fast: bool) -> Iterator[Problem]:
        """See `MaskSource.check_video`; also frames of a span that have no mask file."""
        for item in items:
            there = self.visible(video, item)
            said = [p for first, last in item.facts.spans or () for p in range(first, last + 1)]
            lost = [video.frames[position] for position in said if not there[position]]
            if lost:
                what = f"{len(lost)} of {len(said)} frames of its spans have no mask file, the first: {lost[0]}"
                yield Problem(f"video {video.id}, item {item.id}", what, "They count as empty; unpack the masks again.")
        yield from super().check_video(video, items, size, fast)


class YoURVOS(DiskData):
    """YoURVOS.

    Args:
        root: folder that holds train, test, meta_expressions.
        train_split: "train", or None for none (likewise below); it may not be released.
        val_split: "test".
        test_split: "test".
        predict_split: "test".
        other_size: what to do with a mask that is not of its frame's size.
        kwargs: see `VideoData`.
    """

    opens = YoURVOSReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = None,
        val_split: Split | None = "test",
        test_split: Split | None = "test",
        predict_split: Split | None = "test",
        other_size: OtherSize = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, (train_split, val_split, test_split, predict_split), {"other_size": other_size}, **kwargs
        )
