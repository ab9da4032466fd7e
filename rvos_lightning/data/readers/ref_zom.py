"""Ref-ZOM: sentences that mean zero, one or many objects."""

from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import RECALLED, Count, DataError
from rvos_lightning.data.readers.coco_json import Instances
from rvos_lightning.data.readers.refer_reader import AnyTargetReader, Meaning, TextField, named_annotations
from rvos_lightning.metrics.images import RefZOM as Protocol

Split = Literal["train", "test"]


class RefZOMReader(AnyTargetReader):
    """`<root>/{refs(final).p, instances.json}`, pictures of train2014 and val2014 merged in one folder.

    `source`, not `ann_id`, decides about no target: a reference of source "zero" still lists annotations.
    """

    protocol = Protocol
    counts = {"train": Count((43749,), (), RECALLED), "test": Count((11329,), (), RECALLED)}

    folder, source = "ref-zom", "ref_zom"
    references = ("refs(final).p", "refs(final).json")

    def meaning(self, ref: dict[str, Any], instances: Instances, place: str) -> Meaning:
        """See `AnyTargetReader.meaning`."""
        kind = ref.get("source")
        if not isinstance(kind, str):
            raise DataError(f"{place}: field 'source' is missing; it says what has no target.")
        return Meaning(() if kind == "zero" else named_annotations(ref), kind)


class RefZOM(DiskData):
    """Ref-ZOM.

    Args:
        root: folder that holds refs(final).p and instances.json.
        train_split: "train", or None for none (likewise below).
        val_split: "test".
        test_split: "test".
        predict_split: "test".
        text: the sentence as typed or cleaned.
        images: folder of COCO train2014 and val2014 pictures together; None: looked for around `root`.
        cache: where converted files are kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = RefZOMReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = "test",
        test_split: Split | None = "test",
        predict_split: Split | None = "test",
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
