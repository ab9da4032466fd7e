"""Ref-YouTube-VOS: expressions for YouTube-VOS at 6 frames a second, masks as palette PNGs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import require
from rvos_lightning.data.readers.expressions import Entry, read_expressions, table
from rvos_lightning.data.readers.file_reader import FileReader
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import missing, needed_tree
from rvos_lightning.data.readers.youtube_vos import Meta, index_of, read_meta
from rvos_lightning.data.sources.file_tree import FileTree, open_tree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.png_masks import IdMaps, OtherSize
from rvos_lightning.metrics.expressions import RefYouTubeVOS as Protocol
from rvos_lightning.metrics.layouts import LAYOUTS

Split = Literal["train", "valid", "test"]

BOTH, VALID = 507, 202
"""Videos of the YouTube-VOS validation set, and those of them that the competition validated on; the other 305 are
its test split. Some downloads list all 507 under "valid"."""


class RefYouTubeVOSReader(FileReader):
    """`<root>/<split>/JPEGImages`, `<root>/train/Annotations`, `<root>/meta_expressions/<split>/meta_expressions.json`.

    `valid` is what its file lists minus what the test file lists. Neither `train/meta.json` (categories) nor the
    test file is required: both have been missing from the download page.
    """

    protocol, layout = Protocol, LAYOUTS["ref_youtube_vos"]
    licence = "Ref-YouTube-VOS: terms of YouTube-VOS, research use"
    counts = {"train": Count((3471,), (12913,)), "valid": Count((VALID,), (834,)), "test": Count((305,), ())}

    def __init__(self, root: Path | str, split: str, other_size: OtherSize = "error") -> None:
        """Reads the expressions.

        Raises:
            Refused: frames or masks are missing, or the 202 videos of `valid` cannot be told from 507.
        """
        root = Path(root)
        path = _expression_file(root, split)
        entries = read_expressions(path)
        if split == "valid":
            entries = without_test(entries, path, _expression_file(root, "test"))
        frames = ImageFrames(needed_tree(root, _frames_folder(root, split), split))
        masks = open_tree(root, f"{split}/Annotations")
        if masks is None and split == "train":
            raise Refused([missing(root / split / "Annotations", "the masks of split train", split)])
        meta = read_meta(root / split / "meta.json")
        items = list(_items(entries, path, meta, hidden=masks is None))
        videos = [Video(entry.id, entry.frames) for entry in entries]
        index = index_of(videos, meta) if meta else None
        truth = None if masks is None else MetaMasks(masks, other_size, index)
        super().__init__("ref_youtube_vos", split, videos, items, frames, truth, [path])


class MetaMasks(IdMaps):
    """Palette PNGs; `meta.json`, where it exists, tells which frames show an object."""

    def __init__(self, tree: FileTree, other: OtherSize, index: LabelIndex | None) -> None:
        """`index`: None where there is no `meta.json`."""
        super().__init__(tree, "all", other)
        self.index = index

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"] | None:
        """See `MaskSource.visible`; None also for an object that `meta.json` does not list."""
        if self.index is None or not item.objects:
            return None
        shown = self.index.shows(item.video, [int(each) for each in item.objects])
        return shown if shown.any() else None


def without_test(entries: list[Entry], path: Path, test: Path) -> list[Entry]:
    """The videos of `valid` that are not in the test file.

    Raises:
        Refused: 507 videos are listed and there is no test file, or other than 202 remain.
    """
    others = {entry.id for entry in read_expressions(test)} if test.is_file() else set()
    kept = [entry for entry in entries if entry.id not in others]
    if len(entries) == BOTH and len(kept) != VALID:
        have = f"has {len(others)} videos, which leaves {len(kept)}" if others else "is missing"
        remedy = (
            f"Put the test expressions at {test} (they are subtracted), or replace the valid file by one that lists "
            f"the {VALID} videos only."
        )
        what = f"lists {BOTH} videos, of which {VALID} are validation; {test.name} of the test split {have}"
        raise Refused([Problem(str(path), what, remedy, ("validate", "submit"))])
    return kept


def _expression_file(root: Path, split: str) -> Path:
    return root / "meta_expressions" / split / "meta_expressions.json"


def _frames_folder(root: Path, split: str) -> str:
    # the test videos are part of the validation archive of YouTube-VOS
    own = f"{split}/JPEGImages"
    return "valid/JPEGImages" if split == "test" and open_tree(root, own) is None else own


def _items(entries: list[Entry], path: Path, meta: Meta, hidden: bool) -> Iterator[Item]:
    for index, entry, key, expression, place in table(entries, path):
        if "obj_id" not in expression:
            yield Item(index, key, expression["exp"])
            continue
        label = str(require(expression, "obj_id", (str, int), place))
        if not label.isdecimal() or int(label) < 1:
            raise DataError(f"{place}: field 'obj_id' must be an object number from 1, found {label!r}.")
        category, _ = meta.get((entry.id, int(label)), (None, []))
        facts = Facts(int(label), category=category)
        yield Item(index, key, expression["exp"], None if hidden else (int(label),), (), facts)


class RefYouTubeVOS(DiskData):
    """Ref-YouTube-VOS.

    Args:
        root: folder that holds train, valid, meta_expressions.
        train_split: "train", or None for none (likewise below).
        val_split: needs the masks of valid that the author released later as valid/Annotations.
        test_split: likewise.
        predict_split: "valid" for the server's 202 videos.
        other_size: what to do with a mask that is not of its frame's size.
        kwargs: see `VideoData`.
    """

    opens = RefYouTubeVOSReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = None,
        test_split: Split | None = None,
        predict_split: Split | None = "valid",
        other_size: OtherSize = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, (train_split, val_split, test_split, predict_split), {"other_size": other_size}, **kwargs
        )
