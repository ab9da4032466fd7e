"""SA-V: masklets on every fourth frame of 24 fps video; JSON for train, PNG folders for val and test."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused, refuse_if
from rvos_lightning.data.reader import Count, DataError, Item, Reader, Video
from rvos_lightning.data.readers.annotation_files import read_json, read_text, require
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
from rvos_lightning.data.readers.layout import frame_problems, missing, needed_file, needed_tree, without_notes
from rvos_lightning.data.sources.file_tree import FileTree, open_tree
from rvos_lightning.data.sources.film import FilmFrames
from rvos_lightning.data.sources.image_files import FrameSource, ImageFrames
from rvos_lightning.data.sources.png_masks import BinaryFolders
from rvos_lightning.data.sources.rle_store import RleStore, Track, stored
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.objects import SAV as Protocol

Kind = Literal["manual", "auto"]

STRIDE = 4  # annotated frame i is video frame 4 i


class SAVTrainReader(FileReader):
    """`<video>_manual.json` (or `_auto.json`) with `<video>.mp4`, or `JPEGImages/<video>/%05d.jpg` extracted from it.

    A video's frames are the annotated ones only, under their numbers in the file (00000, 00004, ...). Objects
    overlap: each item has its own plane. All JSON files are converted once to one mask store.
    """

    protocol, layout, licence = Protocol, LAYOUTS["sav"], "SA-V: CC BY 4.0"
    counts = {"train": Count((50583, 48436), (190316, 451720), "the data set's page, manual and automatic masklets")}

    def __init__(self, root: Path | str, kind: str = "manual", cache: Path | None = None) -> None:
        """Lists masklets.

        Raises:
            Refused: there is no annotation file below `root`.
        """
        root = below(Path(root), "train")
        self.annotations = without_notes(root.rglob(f"*_{kind}.json"))
        if not self.annotations:
            raise Refused([missing(root / f"sav_000001_{kind}.json", f"the {kind} masklets of SA-V train", "train")])
        store = stored(self.annotations, self._tracks, cache, tag=f"sav_{kind}")
        videos, items = _listing(store)
        frames = frames_of(root, self.annotations)
        super().__init__("sav", "train", videos, items, frames, StoredMasks(store, "{video}/{object}"), [])

    def _tracks(self) -> Iterator[Track]:
        for path in self.annotations:
            yield from masklets(path)

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Videos whose number of annotated frames is not a quarter of their frames."""
        for path in () if fast else self.annotations:
            record = read_json(path)
            frames = require(record, "video_frame_count", (int, float), str(path))
            length = len(require(record, "masklet", list, str(path)))
            if length != -(-int(frames) // STRIDE):
                what = f"{length} annotated frames for {frames:g} video frames; expected every fourth"
                yield Problem(str(path), what, "Masks would lie on wrong frames; get the file again.", ("train",))


def masklets(path: Path) -> Iterator[Track]:
    """The masklets of one annotation file; an absent object is a mask of area 0, or null."""
    record = read_json(path)
    video = require(record, "video_id", str, str(path))
    frames = require(record, "masklet", list, str(path))
    ids = require(record, "masklet_id", list, str(path))
    for number, frame in enumerate(frames):
        if not isinstance(frame, list) or len(frame) != len(ids):
            raise DataError(f"{path}: field 'masklet', frame {number}: expected {len(ids)} objects.")
    for column, each in enumerate(ids):
        if isinstance(each, bool) or not isinstance(each, int | float) or int(each) != each:
            raise DataError(f"{path}: field 'masklet_id' must hold numbers, found {str(each)[:40]!r}.")
        yield Track(f"{video}/{int(each)}", [frame[column] for frame in frames])


def _listing(store: RleStore) -> tuple[list[Video], list[Item]]:
    objects: dict[str, list[int]] = {}
    for key in store.keys():
        video, _, number = key.rpartition("/")
        objects.setdefault(video, []).append(int(number))
    videos, items = [], []
    for index, (name, numbers) in enumerate(sorted(objects.items())):
        rows = store.rows([f"{name}/{number}" for number in sorted(numbers)])
        length = int(store.lengths(rows)[0])
        sizes = store.sizes(rows)
        height, width = sizes[np.argmax(sizes[:, 0])].tolist()
        names = tuple(f"{STRIDE * position:05d}" for position in range(length))
        videos.append(Video(name, names, (height, width) if height else None))
        items += [Item(index, str(n), None, (n,), (), Facts(n)) for n in sorted(numbers)]
    return videos, items


def frames_of(root: Path, annotations: list[Path]) -> FrameSource:
    """Frames of the films that annotation files lie beside, extracted or not."""
    tree = open_tree(root, "JPEGImages")
    if tree is not None:
        return ImageFrames(tree)
    folders = {path.parent for path in annotations}
    if len(folders) == 1:
        return FilmFrames(folders.pop())
    places = {path.stem.rpartition("_")[0]: path.parent.relative_to(root).as_posix() for path in annotations}
    return _ScatteredFilms(root, places)


class _ScatteredFilms(FilmFrames):
    """Video files spread over sub-folders, as the archives unpack (sav_000/, sav_001/, ...)."""

    def __init__(self, place: Path, folders: dict[str, str]) -> None:
        super().__init__(place)
        self.names = np.array(sorted(f"{video}\t{folder}".encode() for video, folder in folders.items()))

    def path(self, video: Video) -> str:
        """The video file."""
        entry = self.names[min(np.searchsorted(self.names, f"{video.id}\t".encode()), len(self.names) - 1)].decode()
        return self.folder.path(f"{entry.partition(chr(9))[2]}/{video.id}.mp4")


class SAVReader(FileReader):
    """`JPEGImages_24fps/<video>/%05d.jpg`, `Annotations_6fps/<video>/<object>/%05d.png`, `sav_<split>.txt`.

    All 24 fps frames are read; those with a PNG of the object are annotated.
    """

    protocol, layout, licence = Protocol, LAYOUTS["sav"], "SA-V: CC BY 4.0"
    counts = {"val": Count((155,), (293,)), "test": Count((150,), (278,))}

    def __init__(self, root: Path | str, split: str) -> None:
        """Lists videos and objects of "val" or "test"."""
        root = below(Path(root), split)
        names = read_text(needed_file(root, (f"sav_{split}.txt",), split, "the list of videos")).split()
        frames = needed_tree(root, "JPEGImages_24fps", split)
        masks = needed_tree(root, "Annotations_6fps", split, "the masks")
        videos = [Video(name, tuple(Path(entry).stem for entry in frames.names(name))) for name in names]
        empty = [missing(frames.place / v.id, f"the frames of video {v.id}", split) for v in videos if not v.frames]
        if empty:
            raise Refused(empty)
        lost = (frame_problems(v.id, v.frames, _stems(masks, v.id), split, str(frames.place)) for v in videos)
        refuse_if(chain.from_iterable(lost))
        items = [
            Item(index, label, None, (label,), (), Facts(int(label) if label.isdecimal() else None))
            for index, video in enumerate(videos)
            for label in masks.names(video.id)
        ]
        super().__init__("sav", split, videos, items, ImageFrames(frames), BinaryFolders(masks), [])

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Masks on frames that are no multiple of four, and videos without an object."""
        truth = self.truth
        have = {item.video for item in self.items}
        for index, video in enumerate(self.videos):
            if index not in have:
                yield Problem(
                    f"video {video.id}", "no object folder in Annotations_6fps", "Unpack again.", ("validate",)
                )
        for item in self.items:
            video = self.videos[item.video]
            stems = [Path(name).stem for name in truth.tree.names(f"{video.id}/{item.id}")]
            odd = [stem for stem in stems if not stem.isdecimal() or int(stem) % STRIDE]
            if odd:
                what = f"mask {odd[0]}.png is not on a multiple of {STRIDE}"
                yield Problem(f"{video.id}/{item.id}", what, "Numbers are video frames, not positions.", ("validate",))


def _stems(masks: FileTree, video: str) -> set[str]:
    """Names of the mask files of all objects of a video."""
    return {name for label in masks.names(video) for name in masks.names(f"{video}/{label}")}


def below(root: Path, split: str) -> Path:
    """The folder of a split, or `root` itself."""
    return next((root / name for name in (f"sav_{split}", split) if (root / name).is_dir()), root)


class SAV(DiskData):
    """SA-V.

    Args:
        root: folder that holds sav_train, sav_val, sav_test.
        train_split: "train", "val" or "test"; None for none (likewise below).
        val_split: likewise.
        test_split: likewise.
        predict_split: likewise.
        annotations: masklets of train, drawn with people ("manual") or by the model alone ("auto").
        cache: where the mask store is kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = SAVReader

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = "val",
        test_split: str | None = "test",
        predict_split: str | None = "test",
        annotations: Kind = "manual",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, (train_split, val_split, test_split, predict_split), **kwargs)
        self.annotations: Kind = annotations
        self.cache = cache

    def make(self, split: str) -> Reader:
        """See `DiskData.make`."""
        if split == "train":
            return SAVTrainReader(self.root, self.annotations, self.cache)
        return SAVReader(self.root, split)
