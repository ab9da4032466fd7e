"""What readers of referring-image sets share: an image is a video of one frame, a sentence is an item."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Problem, blocks_of, refuse_if
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.coco_json import Instances, Picture
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
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
            items.append(Item(video, each.id, each.text, each.annotations, each.subsets, each.facts))
        pictures = [instances.pictures[number] for number in index]
        suffix = _suffix(pictures, instances)
        names = [picture.file.removesuffix(suffix) for picture in pictures]
        videos = [Video(str(n), (name,), instances.pictures[n].size) for n, name in zip(index, names, strict=True)]
        self.unusable = unusable
        super().__init__(name, split, videos, items, ImageFrames(tree, suffix, still=True), StoredMasks(store), files)

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Sentences that were left out."""
        yield from self.unusable


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
