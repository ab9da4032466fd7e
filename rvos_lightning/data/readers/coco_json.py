"""COCO files: images, annotations with polygons or RLE, and where the pictures of train2014 and val2014 lie."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.annotation_files import JsonStream, require, safe_path
from rvos_lightning.data.readers.layout import missing
from rvos_lightning.data.sources.file_tree import FileTree, open_tree
from rvos_lightning.data.sources.rle import segmentation
from rvos_lightning.data.sources.rle_store import Track

Size = tuple[int, int]


class Picture(NamedTuple):
    """One record of `images`."""

    file: str
    size: Size
    record: dict[str, Any]


class Instances:
    """A COCO file without its masks, which `tracks` yields for a store.

    Attributes:
        path: the file.
        pictures: by image id.
        image: image id by annotation id.
        crowds: ids of crowd annotations.
        original: `original_id` by annotation id, where given.
        names: category's name by category id, where given.
    """

    def __init__(self, path: Path) -> None:
        """Reads everything but masks.

        Raises:
            DataError: a record lacks a field, an id occurs twice, or an annotation has no image.
        """
        self.path = path
        self.pictures: dict[int, Picture] = {}
        self.image: dict[int, int] = {}
        self.crowds: set[int] = set()
        self.original: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self._kinds: dict[int, int] = {}
        for key, value in JsonStream(path).members(("images", "annotations", "categories")):
            if key == "images":
                self._picture(value)
            elif key == "annotations":
                self._annotation(value)
            elif key == "categories" and isinstance(value, dict):
                place = f"{path}: categories"
                self.names[require(value, "id", int, place)] = require(value, "name", str, place)
        for number, image in self.image.items():
            if image not in self.pictures:
                raise DataError(f"{path}: annotation {number}: field 'image_id' {image} is not among the images.")

    def _picture(self, record: Any) -> None:
        number = require(record, "id", int, f"{self.path}: images")
        place = f"{self.path}: image {number}"
        if number in self.pictures:
            raise DataError(f"{place}: the id occurs twice; ids must be unique.")
        size = (require(record, "height", int, place), require(record, "width", int, place))
        file = safe_path(require(record, "file_name", str, place), place)
        self.pictures[number] = Picture(file, size, record)

    def _annotation(self, record: Any) -> None:
        number = require(record, "id", int, f"{self.path}: annotations")
        if number in self.image:
            raise DataError(f"{self.path}: annotation {number}: the id occurs twice; ids must be unique.")
        self.image[number] = require(record, "image_id", int, f"{self.path}: annotation {number}")
        if record.get("iscrowd") == 1:
            self.crowds.add(number)
        if isinstance(record.get("category_id"), int):
            self._kinds[number] = record["category_id"]
        if "original_id" in record:
            self.original[number] = record["original_id"]

    def category(self, annotations: Sequence[int]) -> str | None:
        """The category of annotations, each name once; None where the file does not say."""
        names = dict.fromkeys(self.names.get(self._kinds.get(number, -1)) for number in annotations)
        return None if not names or None in names else ", ".join(names)

    def tracks(self) -> Iterator[Track]:
        """Every annotation as a track of one mask, the union of its parts; None where no part is a polygon."""
        for key, record in JsonStream(self.path).members(("images", "annotations")):
            if key == "annotations" and record.get("segmentation") is not None:
                size = self.pictures[record["image_id"]].size
                place = f"{self.path}: annotation {record['id']}"
                yield Track(str(record["id"]), [segmentation(record["segmentation"], size, place)])


FOLDERS = ("", "images/", "images/mscoco/images/", "coco/", "mscoco/", "../", "../coco/", "../images/")


def picture_tree(root: Path, images: Path | None, split: str) -> FileTree:
    """Where the COCO pictures lie: `images` itself, or a train2014 found in the usual places around `root`.

    Raises:
        Refused: nowhere.
    """
    if images is not None:
        for relative in ("train2014", "trainval2014"):
            tree = open_tree(images, relative)
            if tree is not None:
                return tree
        tree = open_tree(images.parent, images.name)
        if tree is None:
            raise Refused([missing(images, "the COCO pictures", split)])
        return tree
    for folder in FOLDERS:
        for name in ("train2014", "trainval2014"):
            tree = open_tree(root / folder, name)
            if tree is not None:
                return tree
    raise Refused([missing(root / "train2014", "the COCO pictures (give their folder as `images`)", split)])
