"""MOSE v1 and v2."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, blocks_of, refuse_if
from rvos_lightning.data.reader import RECALLED, Count, DataError
from rvos_lightning.data.readers.annotation_files import read_json, require
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import needed_tree
from rvos_lightning.data.readers.vos_reader import VosReader, list_videos
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.mose import MOSEv2
from rvos_lightning.metrics.objects import DAVISSemi

V2 = "the data set's paper, v2 (arXiv 2508.05630)"

COUNTS = {
    1: {"train": Count((1507,), (), f"v1, {RECALLED}"), "valid": Count((311,), (), f"v1, {RECALLED}")},
    2: {"train": Count((3666,), (), V2), "valid": Count((433,), (), V2), "test": Count((614,), (), V2)},
}


class Meta(NamedTuple):
    """What a meta file says of a video."""

    length: int
    size: tuple[int, int]
    objects: tuple[int, ...]


class MOSEReader(VosReader):
    """`<root>/<split>/{JPEGImages,Annotations}/<video>`; outside `train` only the first frame's masks are public.

    v2's `meta_<split>.json` (beside the splits, or as `meta.json` inside) gives each video's length, size and objects;
    it is not required, and what it says is compared with the files.
    """

    layout, licence = LAYOUTS["mose"], "MOSE: CC BY-NC-SA 4.0"
    counts = COUNTS[1]

    def __init__(self, root: Path | str, split: str, version: int = 1, cache: Path | None = None) -> None:
        """Lists videos and objects; `version` chooses protocol and counts (v1 scores as DAVIS).

        Raises:
            Refused: files are missing, or a video has fewer frames than its meta says.
        """
        self.protocol, self.counts = DAVISSemi if version == 1 else MOSEv2, COUNTS[version]
        root = Path(root)
        frames = needed_tree(root, f"{split}/JPEGImages", split)
        masks = needed_tree(root, f"{split}/Annotations", split, "the masks")
        self.meta_file, self.meta = _read_meta(root, split)
        videos = list_videos(frames, masks)
        refuse_if(
            Problem(
                f"{frames.place}/{video.id}",
                f"{len(video.frames)} frames; {self.meta_file.name} says {self.meta[video.id].length}",
                "Unpack the frames again.",
                blocks_of(split),
            )
            for video in videos
            if video.id in self.meta and len(video.frames) != self.meta[video.id].length
        )
        videos = [replace(v, size=self.meta[v.id].size) if v.id in self.meta else v for v in videos]
        index = LabelIndex.of_files(videos, masks, cache)
        public = "all" if split.startswith("train") else "first"
        super().__init__("mose", split, videos, frames, masks, index, public)
        self.files = (self.meta_file,) if self.meta else ()

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Objects and videos that the meta file names and the masks do not show, or the other way round."""
        yield from super().problems(fast)
        shown: dict[str, set[int]] = {}
        for item in self.items:
            shown.setdefault(self.videos[item.video].id, set()).add(int(item.id))
        for name, own in self.meta.items():
            if name not in shown:
                yield Problem(f"video {name}", f"{self.meta_file.name} names it, but it has no frames or masks", "")
            elif shown[name] != set(own.objects):
                what = f"masks show objects {sorted(shown[name])}, {self.meta_file.name} names {sorted(own.objects)}"
                yield Problem(f"video {name}", what, "The two files are of different releases.")


def _read_meta(root: Path, split: str) -> tuple[Path, dict[str, Meta]]:
    """The meta file and what it says; nothing where there is none.

    Raises:
        DataError: a field is missing or of the wrong kind.
    """
    places = [root / f"meta_{split}.json", root / split / f"meta_{split}.json", root / split / "meta.json"]
    path = next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        return path, {}
    meta = {}
    for name, record in require(read_json(path), "videos", dict, str(path)).items():
        place = f"{path}: video {name}"
        length, height, width = (require(record, field, int, place) for field in ("length", "height", "width"))
        labels = [str(label) for label in require(record, "objects", (list, dict), place)]  # ids, or records by id
        odd = next((label for label in labels if not label.isdecimal() or not 0 < int(label) < 255), None)
        if odd is not None or min(length, height, width) < 1:
            raise DataError(f"{place}: objects are numbers from 1 to 254, length and size at least 1. Get it again.")
        meta[name] = Meta(length, (height, width), tuple(map(int, labels)))
    return path, meta


class MOSE(DiskData):
    """MOSE v1 or v2, laid out as YouTube-VOS.

    Args:
        root: folder that holds train and valid.
        train_split: "train", or None for none (likewise below).
        val_split: only `train` has public masks beyond the first frame; None by default.
        test_split: likewise.
        predict_split: "valid" for the server.
        version: 1 scores as DAVIS does, 2 with its own smoothed J and adaptive F.
        cache: where the index of objects is kept; None: beside the masks.
        kwargs: see `VideoData`.
    """

    opens = MOSEReader

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        predict_split: str | None = "valid",
        version: Literal[1, 2] = 1,
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, (train_split, val_split, test_split, predict_split), {"version": version, "cache": cache}, **kwargs
        )
