"""YouTube-VOS 2018 and 2019."""

from pathlib import Path
from typing import Any

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import Count, DataError, Video
from rvos_lightning.data.readers.annotation_files import read_json, require
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import needed_tree
from rvos_lightning.data.readers.vos_reader import VosReader, list_videos
from rvos_lightning.data.sources.png_masks import OtherSize
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.objects import YouTubeVOS as Protocol

Meta = dict[tuple[str, int], tuple[str, list[str]]]  # (video, object) -> category, frames that show it


class YouTubeVOSReader(VosReader):
    """`<root>/<split>/{JPEGImages,Annotations}/<video>`; outside `train` only each object's first mask is public.

    Objects may appear late. `meta.json` saves reading all masks once, and is not required.
    """

    protocol, layout = Protocol, LAYOUTS["youtube_vos"]
    licence = "YouTube-VOS: its own terms, research use"
    counts = {
        "train": Count((3471,), ()),
        "valid": Count((474, 507), (), "the data set's page, 2018 and 2019"),
        "test": Count((508, 541), (), "the data set's page, 2018 and 2019"),
    }

    def __init__(
        self,
        root: Path | str,
        split: str,
        all_frames: bool = False,
        cache: Path | None = None,
        other_size: OtherSize = "error",
    ) -> None:
        """Lists videos and objects; `all_frames` takes frames from the 30 fps archive."""
        root = Path(root)
        folder = f"{split}_all_frames" if all_frames else split
        frames = needed_tree(root, f"{folder}/JPEGImages", split)
        masks = needed_tree(root, f"{split}/Annotations", split, "the masks")
        meta = read_meta(root / split / "meta.json")
        videos = list_videos(frames, masks)
        index = index_of(videos, meta) if meta and split == "train" else LabelIndex.of_files(videos, masks, cache)
        categories = {key: category for key, (category, _) in meta.items() if category}
        public = ("some" if all_frames else "all") if split.startswith("train") else "first"
        super().__init__(
            "youtube_vos", split, videos, frames, masks, index, public, None, categories, _trained_on(root),
            other_size=other_size,
        )  # fmt: skip


def _trained_on(root: Path) -> set[str] | None:
    """The categories that occur in training; None where `train/meta.json` is not there to tell."""
    return {category for category, _ in read_meta(root / "train" / "meta.json").values() if category} or None


def read_meta(path: Path) -> Meta:
    """`meta.json` by (video, object); empty where there is none."""
    if not path.is_file():
        return {}
    meta: Meta = {}
    for video, record in require(read_json(path), "videos", dict, str(path)).items():
        for label, facts in require(record, "objects", dict, f"{path}: video {video}").items():
            if not label.isdecimal() or not 0 < int(label) < 255:
                raise DataError(f"{path}: video {video}: object {label!r} is no number of a palette mask (1 to 254).")
            place = f"{path}: video {video}, object {label}"
            facts = require({label: facts}, label, dict, place)
            category = require(facts, "category", str, place) if facts.get("category") is not None else ""
            frames = require(facts, "frames", list, place) if facts.get("frames") is not None else []
            if not all(isinstance(frame, str) for frame in frames):
                raise DataError(f"{place}: field 'frames' must hold names of pictures, found {str(frames)[:40]}.")
            meta[video, int(label)] = category, frames
    return meta


def index_of(videos: list[Video], meta: Meta) -> LabelIndex:
    """The index that `meta.json` amounts to."""
    return LabelIndex.of_lists(videos, {key: frames for key, (_, frames) in meta.items()})


class YouTubeVOS(DiskData):
    """YouTube-VOS 2018 or 2019.

    Args:
        root: folder that holds train, valid, test.
        train_split: "train", or None for none (likewise below).
        val_split: only `train` has public masks beyond each object's first; None by default.
        test_split: likewise.
        predict_split: "valid" for the server.
        all_frames: read the 30 fps archives (`<split>_all_frames`); masks stay on every fifth frame.
        cache: where the index of objects is kept; None: beside the masks.
        kwargs: see `VideoData`.
    """

    opens = YouTubeVOSReader

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        predict_split: str | None = "valid",
        all_frames: bool = False,
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root,
            (train_split, val_split, test_split, predict_split),
            {"all_frames": all_frames, "cache": cache},
            **kwargs,
        )
