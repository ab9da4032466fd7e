"""PUMaVOS: partial and unusual masks, 24 videos without splits."""

from pathlib import Path

from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import needed_tree
from rvos_lightning.data.readers.vos_reader import VosReader, list_videos, suffix_of


class PUMaVOSReader(VosReader):
    """`<root>/{JPEGImages,Annotations}/<video>`, every frame annotated."""

    def __init__(self, root: Path | str, split: str = "all", cache: Path | None = None) -> None:
        """Lists videos and objects; the first time reads all masks for their labels."""
        frames = needed_tree(Path(root), "JPEGImages", "val")
        masks = needed_tree(Path(root), "Annotations", "val", "the masks")
        videos = list_videos(frames, masks)
        index = LabelIndex.of_files(videos, masks, cache)
        super().__init__("pumavos", split, videos, frames, masks, index, suffix=suffix_of(frames, videos))
