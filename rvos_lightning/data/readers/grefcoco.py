"""gRefCOCO: sentences that mean several objects, or none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import RECALLED, Count, DataError
from rvos_lightning.data.readers.coco_json import Instances, picture_tree
from rvos_lightning.data.readers.layout import needed_file
from rvos_lightning.data.readers.refer_pickle import read_refs
from rvos_lightning.data.readers.refer_reader import ReferReader, Sentence, TextField, in_split, sentence_text
from rvos_lightning.metrics.images import GRefCOCO as Protocol

IMAGES = f"{RECALLED}; pictures as in RefCOCO"


class GRefCOCOReader(ReferReader):
    """`<root>/{grefs(unc).json, instances.json}`; `ann_id` -1 means no target, several ids their union.

    Crowd annotations are left out; where only such remain the reference is damaged, not without target.
    """

    protocol = Protocol
    counts = {
        "train": Count((), (209344,), RECALLED),
        "val": Count((1500,), (16870,), IMAGES),
        "testA": Count((750,), (18712,), IMAGES),
        "testB": Count((750,), (14933,), IMAGES),
    }

    def __init__(
        self,
        root: Path | str,
        split: str,
        text: TextField = "raw",
        images: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """Reads one split: train, val, testA, testB, or test for the last two."""
        root = Path(root) / "grefcoco" if (Path(root) / "grefcoco").is_dir() else Path(root)
        path = needed_file(root, ("grefs(unc).json", "grefs(unc).p"), split, "the references")
        instances = Instances(needed_file(root, ("instances.json",), split, "the annotations"))
        sentences = _sentences(read_refs(path, cache), split, text, instances, path)
        tree = picture_tree(root, None if images is None else Path(images), split)
        super().__init__("grefcoco", split, sentences, instances, tree, cache, [path, instances.path])


def _sentences(
    refs: list[dict[str, Any]], split: str, text: TextField, instances: Instances, path: Path
) -> Iterator[Sentence]:
    for ref in refs:
        if not in_split(ref["split"], split):
            continue
        given = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        named = tuple(dict.fromkeys(number for number in given if number != -1))
        wanted = tuple(number for number in named if number not in instances.crowds)
        if named and not wanted:
            raise DataError(f"{path}: reference {ref['ref_id']}: only crowd annotations are left of {list(named)}.")
        subsets = (("multi_target",) if len(wanted) > 1 else ("single_target",)) if wanted else ()
        for sentence in ref["sentences"]:
            facts = Facts(image=ref["image_id"], reference=ref["ref_id"], category=instances.category(wanted))
            # several references of one picture may share a sentence number in older releases
            key = f"{ref['ref_id']}_{sentence['sent_id']}"
            yield Sentence(ref["image_id"], key, sentence_text(sentence, text), wanted, subsets, facts)


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
        kwargs: see `VideoDataModule`.
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
