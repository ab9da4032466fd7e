"""PUMaVOS: partial and unusual masks, 24 videos without splits."""

from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import Count
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import needed_tree
from rvos_lightning.data.readers.vos_reader import VosReader, list_videos, suffix_of
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.objects import SAV


class PUMaVOSReader(VosReader):
    """`<root>/{JPEGImages,Annotations}/<video>`, every frame annotated."""

    protocol, layout, licence = SAV, LAYOUTS["sav"], "PUMaVOS: CC BY 4.0"
    counts = {"all": Count((24,), (26,), "the data set's page; SAM 2 counts 26 masklets")}

    def __init__(self, root: Path | str, split: str = "all", cache: Path | None = None) -> None:
        """Lists videos and objects; the first time reads all masks for their labels."""
        frames = needed_tree(Path(root), "JPEGImages", "val")
        masks = needed_tree(Path(root), "Annotations", "val", "the masks")
        videos = list_videos(frames, masks)
        index = LabelIndex.of_files(videos, masks, cache)
        super().__init__("pumavos", split, videos, frames, masks, index, suffix=suffix_of(frames, videos))


class PUMaVOS(DiskData):
    """PUMaVOS: 24 videos without splits, parts of objects; used for evaluation.

    Args:
        root: folder that holds JPEGImages and Annotations.
        train_split: "all", or None for none (likewise below).
        val_split: "all".
        test_split: "all".
        predict_split: "all".
        cache: where the index of objects is kept; None: beside the masks.
        kwargs: see `VideoData`.
    """

    opens = PUMaVOSReader

    def __init__(
        self,
        root: Path | str,
        train_split: Literal["all"] | None = None,
        val_split: Literal["all"] | None = "all",
        test_split: Literal["all"] | None = "all",
        predict_split: Literal["all"] | None = "all",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, (train_split, val_split, test_split, predict_split), {"cache": cache}, **kwargs)
