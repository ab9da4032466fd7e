"""MOSE v1 and v2."""

from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import RECALLED, Count
from rvos_lightning.data.readers.youtube_vos import YouTubeVOSReader
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.mose import MOSEv2
from rvos_lightning.metrics.objects import DAVISSemi


class MOSEReader(YouTubeVOSReader):
    """The layout of YouTube-VOS; `valid` has the first frame's masks only, the rest is on the server."""

    layout, licence = LAYOUTS["mose"], "MOSE: CC BY-NC-SA 4.0"
    counts = {"train": Count((1507,), (), f"v1, {RECALLED}"), "valid": Count((311,), (), f"v1, {RECALLED}")}

    def __init__(self, root: Path | str, split: str, version: int = 1, cache: Path | None = None) -> None:
        """Lists videos and objects; `version` chooses the protocol (v1 scores as DAVIS)."""
        self.protocol = DAVISSemi if version == 1 else MOSEv2
        self.counts = MOSEReader.counts if version == 1 else {}
        super().__init__(root, split, False, cache, name="mose")


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
        kwargs: see `VideoDataModule`.
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
