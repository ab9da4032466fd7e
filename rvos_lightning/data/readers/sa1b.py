"""SA-1B, or a subset of it: pictures with about a hundred masks each, as videos of one frame."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused, blocks_of
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import parse_json, read_text, require
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
from rvos_lightning.data.readers.layout import missing
from rvos_lightning.data.sources.archives import Archive, left_by_desktops
from rvos_lightning.data.sources.file_tree import KINDS, Folder, open_tree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.rle_store import RleStore, Track, stored
from rvos_lightning.metrics.images import RefCOCO as Protocol


class SA1BReader(FileReader):
    """`sa_<id>.jpg` and `sa_<id>.json` anywhere below `root`, also in its tars; an item is a mask, empty ones left out.

    All JSON files are converted once to one mask store.
    """

    protocol, licence = Protocol, "SA-1B: its own research licence"

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        files: Path | None = None,
        max_area: float = 1.1,
        cache: Path | None = None,
    ) -> None:
        """`files`: text file of picture names; `max_area`: share of the picture from which masks are left out."""
        root = Path(root)
        self.tree = Folder(root)
        names, sources = _files(root)
        found = {PurePosixPath(name).stem: name for name in names if name.endswith(".json")}
        if files is not None:
            wanted = [Path(name).stem for name in read_text(Path(files)).split()]
            lost = [name for name in wanted if name not in found]
            if lost:
                raise Refused(
                    [missing(root / f"{lost[0]}.json", f"{len(lost)} of {len(wanted)} listed pictures", split)]
                )
            found = {name: found[name] for name in wanted}
            sources = [place for place in sources if place.suffix != ".json" or place.stem in found] + [Path(files)]
        elif alone := sorted({PurePosixPath(n).stem for n in names if n.endswith(".jpg")} - found.keys()):
            what = f"picture without its annotations {alone[0]}.json ({len(alone)} in all)"
            raise Refused([Problem(str(root), what, "Unpack them again, or remove the picture.", blocks_of(split))])
        if not found:
            raise Refused([missing(root / "sa_1.json", "the annotations of SA-1B (sa_<id>.json)", split)])
        self.annotations = found
        store = stored(sources, self._tracks, cache, tag="sa1b")
        places = {stem: PurePosixPath(name).parent.as_posix() for stem, name in found.items()}
        videos, items = _listing(store, places, max_area)
        source = ImageFrames(self.tree, still=True)
        super().__init__("sa1b", split, videos, items, source, StoredMasks(store, "{video}/{object}"), [])

    def _tracks(self) -> Iterator[Track]:
        for stem, name in self.annotations.items():
            place = f"{self.tree.place}/{name}"
            for each in require(parse_json(self.tree.read(name), place), "annotations", list, place):
                number = require(each, "id", int, f"{place}: annotations")
                yield Track(f"{stem}/{number}", [require(each, "segmentation", dict, f"{place}: annotation {number}")])


def _files(root: Path) -> tuple[list[str], list[Path]]:
    """Names, below `root`, of pictures and their annotations; annotations and archives as they lie on disk."""
    names, annotations, archives = [], [], []
    for folder, _, files in os.walk(root):  # once: there may be millions
        for file in files:
            path = Path(folder, file)
            if path.match("sa_*") and path.suffix in (".json", ".jpg"):
                names.append(path.relative_to(root).as_posix())
                annotations += [path] if path.suffix == ".json" else []
            elif path.suffix in KINDS and not left_by_desktops(file):
                archives.append(path)
    for place in sorted(archives):
        inside = place.relative_to(root).with_suffix("").as_posix()
        tree = open_tree(root, inside)
        if isinstance(tree, Archive):  # else it is unpacked beside
            files = [name for name in tree.files() if PurePosixPath(name).match("sa_*")]
            names += [f"{inside}/{name}" for name in files if name.endswith((".json", ".jpg"))]
            annotations.append(place)
    return sorted(names), sorted(annotations, key=lambda path: (path.suffix != ".json", path))


def _listing(store: RleStore, places: dict[str, str], max_area: float) -> tuple[list[Video], list[Item]]:
    masks: dict[str, list[int]] = {}
    for key in store.keys():
        stem, _, number = key.partition("/")
        masks.setdefault(stem, []).append(int(number))
    videos, items = [], []
    for stem, folder in places.items():
        numbers = sorted(masks.get(stem, []))
        if not numbers:
            continue
        rows = store.rows([f"{stem}/{number}" for number in numbers])
        height, width = store.sizes(rows[:1])[0].tolist()
        if (store.sizes(rows) != [height, width]).any():
            raise DataError(f"{stem}.json: masks of different sizes in one picture. Get the file again.")
        videos.append(Video(stem, (f"{folder}/{stem}".removeprefix("./"),), (height, width)))
        for number, area in zip(numbers, store.first_areas(rows).tolist(), strict=True):
            if 0 < area < max_area * height * width:
                items.append(Item(len(videos) - 1, str(number), None, (number,), (), Facts(number)))
    return videos, items


class SA1B(DiskData):
    """SA-1B.

    Args:
        root: folder that holds the pictures and their JSON files, in any sub-folders, or the tars of both.
        files: text file of picture names, one a line, to use; None: all.
        max_area: masks that cover this share of the picture or more are left out; above 1: none.
        cache: where the mask store is kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = SA1BReader

    def __init__(
        self,
        root: Path | str,
        files: Path | None = None,
        max_area: float = 1.1,
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, ("train", None, None, None), {"files": files, "max_area": max_area, "cache": cache}, **kwargs
        )
