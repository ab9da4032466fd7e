"""ReVOS: referring, reasoning and unanswerable expressions on videos of six data sets; video ids hold slashes."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused, refuse_if
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import JsonStream, require
from rvos_lightning.data.readers.expressions import Entry, annotation_ids, read_expressions, table, track_problems
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
from rvos_lightning.data.readers.layout import missing, needed_tree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.rle import union_into
from rvos_lightning.data.sources.rle_store import RleStore, Track, stored
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.revos import ReVOS as Protocol

Split = Literal["train", "valid"]

FOREGROUND = "mask_dict_foreground.json"

KINDS = ("referring", "reasoning", "no_target")
"""What `type_id` 0, 1, 2 mean; scores are kept apart by it."""


class ReVOSReader(FileReader):
    """`<root>/{JPEGImages, meta_expressions_<split>_.json, mask_dict.json}`; both splits share the masks.

    Users report masks of TAO and some UVO videos that belong to other frames; `exclude` leaves such videos out.
    """

    protocol, layout, licence = Protocol, LAYOUTS["revos"], "ReVOS: CC BY-NC-SA 4.0"
    counts = {"train": Count((626,), ()), "valid": Count((416,), ())}

    def __init__(self, root: Path | str, split: str, exclude: Sequence[str] = (), cache: Path | None = None) -> None:
        """Reads the expressions and maps the masks; `exclude` holds video ids or patterns ("TAO/*").

        Raises:
            Refused: files are missing, or masks do not belong to the expressions.
        """
        self.root, self.cache = Path(root), cache
        path = self.root / f"meta_expressions_{split}_.json"
        entries = [e for e in read_expressions(path) if not any(fnmatch(e.id, pattern) for pattern in exclude)]
        frames = ImageFrames(needed_tree(self.root, "JPEGImages", split))
        items = list(_items(entries, path))
        masks = self.root / "mask_dict.json"
        if not masks.is_file():
            raise Refused([missing(masks, "the masks of all expressions", split)])
        store = stored([masks], lambda: (Track(*pair) for pair in JsonStream(masks).members()), cache)
        videos = [_video(entry, path) for entry in entries]
        refuse_if(track_problems(videos, items, store, split))
        super().__init__("revos", split, videos, items, frames, StoredMasks(store), [path, masks])
        self._foreground: RleStore | None = None
        self.besides = ("foreground", "multiplicity") if (self.root / FOREGROUND).is_file() else ("multiplicity",)

    def read_beside(self, name: str, item: int, positions: Sequence[int]) -> Tensor:
        """All foreground of the frames, which the robustness score R divides by; or annotations per pixel.

        Raises:
            DataError: the video is missing in `mask_dict_foreground.json`.
        """
        video = self.items[item].video
        if name == "multiplicity":
            return self._multiplicity(item, positions)
        if self._foreground is None:
            path = self.root / FOREGROUND
            self._foreground = stored([path], lambda: _foreground(path), self.cache)
        name = self.videos[video].id
        row = int(self._foreground.rows([name])[0])
        if row < 0:
            raise DataError(f"{self.root / 'mask_dict_foreground.json'}: no video {name}; R cannot be computed.")
        masks = np.empty((len(positions), *self.size(video)), np.uint8)
        for index, position in enumerate(positions):
            union_into(self._foreground.masks([row], position), masks[index])
        return torch.from_numpy(masks).view(torch.bool)

    def _multiplicity(self, item: int, positions: Sequence[int]) -> UInt8[Tensor, "time height width"]:
        wanted = self.items[item]
        rows = self.truth.rows(self.videos[wanted.video], wanted)
        times = np.zeros((len(positions), *self.size(wanted.video)), np.uint8)
        for row in rows:
            one = np.empty_like(times[0])
            for index, position in enumerate(positions):
                union_into(self.truth.store.masks([row], position), one)
                times[index] += one
        return torch.from_numpy(times)

    def problems(self, fast: bool) -> Iterator[Problem]:
        """The sources with known misalignment, and whether R can be computed."""
        suspect = sorted(v.id for v in self.videos if v.id.split("/")[0].upper() in ("TAO", "UVO"))
        if suspect:
            remedy = 'Look at some masks over their frames; leave videos out with `exclude: ["TAO/*"]`.'
            what = f"{len(suspect)} videos come from TAO or UVO, whose masks are reported to lie on other frames"
            yield Problem(suspect[0], what, remedy)
        path = self.root / FOREGROUND
        if not path.is_file():
            yield Problem(str(path), "missing: the robustness score R cannot be computed", "J and F do not need it.")


def _foreground(path: Path) -> Iterator[Track]:
    for name, record in JsonStream(path).members():
        yield Track(name, require(record, "masks_rle", list, f"{path}: video {name}"))


def _video(entry: Entry, path: Path) -> Video:
    place = f"{path}: video {entry.id}"
    size = tuple(int(require(entry.record, side, (int, float), place)) for side in ("height", "width"))
    return Video(entry.id, entry.frames, (size[0], size[1]))


def _items(entries: list[Entry], path: Path) -> Iterator[Item]:
    for index, _, key, expression, place in table(entries, path):
        number = require(expression, "type_id", int, place)
        if not 0 <= number < len(KINDS):
            raise DataError(f"{place}: field 'type_id' must be 0, 1 or 2, found {number}.")
        objects = annotation_ids(expression, place)
        yield Item(index, key, expression["exp"], objects, (KINDS[number],), Facts(kind=KINDS[number]))


class ReVOS(DiskData):
    """ReVOS.

    Args:
        root: folder that holds JPEGImages and the annotation files.
        train_split: "train", or None for none (likewise below).
        val_split: "valid".
        test_split: "valid".
        predict_split: "valid".
        exclude: video ids, or patterns such as "TAO/*", to leave out.
        cache: where the mask store is kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = ReVOSReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = "valid",
        test_split: Split | None = "valid",
        predict_split: Split | None = "valid",
        exclude: list[str] | None = None,
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root,
            (train_split, val_split, test_split, predict_split),
            {"exclude": exclude or [], "cache": cache},
            **kwargs,
        )
