"""DAVIS-2017, semi-supervised and unsupervised."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import Count
from rvos_lightning.data.readers.annotation_files import read_text
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import needed_file, needed_tree
from rvos_lightning.data.readers.vos_reader import VosReader, list_videos
from rvos_lightning.data.sources.image_files import decode_ids
from rvos_lightning.data.sources.png_masks import VOID, OtherSize
from rvos_lightning.metrics.assigned import DAVISUnsupervised
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.objects import DAVISSemi

ANNOTATIONS = {"semi-supervised": "Annotations", "unsupervised": "Annotations_unsupervised"}
YEARS = ("2017", "2019")  # the 2019 lists hold the unsupervised test sets


class DAVISReader(VosReader):
    """`<root>/{JPEGImages,Annotations}/480p/<video>`; objects are 1 to the largest label of the FIRST frame.

    So the official evaluator counts them: an object that appears later under a larger number does not exist. 255 is
    void and belongs to no object.
    """

    layout, licence = LAYOUTS["davis"], "DAVIS: its own terms"
    counts = {
        "train": Count((60,), ()),
        "val": Count((30,), (61,)),
        "test-dev": Count((30,), ()),
        "test-challenge": Count((30,), ()),
    }

    def __init__(
        self,
        root: Path | str,
        split: str,
        task: str = "semi-supervised",
        resolution: str = "480p",
        other_size: OtherSize = "error",
    ) -> None:
        """Reads the list of videos and their first masks; test splits have no others."""
        root = Path(root)
        lists = tuple(f"ImageSets/{year}/{split}.txt" for year in YEARS)
        names = read_text(needed_file(root, lists, split, "the list of videos")).split()
        frames = needed_tree(root, f"JPEGImages/{resolution}", split)
        masks = needed_tree(root, f"{ANNOTATIONS[task]}/{resolution}", split, f"the masks of the {task} release")
        videos = list_videos(frames, names=names)
        counts = []
        for video in videos:
            name = f"{video.id}/{video.frames[0]}.png"
            ids = decode_ids(masks.read(name), f"{masks.place}/{name}")
            counts.append(int(np.max(ids, where=ids != VOID, initial=0)))
        labels = [list(range(1, count + 1)) for count in counts]
        first = {(v.id, k): v.frames[:1] for v, own in zip(videos, labels, strict=True) for k in own}
        self.protocol = DAVISSemi if task == "semi-supervised" else DAVISUnsupervised
        self.besides = () if task == "semi-supervised" else ("void",)
        public = "first" if split.startswith("test") else "all"
        index = LabelIndex.of_lists(videos, first)
        super().__init__("davis", split, videos, frames, masks, index, public, labels, other_size=other_size)

    def visible(self, item: int) -> None:
        """Unknown: only the first masks were looked at."""
        return None


class DAVIS(DiskData):
    """DAVIS-2017.

    Args:
        root: folder that holds JPEGImages, Annotations and ImageSets.
        train_split: "train", "val", "test-dev" or "test-challenge"; None for none (likewise below).
        val_split: likewise.
        test_split: likewise.
        predict_split: likewise.
        task: "semi-supervised" reads Annotations, "unsupervised" the re-annotated Annotations_unsupervised.
        resolution: "480p" or "Full-Resolution".
        other_size: what to do with a mask that is not of its frame's size.
        kwargs: see `VideoData`.
    """

    opens = DAVISReader

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = "val",
        test_split: str | None = "val",
        predict_split: str | None = "val",
        task: Literal["semi-supervised", "unsupervised"] = "semi-supervised",
        resolution: Literal["480p", "Full-Resolution"] = "480p",
        other_size: OtherSize = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root,
            (train_split, val_split, test_split, predict_split),
            {"task": task, "resolution": resolution, "other_size": other_size},
            **kwargs,
        )
