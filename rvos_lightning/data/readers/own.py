"""One's own videos: frames or films, one PNG an object and frame, sentences by any number of annotators.

The layout is described in docs/own_data.md; `rvos sample --layout own` writes an example, `rvos labels import` makes it
from what annotation tools export.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.own import FILE, FRAMES, MASKS, OwnVideo, read_annotations
from rvos_lightning.data.labels.video import PICTURES
from rvos_lightning.data.problems import Problem, Refused, blocks_of, refuse_if
from rvos_lightning.data.reader import Item, Video
from rvos_lightning.data.readers.file_reader import FileReader, Masks, MaskSource, misfit
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import missing, needed_tree
from rvos_lightning.data.readers.own_masks import renaming
from rvos_lightning.data.sources.file_tree import FileTree, Folder, open_tree
from rvos_lightning.data.sources.film import Film, FilmFrames
from rvos_lightning.data.sources.image_files import FrameSource, ImageFrames, Size, decode_ids
from rvos_lightning.metrics.layouts import LAYOUTS

Items = Literal["expressions", "objects"]


class OwnFrames(FrameSource):
    """Each video in picture files of one suffix, or in a film."""

    def __init__(self, tree: FileTree, kinds: Mapping[str, str]) -> None:
        """`kinds`: suffix (".jpg") or film file by video id."""
        self.tree, self.kinds = tree, dict(kinds)

    def _of(self, video: Video) -> FrameSource:
        kind = self.kinds[video.id]
        if kind.startswith("."):
            return ImageFrames(self.tree, kind)
        return FilmFrames(self.tree.place, kind.replace("{", "{{").replace("}", "}}"))

    def read(self, video: Video, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `FrameSource.read`."""
        return self._of(video).read(video, positions)

    def size(self, video: Video) -> Size:
        """See `FrameSource.size`."""
        return self._of(video).size(video)

    def missing(self, video: Video) -> list[str]:
        """See `FrameSource.missing`."""
        return self._of(video).missing(video)

    def check(self, video: Video, position: int, fast: bool) -> Size:
        """See `FrameSource.check`."""
        return self._of(video).check(video, position, fast)


class DrawnMasks(MaskSource):
    """`<video>/<object>/<frame>.png`, above zero inside; an object without a file was not looked for on that frame.

    A sentence about several objects is annotated where all of them are; one about nothing is annotated everywhere.
    """

    def __init__(
        self, tree: FileTree | None, drawn: Mapping[str, Sequence[str]], file: Path, cache: Path | None
    ) -> None:
        """`drawn`: frames with a mask by `<video>/<object>`; every mask is looked at once, then remembered.

        `file` lists the videos: another content of it is another index.
        """
        self.tree, self.rows = tree, {key: row for row, key in enumerate(drawn)}
        listed = [Video(key, tuple(frames)) for key, frames in drawn.items()]
        self.drawn = [frozenset(video.frames) for video in listed]
        self.index = None if tree is None or not listed else LabelIndex.of_files(listed, tree, cache, [file])
        self.frames = [video.frames for video in listed]
        self.counts: Counter[str] = Counter()  # masks by video
        for key, frames in drawn.items():
            self.counts[key.rpartition("/")[0]] += len(frames)

    def soft(self) -> Iterator[tuple[str, str, int]]:
        """Object, first frame and number of frames whose masks hold more than one value besides 0."""
        for key, row in self.rows.items() if self.index is not None else ():
            many = np.flatnonzero(self.index.table(row)[:, 1:].sum(1) > 1)
            if len(many):
                yield key, self.frames[row][int(many[0])], len(many)

    def counted(self, video: Video) -> int | None:
        """See `MaskSource.counted`."""
        return self.counts[video.id]

    def read(self, video: Video, item: Item, positions: Sequence[int], size: Size) -> Masks:
        """See `MaskSource.read`."""
        return self.read_all(video, [item], positions, size)[0]

    def read_all(self, video: Video, items: Sequence[Item], positions: Sequence[int], size: Size) -> list[Masks]:
        """See `MaskSource.read_all`; each picture is decoded once."""
        wanted = dict.fromkeys(str(each) for item in items for each in item.objects or ())
        planes = {each: self._plane(f"{video.id}/{each}", video, positions, size) for each in wanted}
        found = []
        for item in items:
            masks, annotated = np.zeros((len(positions), *size), bool), np.ones(len(positions), bool)
            for each in item.objects or ():
                own, there = planes[str(each)]
                masks |= own
                annotated &= there
            masks[~annotated] = False
            found.append((torch.from_numpy(masks), torch.from_numpy(annotated)))
        return found

    def _plane(
        self, key: str, video: Video, positions: Sequence[int], size: Size
    ) -> tuple[Bool[np.ndarray, "time height width"], Bool[np.ndarray, "time"]]:
        masks, there = np.zeros((len(positions), *size), bool), np.zeros(len(positions), bool)
        drawn = self.drawn[self.rows[key]]
        for index, position in enumerate(positions):
            frame = video.frames[position]
            if frame in drawn and self.tree is not None:
                name = f"{key}/{frame}.png"
                place = f"{self.tree.place}/{name}"
                ids = decode_ids(self.tree.read(name), place)
                if ids.shape != tuple(size):
                    raise DataError(misfit(place, ids.shape, size))
                if ids.max(initial=0) and (ids[ids > 0] != ids.max()).any():
                    raise DataError(f"{place}: {SOFT}")
                masks[index], there[index] = ids > 0, True
        return masks, there

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"] | None:
        """See `MaskSource.visible`."""
        seen = np.zeros((len(item.objects or ()), len(video.frames)), bool)
        there = np.ones(len(video.frames), bool)
        where = {frame: position for position, frame in enumerate(video.frames)}
        for own, each in zip(seen, item.objects or (), strict=True):
            row = self.rows[f"{video.id}/{each}"]
            at = [where[frame] for frame in self.frames[row]]
            own[at] = self.index.table(row)[:, 1:].any(1) if self.index is not None else False
            drawn = np.zeros(len(there), bool)
            drawn[at] = True
            there &= drawn
        return seen.any(0) & there


SOFT = (
    "holds more than one value besides 0: soft edges, or several objects in one picture. "
    "One PNG holds one object: 0 outside, one value inside."
)


class OwnReader(FileReader):
    """`<root>/<split>`: annotations.json, frames/<video>/<frame>.jpg (or films), masks/<video>/<object>/<frame>.png.

    Attributes:
        listed: the file's videos as they were read.
    """

    layout, licence = LAYOUTS["plain"], "your own videos: whatever terms they came to you under"

    def __init__(
        self, root: Path | str, split: str, items: Items = "expressions", name: str = "own", cache: Path | None = None
    ) -> None:
        """Reads the file, finds frames, and looks at every mask once (remembered in `cache` or beside the masks).

        Raises:
            Refused: files are missing, masks are of no frame or no object, or hold several objects.
        """
        folder = Path(root) / split
        if not folder.is_dir():
            have = ", ".join(sorted(each.name for each in Path(root).iterdir())) if Path(root).is_dir() else "nothing"
            remedy = f"Name another split (--data.{_flag(split)} NAME, null for none); {root} holds: {have}."
            raise Refused([Problem(str(folder), f"missing: split {split}", remedy, blocks_of(split))])
        self.listed = read_annotations(folder / FILE)
        tree = needed_tree(Path(root), f"{split}/{FRAMES}", split)
        source = OwnFrames(tree, {video.id: _kind(tree, video) for video in self.listed})
        with ThreadPoolExecutor(8) as pool:
            videos = list(pool.map(lambda video: _video(video, source), self.listed))
        masks = open_tree(Path(root), f"{split}/{MASKS}")
        drawn = _drawn(self.listed, videos, masks, folder, split)
        truth = DrawnMasks(masks, drawn, folder / FILE, cache)
        refuse_if(
            Problem(f"{folder / MASKS}/{key}", f"frame {frame}{_more(count)}: {SOFT}", "", ("train", "validate"))
            for key, frame, count in truth.soft()
        )
        made = list(_items(self.listed, items))
        if not made:
            other = "add sentences, or use --data.items objects" if items == "expressions" else "draw some"
            what = f"no {items[:-1]} in any of its {len(self.listed)} videos"
            raise Refused([Problem(str(folder / FILE), what, f"There is nothing to read: {other}.", blocks_of(split))])
        hidden = not any(item.objects is not None for item in made)
        super().__init__(name, split, videos, made, source, None if hidden else truth, [folder / FILE])

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Pictures that no video lists, and masks that are missing between others."""
        for video in self.listed:
            place = f"video {video.id}"
            if video.film is None:
                there = {Path(name).stem for name in self.frames.tree.names(video.id) if name.endswith(PICTURES)}
                if lost := sorted(there - set(video.frames)):
                    what = f"{len(lost)} pictures are not in `frames`, the first: {lost[0]}"
                    yield Problem(place, what, f"Add them to {FILE}, in order, or move them away.")
            for key in video.objects if isinstance(self.truth, DrawnMasks) else ():
                yield from _gaps(f"{place}, object {key}", self.truth.frames[self.truth.rows[f"{video.id}/{key}"]])


def _gaps(place: str, frames: Sequence[str]) -> Iterator[Problem]:
    """A mask that is missing where others come at an even distance."""
    numbers = [int(frame) for frame in frames if frame.isdecimal()]
    steps = [after - before for before, after in pairwise(numbers)]
    usual = Counter(steps).most_common(1)[0][0] if len(numbers) == len(frames) and len(steps) > 2 else 0
    wide = [before for before, step in zip(numbers, steps, strict=False) if usual and step > usual]
    if wide and len(wide) <= len(steps) // 4 + 1:
        what = f"masks {usual} frame{'s' * (usual > 1)} apart, but none after {wide[0]:0{len(frames[0])}d}"
        yield Problem(place, what, "A frame without a mask counts as not looked at; draw it again if it was lost.")


def _flag(split: str) -> str:
    return f"{split}_split" if split in ("train", "val", "test", "predict") else "val_split"


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _kind(tree: FileTree, video: OwnVideo) -> str:
    """How a video's frames are stored: their suffix, or the film's name."""
    if video.film is not None:
        if not isinstance(tree, Folder):
            raise DataError(
                f"{tree.place}: the film {video.film} lies in a zip; films are read from folders: unpack it."
            )
        if not tree.exists(video.film):
            raise Refused([missing(tree.place / video.film, f"the film of video {video.id}", "train")])
        return video.film
    there, place = tree.names(video.id), f"{tree.place}/{video.id}"
    names = set(there)
    kinds = {frame: [suffix for suffix in PICTURES if frame + suffix in names] for frame in video.frames}
    for frame, found in kinds.items():
        if len(found) > 1:
            raise DataError(f"{place}: frame {frame} is there as {' and '.join(sorted(found))}; keep one of them.")
    if found := kinds[video.frames[0]]:
        return found[0]
    holds = ", ".join(there[:4]) or "nothing"
    raise DataError(
        f"{place}: no picture {video.frames[0]}{PICTURES[0]} (or {', '.join(PICTURES[1:5])}), which {FILE} lists; "
        f"it holds {holds}. Put the frames there, or list their names."
    )


def _video(video: OwnVideo, source: OwnFrames) -> Video:
    frames = video.frames
    if video.film is not None:
        frames = tuple(f"{number:05d}" for number in range(len(Film(str(source.tree.place / video.film), keep=False))))
    record = Video(video.id, frames)
    return Video(video.id, frames, source.size(record))


def _drawn(
    listed: Sequence[OwnVideo], videos: Sequence[Video], tree: FileTree | None, folder: Path, split: str
) -> dict[str, list[str]]:
    """Frames with a mask of every object that has some; refuses masks of no object or no frame."""
    problems: list[Problem] = []
    drawn: dict[str, list[str]] = {}
    blocks = blocks_of(split)[:1]
    meant = {f"{v.id}/{each}" for v in listed for s in v.sentences.values() for each in s.objects or ()}
    if tree is None and any(video.objects for video in listed):
        what = "the masks of its objects (for a split without truth, leave `objects` out of its expressions)"
        raise Refused([missing(folder / MASKS, what, split)])
    for entry, video in zip(listed, videos, strict=True) if tree is not None else ():
        for name in tree.names(entry.id):
            place = f"{tree.place}/{entry.id}/{name}"
            if name not in entry.objects:
                remedy = f"Masks lie in one folder an object; list the object in {FILE}, or move this away."
                problems.append(Problem(place, "neither an object of the video", remedy, blocks))
                continue
            files = tree.names(f"{entry.id}/{name}")
            problems += list(_strangers(place, files, video.frames, blocks))
            there = set(files)
            drawn[f"{entry.id}/{name}"] = [frame for frame in video.frames if f"{frame}.png" in there]
        for key in entry.objects:
            if not drawn.get(f"{entry.id}/{key}"):
                remedy = "Draw it on some frame (all black where it is not to be seen), or remove it from the file."
                what = "no mask on any frame" + (", but an expression means it" if f"{entry.id}/{key}" in meant else "")
                problems.append(Problem(f"{tree.place}/{entry.id}/{key}", what, remedy, blocks))
    known = {entry.id for entry in listed}
    for name in sorted(set(tree.names()) - known) if tree is not None else ():
        problems.append(
            Problem(f"{tree.place}/{name}", f"no video of {FILE}", "List it there, or move it away.", blocks)
        )
    refuse_if(problems)
    return drawn


def _strangers(place: str, files: Sequence[str], frames: Sequence[str], blocks: tuple[str, ...]) -> Iterator[Problem]:
    """Files that are no mask of a frame."""
    known = {f"{frame}.png" for frame in frames}
    if lost := [name for name in files if name not in known]:
        stems = [name[:-4] for name in files if name.endswith(".png")]
        what = f"{len(lost)} of {len(files)} files are masks of no frame, the first: {lost[0]}"
        others = sum(not name.endswith(".png") for name in lost)
        remedy = "A mask is a PNG, and its name ends with .png in small letters." if others else renaming(stems, frames)
        yield Problem(place, what, remedy, blocks)


def _items(listed: Sequence[OwnVideo], kind: Items) -> Iterator[Item]:
    writers = {one.annotator for video in listed for one in video.sentences.values()} - {None}
    artists = {one.annotator for video in listed for one in video.objects.values()} - {None}
    for index, video in enumerate(listed):
        for key, one in video.sentences.items() if kind == "expressions" else ():
            objects = one.objects
            kinds = dict.fromkeys(video.objects[each].category for each in objects or ())
            category = None if not kinds or None in kinds else ", ".join(map(str, kinds))
            subsets = _by(one.annotator, writers) + (("multi",) if objects is not None and len(objects) > 1 else ())
            yield Item(index, key, one.text, objects, subsets, Facts(category=category, fps=video.fps))
        for key, record in video.objects.items() if kind == "objects" else ():
            facts = Facts(category=record.category, fps=video.fps)
            yield Item(index, key, None, (key,), _by(record.annotator, artists), facts)


def _by(annotator: str | None, all_of_them: set[Any]) -> tuple[str, ...]:
    """The subset of one of several annotators."""
    return (f"by_{annotator}",) if annotator is not None and len(all_of_them) > 1 else ()


class OwnVideos(DiskData):
    """One's own videos in the layout of docs/own_data.md.

    Args:
        root: folder that holds train, val and test.
        train_split: name of the folder, or None for none (likewise below).
        val_split: likewise.
        test_split: likewise.
        predict_split: likewise; its expressions need no truth.
        items: "expressions" for systems that take sentences, "objects" for promptable ones.
        name: of the data set, in scores and tables.
        cache: where the index of masks is kept; None: beside the masks.
        kwargs: see `VideoData`.
    """

    opens = OwnReader

    def __init__(
        self,
        root: Path | str,
        train_split: str | None = "train",
        val_split: str | None = "val",
        test_split: str | None = "test",
        predict_split: str | None = "test",
        items: Items = "expressions",
        name: str = "own",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"items": items, "name": name, "cache": cache}
        super().__init__(root, (train_split, val_split, test_split, predict_split), options, **kwargs)
