"""What readers of referring-image sets share: an image is a video of one frame, a sentence is an item."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Problem, blocks_of, refuse_if
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.coco_json import Instances, Picture, picture_tree
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
from rvos_lightning.data.readers.layout import needed_file
from rvos_lightning.data.readers.refer_pickle import read_refs
from rvos_lightning.data.shared_pictures import Pictures
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.rle_store import RleStore, stored

TextField = Literal["raw", "sent"]
"""The sentence as typed, or cleaned (lower case, no punctuation); papers differ, scores change slightly."""


class Sentence(NamedTuple):
    """One (image, sentence) pair."""

    image: int
    id: str
    text: str
    annotations: tuple[int, ...]
    subsets: tuple[str, ...]
    facts: Facts


class ReferReader(FileReader):
    """Sentences grouped by image; a mask is the union of all parts of all annotations a sentence means.

    An annotation none of whose parts is a polygon is left out of training and refused in evaluation.
    """

    licence = "COCO images: Flickr terms; annotations: CC BY 4.0; expressions: none stated"

    def __init__(
        self,
        name: str,
        split: str,
        sentences: Iterable[Sentence],
        instances: Instances,
        tree: FileTree,
        cache: Path | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """Makes videos and items of `sentences`; masks of `instances` go to a store."""
        store = stored([instances.path], instances.tracks, cache, tag="masks")
        index: dict[int, int] = {}
        items: list[Item] = []
        shared: list[int] = []
        unusable: list[Problem] = []
        for each in sentences:
            fault = _fault(each, instances, store)
            if fault is not None:
                remedy = "Get instances.json again; training leaves such sentences out."
                unusable.append(Problem(f"{instances.path}: {fault}", f"sentence {each.id} has no mask", remedy))
                if split != "train":
                    refuse_if([Problem(p.place, p.what, p.remedy, blocks_of(split)) for p in unusable])
                continue
            video = index.setdefault(each.image, len(index))
            if video == len(shared):
                shared.append(int(each.facts.image or 0))
            items.append(Item(video, each.id, each.text, each.annotations, each.subsets, each.facts))
        pictures = [instances.pictures[number] for number in index]
        suffix = _suffix(pictures, instances)
        names = [picture.file.removesuffix(suffix) for picture in pictures]
        videos = [Video(str(n), (name,), instances.pictures[n].size) for n, name in zip(index, names, strict=True)]
        self.unusable, self.pictures = unusable, shared
        super().__init__(name, split, videos, items, ImageFrames(tree, suffix, still=True), StoredMasks(store), files)

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Sentences that were left out."""
        yield from self.unusable


class Meaning(NamedTuple):
    """What a reference means: annotations (none: no target), and the data set's name for that kind."""

    annotations: tuple[int, ...]
    kind: str | None = None


class AnyTargetReader(ReferReader, ABC):
    """References that mean any number of objects, none included; subsets are `single_target` and `multi_target`.

    Attributes:
        folder: that the files may lie in below the root.
        references: names of the file of references, the usual one first.
        source: the data set's name.
    """

    folder: str
    references: tuple[str, ...]
    source: str

    def __init__(
        self,
        root: Path | str,
        split: str,
        text: TextField = "raw",
        images: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """Reads one split; `images`: folder of the COCO pictures, None: looked for around `root`."""
        root = self.inside(Path(root))
        path = needed_file(root, self.references, split, "the references")
        instances = Instances(needed_file(root, ("instances.json",), split, "the annotations"))
        sentences = self._sentences(read_refs(path, cache), split, text, instances, path)
        tree = picture_tree(root, None if images is None else Path(images), split)
        super().__init__(self.source, split, sentences, instances, tree, cache, [path, instances.path])

    @classmethod
    def inside(cls, root: Path) -> Path:
        """The folder of the files: the data set's own in `root`, or `root`."""
        return root / cls.folder if (root / cls.folder).is_dir() else root

    @classmethod
    def judged_pictures(cls, root: Path, **options: Any) -> list[Pictures]:
        """See `Reader.judged_pictures`."""
        files = [path for name in cls.references if (path := cls.inside(root) / name).is_file()]
        splits = [split for split in cls.counts if split != "train"]
        return pictures_of(files[0], options.get("cache"), cls.source, splits) if files else []

    @abstractmethod
    def meaning(self, ref: dict[str, Any], instances: Instances, place: str) -> Meaning:
        """What a reference means.

        Raises:
            DataError: it is damaged; names the place.
        """

    def _sentences(
        self, refs: list[dict[str, Any]], split: str, text: TextField, instances: Instances, path: Path
    ) -> Iterator[Sentence]:
        for ref in refs:
            if not in_split(ref["split"], split):
                continue
            wanted, kind = self.meaning(ref, instances, f"{path}: reference {ref['ref_id']}")
            subsets = (("multi_target",) if len(wanted) > 1 else ("single_target",)) if wanted else ()
            facts = Facts(
                image=ref["image_id"], reference=ref["ref_id"], category=instances.category(wanted), kind=kind
            )
            for sentence in ref["sentences"]:
                # several references of one picture may share a sentence number in older releases
                key = f"{ref['ref_id']}_{sentence['sent_id']}"
                yield Sentence(ref["image_id"], key, sentence_text(sentence, text), wanted, subsets, facts)


def pictures_of(refs: Path, cache: Path | None, name: str, splits: Iterable[str]) -> list[Pictures]:
    """Pictures of every split that a file of references has; no annotations are read."""
    found: dict[str, set[int]] = {split: set() for split in splits}
    for ref in read_refs(refs, cache):
        if ref["split"] in found:
            found[ref["split"]].add(ref["image_id"])
    return [Pictures(f"{name} {split}", frozenset(ids)) for split, ids in found.items() if ids]


def named_annotations(ref: dict[str, Any]) -> tuple[int, ...]:
    """Field `ann_id`, a number or a list of them, each once."""
    given = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return tuple(dict.fromkeys(given))


def _suffix(pictures: Sequence[Picture], instances: Instances) -> str:
    """The ending that all picture files share."""
    endings = {Path(picture.file).suffix for picture in pictures} or {".jpg"}
    if len(endings) > 1:
        raise DataError(f"{instances.path}: pictures of different kinds {sorted(endings)}; expected one.")
    return endings.pop()


def _fault(sentence: Sentence, instances: Instances, store: RleStore) -> str | None:
    """What is wrong with a sentence's annotations; None if nothing."""
    if sentence.image not in instances.pictures:
        return f"image {sentence.image} is not among the images"
    rows = store.rows(sentence.annotations)
    for number, row in zip(sentence.annotations, rows.tolist(), strict=True):
        if number not in instances.image:
            return f"annotation {number} is not among the annotations"
        if row < 0 or not store.sizes(np.array([row]))[0, 0]:
            return f"annotation {number} has no usable polygon"
        if instances.image[number] != sentence.image:
            return f"annotation {number} belongs to image {instances.image[number]}, not {sentence.image}"
    return None


def sentence_text(sentence: dict[str, Any], field: TextField) -> str:
    """The sentence in the wanted form, or the other form where a file has only that."""
    other = "sent" if field == "raw" else "raw"
    return sentence.get(field) or sentence.get(other) or ""


def in_split(stored_split: str, wanted: str) -> bool:
    """The refer API's rule: `test` is every split with "test" in its name (testA and testB, for RefCOCO)."""
    return wanted in stored_split if wanted == "test" else stored_split == wanted
