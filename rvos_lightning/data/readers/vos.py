"""Data modules of DAVIS-2017, YouTube-VOS, MOSE and PUMaVOS."""

from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import Reader
from rvos_lightning.data.sources.png_masks import OtherSize


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
        kwargs: see `VideoDataModule`.
    """

    licence = "DAVIS: its own terms"

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
        super().__init__(root, train_split, val_split, test_split, predict_split, **kwargs)
        self.task, self.resolution = task, resolution
        self.other_size: OtherSize = other_size

    def open(self, split: str) -> Reader:
        """See `DiskData.open`."""
        from rvos_lightning.data.readers.davis import DAVISReader

        return DAVISReader(self.root, split, self.task, self.resolution, self.other_size)


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
        kwargs: see `VideoDataModule`.
    """

    licence = "YouTube-VOS: its own terms, research use"

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
        super().__init__(root, train_split, val_split, test_split, predict_split, **kwargs)
        self.all_frames, self.cache = all_frames, cache

    def open(self, split: str) -> Reader:
        """See `DiskData.open`."""
        from rvos_lightning.data.readers.youtube_vos import YouTubeVOSReader

        return YouTubeVOSReader(self.root, split, self.all_frames, self.cache)


class MOSE(DiskData):
    """MOSE v1 or v2, laid out as YouTube-VOS.

    Args:
        root: folder that holds train and valid.
        train_split: "train", or None for none (likewise below).
        val_split: only `train` has public masks beyond the first frame; None by default.
        test_split: likewise.
        predict_split: "valid" for the server.
        cache: where the index of objects is kept; None: beside the masks.
        kwargs: see `VideoDataModule`.
    """

    licence = "MOSE: CC BY-NC-SA 4.0"

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        predict_split: str | None = "valid",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, train_split, val_split, test_split, predict_split, **kwargs)
        self.cache = cache

    def open(self, split: str) -> Reader:
        """See `DiskData.open`."""
        from rvos_lightning.data.readers.mose import MOSEReader

        return MOSEReader(self.root, split, self.cache)


class PUMaVOS(DiskData):
    """PUMaVOS: 24 videos without splits, parts of objects; used for evaluation.

    Args:
        root: folder that holds JPEGImages and Annotations.
        train_split: "all", or None for none (likewise below).
        val_split: "all".
        test_split: "all".
        predict_split: "all".
        cache: where the index of objects is kept; None: beside the masks.
        kwargs: see `VideoDataModule`.
    """

    licence = "PUMaVOS: CC BY 4.0"

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
        super().__init__(root, train_split, val_split, test_split, predict_split, **kwargs)
        self.cache = cache

    def open(self, split: str) -> Reader:
        """See `DiskData.open`."""
        from rvos_lightning.data.readers.pumavos import PUMaVOSReader

        return PUMaVOSReader(self.root, split, self.cache)
