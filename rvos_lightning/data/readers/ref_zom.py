"""Ref-ZOM: sentences that mean zero, one or many objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.reader import RECALLED, Count, DataError
from rvos_lightning.data.readers.coco_json import Instances, picture_tree
from rvos_lightning.data.readers.layout import needed_file
from rvos_lightning.data.readers.refer_pickle import read_refs
from rvos_lightning.data.readers.refer_reader import ReferReader, Sentence, TextField, in_split, sentence_text
from rvos_lightning.metrics.images import RefZOM as Protocol

Split = Literal["train", "test"]


class RefZOMReader(ReferReader):
    """`<root>/{refs(final).p, instances.json}`, pictures of train2014 and val2014 merged in one folder.

    `source`, not `ann_id`, decides about no target: a reference of source "zero" still lists annotations.
    """

    protocol = Protocol
    counts = {"train": Count((43749,), (), RECALLED), "test": Count((11329,), (), RECALLED)}

    def __init__(
        self,
        root: Path | str,
        split: str,
        text: TextField = "raw",
        images: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """Reads one split."""
        root = Path(root) / "ref-zom" if (Path(root) / "ref-zom").is_dir() else Path(root)
        path = needed_file(root, ("refs(final).p", "refs(final).json"), split, "the references")
        instances = Instances(needed_file(root, ("instances.json",), split, "the annotations"))
        sentences = _sentences(read_refs(path, cache), split, text, instances, path)
        tree = picture_tree(root, None if images is None else Path(images), split)
        super().__init__("ref_zom", split, sentences, instances, tree, cache, [path, instances.path])


def _sentences(
    refs: list[dict[str, Any]], split: str, text: TextField, instances: Instances, path: Path
) -> Iterator[Sentence]:
    for ref in refs:
        if not in_split(ref["split"], split):
            continue
        source = ref.get("source")
        if not isinstance(source, str):
            raise DataError(
                f"{path}: reference {ref['ref_id']}: field 'source' is missing; it says what has no target."
            )
        given = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        wanted = () if source == "zero" else tuple(dict.fromkeys(given))
        subsets = (("multi_target",) if len(given) > 1 else ("single_target",)) if wanted else ()
        category = instances.category(wanted)
        for sentence in ref["sentences"]:
            facts = Facts(image=ref["image_id"], reference=ref["ref_id"], category=category, kind=source)
            key = f"{ref['ref_id']}_{sentence['sent_id']}"
            yield Sentence(ref["image_id"], key, sentence_text(sentence, text), wanted, subsets, facts)


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
        kwargs: see `VideoDataModule`.
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
