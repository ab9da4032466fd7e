"""RefCOCO, RefCOCO+ and RefCOCOg, from the refer API's files or from one COCO file a split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused
from rvos_lightning.data.reader import Count, DataError
from rvos_lightning.data.readers.annotation_files import JsonStream, require
from rvos_lightning.data.readers.coco_json import Instances, picture_tree
from rvos_lightning.data.readers.layout import missing, needed_file
from rvos_lightning.data.readers.refer_pickle import read_refs
from rvos_lightning.data.readers.refer_reader import (
    ReferReader,
    Sentence,
    TextField,
    in_split,
    pictures_of,
    sentence_text,
)
from rvos_lightning.data.shared_pictures import Pictures
from rvos_lightning.metrics.images import RefCOCO as Protocol

Name = Literal["refcoco", "refcoco+", "refcocog"]
Partition = Literal["unc", "google", "umd"]
Layout = Literal["auto", "refer", "coco"]

COUNTS: dict[tuple[str, str], dict[str, Count]] = {
    ("refcoco", "unc"): {
        "train": Count((16994,), (120624,), references=(42404,)),
        "val": Count((1500,), (10834,), references=(3811,)),
        "testA": Count((750,), (5657,), references=(1975,)),
        "testB": Count((750,), (5095,), references=(1810,)),
        "test": Count((1500,), (10752,), references=(3785,)),
    },
    ("refcoco", "google"): {
        "train": Count((19213,), (), references=(40000,)),
        "val": Count((4559,), (), references=(5000,)),
        "test": Count((4527,), (), references=(5000,)),
    },
    ("refcoco+", "unc"): {
        "train": Count((16992,), (120191,), references=(42278,)),
        "val": Count((1500,), (10758,), references=(3805,)),
        "testA": Count((750,), (5726,), references=(1975,)),
        "testB": Count((750,), (4889,), references=(1798,)),
        "test": Count((1500,), (10615,), references=(3773,)),
    },
    ("refcocog", "umd"): {
        "train": Count((21899,), (80512,), references=(42226,)),
        "val": Count((1300,), (4896,), references=(2573,)),
        "test": Count((2600,), (9602,), references=(5023,)),
    },
    ("refcocog", "google"): {
        "train": Count((24698,), (85474,), references=(44822,)),
        "val": Count((4650,), (9536,), references=(5000,)),
    },
}
"""Partitions that exist, their splits and published numbers."""


class RefCOCOReader(ReferReader):
    """`<root>/<name>/{refs(<partition>).p, instances.json}`, or `<root>/<name>/instances_<name>_<split>.json`.

    The first has several sentences a reference, `raw` and `sent`; the second one image record a sentence.
    """

    protocol = Protocol

    def __init__(
        self,
        root: Path | str,
        split: str,
        name: str = "refcoco",
        partition: str = "unc",
        layout: str = "auto",
        text: TextField = "raw",
        images: Path | None = None,
        cache: Path | None = None,
        exclude_images: Path | None = None,
    ) -> None:
        """Reads one split; `exclude_images` is a text file of COCO image ids to leave out of training.

        Raises:
            Refused: files are missing, or such a partition or split does not exist.
        """
        root = Path(root)
        self.counts = COUNTS.get((name, partition), {})
        if split not in self.counts:
            known = "; ".join(f"{n} {p}: {', '.join(s)}" for (n, p), s in COUNTS.items())
            raise DataError(f"{name} has no partition {partition!r} with a split {split!r}. There are {known}.")
        folder, refs = _references(root, name, partition)
        coco = folder / f"instances_{name}_{split}.json"
        if layout == "auto":
            layout = "refer" if refs.is_file() else "coco"
        if layout == "refer" and refs.is_file():
            instances = Instances(needed_file(folder, ("instances.json",), split, "the annotations"))
            sentences = _of_refs(read_refs(refs, cache), split, text, instances)
            files = [refs, instances.path]
        elif layout == "coco" and coco.is_file():
            instances = Instances(coco)
            sentences, files = _of_records(instances), [coco]
        else:
            wanted = refs.with_suffix(".p") if layout == "refer" else coco
            raise Refused([missing(wanted, f"the references of {name} (or refs({partition}).p)", split)])
        tree = picture_tree(folder, None if images is None else Path(images), split)
        kept = _without(sentences, _ids(exclude_images))
        super().__init__(f"{name}_{partition}", split, kept, instances, tree, cache, files)

    @classmethod
    def judged_pictures(cls, root: Path, **options: Any) -> list[Pictures]:
        """See `Reader.judged_pictures`; options as for the reader."""
        name, partition = options["name"], options["partition"]
        folder, refs = _references(root, name, partition)
        splits = [split for split in COUNTS.get((name, partition), {}) if split != "train"]
        if options["layout"] != "coco" and refs.is_file():
            return pictures_of(refs, options["cache"], f"{name}_{partition}", splits)
        found = []
        for split in splits:
            if (path := folder / f"instances_{name}_{split}.json").is_file():
                records = (record for _, record in JsonStream(path).members(("images",)) if isinstance(record, dict))
                ids = frozenset(_original(record, record["id"]) for record in records if "id" in record)
                found.append(Pictures(f"{name}_{partition} {split}", ids))
        return found


def _references(root: Path, name: str, partition: str) -> tuple[Path, Path]:
    """The data set's folder, and its file of references in the refer API's layout, whether it is there or not."""
    folder = root / name if (root / name).is_dir() else root
    refs = folder / f"refs({partition}).p"
    return folder, refs if refs.is_file() else refs.with_suffix(".json")


def _of_refs(refs: list[dict[str, Any]], split: str, text: TextField, instances: Instances) -> Iterator[Sentence]:
    for ref in refs:
        if in_split(ref["split"], split):
            category = instances.category([ref["ann_id"]])
            facts = Facts(image=ref["image_id"], reference=ref["ref_id"], category=category)
            for sentence in ref["sentences"]:
                # `file_name` of a reference carries a suffix and names no file; the image record's is right
                words = sentence_text(sentence, text)
                yield Sentence(ref["image_id"], str(sentence["sent_id"]), words, (ref["ann_id"],), (), facts)


def _of_records(instances: Instances) -> Iterator[Sentence]:
    """One sentence an image record; sentences of one picture are brought together by `original_id`."""
    owner: dict[int, int] = {}
    annotations = {image: number for number, image in instances.image.items()}
    if len(annotations) != len(instances.image):
        raise DataError(f"{instances.path}: several annotations of one image record; expected one a sentence.")
    for number, picture in instances.pictures.items():
        place = f"{instances.path}: image {number}"
        original = _original(picture.record, number)
        first = owner.setdefault(original, number)
        if number not in annotations:
            raise DataError(f"{place}: has no annotation. The file is cut off; convert it again.")
        instances.image[annotations[number]] = first  # all sentences of a picture share one video
        annotation = annotations[number]
        category = instances.category([annotation])
        facts = Facts(image=original, reference=instances.original.get(annotation), category=category)
        text = require(picture.record, "caption", str, place)
        yield Sentence(first, str(number), text, (annotation,), (), facts)


def _original(record: dict[str, Any], number: int) -> int:
    """COCO's own number of a picture whose record has another."""
    return record.get("original_id", record.get("original_img_id", number))


def _ids(path: Path | None) -> frozenset[int]:
    if path is None:
        return frozenset()
    if not Path(path).is_file():
        remedy = "Write one COCO image id a line, or leave `exclude_images` out."
        raise Refused([Problem(str(path), "missing: the list of images to leave out", remedy, ("train",))])
    return frozenset(int(line) for line in Path(path).read_text().split())


def _without(sentences: Iterator[Sentence], ids: frozenset[int]) -> Iterator[Sentence]:
    return (each for each in sentences if each.facts.image not in ids)


class RefCOCO(DiskData):
    """RefCOCO, RefCOCO+ or RefCOCOg; single images, or pseudo-videos with the augmentation of that name.

    Args:
        root: folder that holds refcoco, refcoco+, refcocog (or one of them).
        name: which of the three.
        partition: "unc" for RefCOCO and RefCOCO+, "umd" for RefCOCOg, or "google".
        train_split: "train", or None for none (likewise below).
        val_split: "val".
        test_split: "testA", "testB", "test" (for RefCOCO and + both), "val".
        predict_split: likewise.
        layout: the refer API's files, one COCO file a split, or whichever is there.
        text: the sentence as typed or cleaned; the second layout has only the cleaned one.
        images: folder of COCO train2014 pictures; None: looked for around `root`.
        exclude_images: text file of COCO image ids kept out of training, besides what `shared_pictures` leaves out.
        cache: where converted files are kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = RefCOCOReader

    def __init__(
        self,
        root: Path | str,
        name: Name = "refcoco",
        partition: Partition = "unc",
        train_split: str | None = "train",
        val_split: str | None = "val",
        test_split: str | None = "test",
        predict_split: str | None = "val",
        layout: Layout = "auto",
        text: TextField = "raw",
        images: Path | None = None,
        exclude_images: Path | None = None,
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"name": name, "partition": partition, "layout": layout, "text": text, "images": images}
        options["cache"] = cache
        super().__init__(root, (train_split, val_split, test_split, predict_split), options, **kwargs)
        self.exclude_images = exclude_images

    def make(self, split: str) -> RefCOCOReader:
        """See `DiskData.make`."""
        exclude = self.exclude_images if split == "train" else None
        return RefCOCOReader(self.root, split, **self.options, exclude_images=exclude)
