"""Ref-DAVIS17: four expressions an object (two annotators, first frame or full video) on DAVIS-2017.

Read from the original download (text files beside the DAVIS tree), or from the tree most codes convert it to.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, refuse_if
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import read_text, require
from rvos_lightning.data.readers.expressions import Entry, read_expressions, table
from rvos_lightning.data.readers.file_reader import FileReader
from rvos_lightning.data.readers.layout import frame_problems, needed_file, needed_tree
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.png_masks import IdMaps, OtherSize
from rvos_lightning.metrics.assigned import RefDAVISA
from rvos_lightning.metrics.layouts import LAYOUTS

Split = Literal["train", "valid"]

TEXTS = (
    ("Davis17_annot1.txt", "utf-8"),
    ("Davis17_annot1_full_video.txt", "utf-8"),
    ("Davis17_annot2.txt", "latin-1"),
    ("Davis17_annot2_full_video.txt", "latin-1"),
)
"""Annotator 0 to 3 and the encodings the files are in."""

MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}


class RefDAVISReader(FileReader):
    """Expression number = 4 * object + annotator; `Item.facts` hold annotator, object and kind.

    Masks are those of `Annotations_unsupervised`; with `Annotations` every score is far too low.
    """

    protocol, layout, besides = RefDAVISA, LAYOUTS["ref_davis"], ("void",)
    licence = "DAVIS and its texts: their own terms"
    counts = {
        "train": Count((60,), ()),
        "valid": Count((30,), (244,), "61 objects of the shipped DAVIS results, four expressions each"),
    }

    def __init__(self, root: Path | str, split: str, other_size: OtherSize = "error") -> None:
        """Reads whichever layout is there.

        Raises:
            Refused: a part is missing, or an object does not have its four expressions.
        """
        root = Path(root)
        path = root / "meta_expressions" / split / "meta_expressions.json"
        if path.is_file():
            frames = needed_tree(root, f"{split}/JPEGImages", split)
            masks = needed_tree(root, f"{split}/Annotations", split, "the masks")
            entries = read_expressions(path)
            videos = [Video(entry.id, entry.frames) for entry in entries]
            refuse_if(_odd(entries, path))
            items, files = list(_converted(entries, path)), [path]
        else:
            davis = root / "DAVIS" if (root / "DAVIS").exists() or (root / "DAVIS.zip").exists() else root
            frames = needed_tree(davis, "JPEGImages/480p", split)
            masks = needed_tree(davis, "Annotations_unsupervised/480p", split, "the masks of the unsupervised release")
            names = _video_names(davis, split)
            files = [_text_file(root, name, split) for name, _ in TEXTS]
            videos, items = _original(names, files, frames)
            lost = (frame_problems(v.id, v.frames, masks.names(v.id), split, str(frames.place)) for v in videos)
            refuse_if(chain.from_iterable(lost))
        super().__init__(
            "ref_davis", split, videos, items, ImageFrames(frames), IdMaps(masks, "all", other_size), files
        )


def _odd(entries: list[Entry], path: Path) -> Iterator[Problem]:
    for entry in entries:
        if len(entry.expressions) % 4:
            what = f"{len(entry.expressions)} expressions; four annotators make it a multiple of 4"
            remedy = "The conversion lost some; convert again, or use the original text files."
            yield Problem(f"{path}: video {entry.id}", what, remedy, ("validate",))


def _converted(entries: list[Entry], path: Path) -> Iterator[Item]:
    for index, _, key, expression, place in table(entries, path):
        label = str(require(expression, "obj_id", (str, int), place))
        if not (key.isdecimal() and label.isdecimal()):
            raise DataError(f"{place}: expression and object ids must be numbers, found {key!r} and {label!r}.")
        yield _item(index, int(key) // 4, int(key) % 4, label, expression["exp"])


def _item(video: int, position: int, annotator: int, label: str, text: str) -> Item:
    kind = "full_video" if annotator % 2 else "first_frame"
    facts = Facts(int(label), annotator, kind=kind)
    return Item(video, str(4 * position + annotator), text, (int(label),), (kind,), facts)


def _original(names: list[str], files: list[Path], frames: FileTree) -> tuple[list[Video], list[Item]]:
    texts: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for annotator, (path, (_, encoding)) in enumerate(zip(files, TEXTS, strict=True)):
        for number, line in enumerate(path.read_text(encoding=encoding).splitlines(), 1):
            if line.strip():
                video, label, text = _line(line, f"{path}: line {number}")
                if annotator in texts[video][label]:
                    raise DataError(f"{path}: line {number}: video {video}, object {label} occurs twice.")
                texts[video][label][annotator] = text
    videos, items = [], []
    problems = []
    for name in names:
        stems = tuple(Path(entry).stem for entry in frames.names(name))
        videos.append(Video(name, stems))
        # object numbers are ordered as text, as the conversion everyone shares did
        for position, label in enumerate(sorted(texts[name])):
            given = texts[name][label]
            if len(given) != len(TEXTS):
                what = f"object {label} has expressions of {len(given)} of 4 annotators"
                problems.append(Problem(f"{name}", what, "Get the four text files again.", ("validate",)))
            items += [_item(len(videos) - 1, position, who, label, text) for who, text in sorted(given.items())]
    refuse_if(problems)
    return videos, items


def _line(line: str, place: str) -> tuple[str, str, str]:
    parts = line.strip().lstrip("\ufeff").split(maxsplit=2)
    if len(parts) != 3 or not parts[1].isdecimal():
        raise DataError(f'{place}: expected `<video> <object> "<expression>"`, found {line[:60]!r}.')
    return MISSPELT.get(parts[0], parts[0]), parts[1], parts[2].strip().strip('"')


def _video_names(davis: Path, split: str) -> list[str]:
    short = "val" if split == "valid" else split
    return read_text(needed_file(davis, (f"ImageSets/2017/{short}.txt",), split, "the list of videos")).split()


def _text_file(root: Path, name: str, split: str) -> Path:
    return needed_file(
        root, (f"davis_text_annotations/{name}", name, f"*/{name}"), split, "expressions of an annotator"
    )


class RefDAVIS(DiskData):
    """Ref-DAVIS17; the papers test on `valid` and do not train on `train`.

    Args:
        root: folder of the original download or of the converted tree.
        train_split: "train", or None for none (likewise below).
        val_split: "valid".
        test_split: "valid".
        predict_split: "valid".
        other_size: what to do with a mask that is not of its frame's size.
        kwargs: see `VideoData`.
    """

    opens = RefDAVISReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = None,
        val_split: Split | None = "valid",
        test_split: Split | None = "valid",
        predict_split: Split | None = "valid",
        other_size: OtherSize = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, (train_split, val_split, test_split, predict_split), {"other_size": other_size}, **kwargs
        )
