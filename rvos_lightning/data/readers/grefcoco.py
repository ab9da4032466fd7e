"""gRefCOCO: sentences that mean several objects, or none."""

from pathlib import Path
from typing import Any

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import RECALLED, Count, DataError
from rvos_lightning.data.readers.coco_json import Instances
from rvos_lightning.data.readers.refer_reader import AnyTargetReader, Meaning, TextField, named_annotations
from rvos_lightning.metrics.images import GRefCOCO as Protocol

IMAGES = f"{RECALLED}; pictures as in RefCOCO"


class GRefCOCOReader(AnyTargetReader):
    """`<root>/{grefs(unc).json, instances.json}`; `ann_id` -1 means no target, several ids their union.

    Crowd annotations are left out; where only such remain the reference is damaged, not without target. Splits: train,
    val, testA, testB, or test for the last two.
    """

    protocol = Protocol
    counts = {
        "train": Count((), (209344,), RECALLED),
        "val": Count((1500,), (16870,), IMAGES),
        "testA": Count((750,), (18712,), IMAGES),
        "testB": Count((750,), (14933,), IMAGES),
    }

    folder, source = "grefcoco", "grefcoco"
    references = ("grefs(unc).json", "grefs(unc).p")

    def meaning(self, ref: dict[str, Any], instances: Instances, place: str) -> Meaning:
        """See `AnyTargetReader.meaning`."""
        named = tuple(number for number in named_annotations(ref) if number != -1)
        wanted = tuple(number for number in named if number not in instances.crowds)
        if named and not wanted:
            raise DataError(f"{place}: only crowd annotations are left of {list(named)}.")
        return Meaning(wanted)


class GRefCOCO(DiskData):
    """gRefCOCO.

    Args:
        root: folder that holds grefs(unc).json and instances.json.
        train_split: "train", or None for none (likewise below).
        val_split: "val".
        test_split: "testA", "testB", "test" (both), "val".
        predict_split: likewise.
        text: the sentence as typed or cleaned.
        images: folder of COCO train2014 pictures; None: looked for around `root`.
        cache: where converted files are kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = GRefCOCOReader

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = "val",
        test_split: str | None = "test",
        predict_split: str | None = "val",
        text: TextField = "raw",
        images: Path | None = None,
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root,
            (train_split, val_split, test_split, predict_split),
            {"text": text, "images": images, "cache": cache},
            **kwargs,
        )
