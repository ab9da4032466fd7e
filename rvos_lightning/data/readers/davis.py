"""DAVIS-2017, semi-supervised and unsupervised."""

from pathlib import Path

import numpy as np

from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import needed_file, needed_tree
from rvos_lightning.data.readers.vos_reader import VosReader, list_videos
from rvos_lightning.data.sources.image_files import decode_ids
from rvos_lightning.data.sources.png_masks import VOID, OtherSize

ANNOTATIONS = {"semi-supervised": "Annotations", "unsupervised": "Annotations_unsupervised"}
YEARS = ("2017", "2019")  # the 2019 lists hold the unsupervised test sets


class DAVISReader(VosReader):
    """`<root>/{JPEGImages,Annotations}/480p/<video>`; objects are 1 to the largest label of the FIRST frame.

    So the official evaluator counts them: an object that appears later under a larger number does not exist. 255 is
    void and belongs to no object.
    """

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
        names = needed_file(root, lists, split, "the list of videos").read_text().split()
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
        public = "first" if split.startswith("test") else "all"
        index = LabelIndex.of_lists(videos, first)
        super().__init__("davis", split, videos, frames, masks, index, public, labels, other_size=other_size)

    def visible(self, item: int) -> None:
        """Unknown: only the first masks were looked at."""
        return None
