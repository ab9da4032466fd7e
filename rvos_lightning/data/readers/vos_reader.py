"""Readers of promptable sets laid out as folders of frames and palette masks; an item is an object of a video."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Problem, blocks_of, refuse_if
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.file_reader import FileReader, Masks
from rvos_lightning.data.readers.label_index import LabelIndex
from rvos_lightning.data.readers.layout import frame_problems
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import ImageFrames, Size
from rvos_lightning.data.sources.png_masks import IdMaps, OtherSize

Public = Literal["all", "some", "first"]
"""Masks are public of every frame, of some frames, or only the first one of each object, which is the prompt."""


class IndexedMaps(IdMaps):
    """Object maps whose labels are known from an index.

    With `public` "first" a frame is annotated for an item only where its map shows the item: other objects' first
    appearances say nothing about it.
    """

    def __init__(self, tree: FileTree, index: LabelIndex, public: Public = "all", other: OtherSize = "error") -> None:
        """Maps of `tree`, frames without a file being not annotated."""
        super().__init__(tree, "present", other)
        self.index, self.public = index, public

    def read_all(self, video: Video, items: Sequence[Item], positions: Sequence[int], size: Size) -> list[Masks]:
        """See `MaskSource.read_all`."""
        truths = super().read_all(video, items, positions, size)
        if self.public == "first":
            for item, (_, annotated) in zip(items, truths, strict=True):
                annotated &= torch.from_numpy(self.visible(video, item)[list(positions)])
        return truths

    def missing(self, video: Video) -> list[str]:
        """See `MaskSource.missing`."""
        if self.public != "all":
            return []
        there = set(self.tree.names(video.id))
        return [f"{video.id}/{frame}.png" for frame in video.frames if f"{frame}.png" not in there]

    def counted(self, video: Video) -> int | None:
        """See `MaskSource.counted`."""
        return None if self.public == "all" else super().counted(video)

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"]:
        """See `MaskSource.visible`."""
        return self.index.shows(item.video, [int(each) for each in item.objects or ()])


class VosReader(FileReader):
    """Objects of videos, each with the position of its first frame and, where known, its category in `Item.facts`."""

    def __init__(
        self,
        name: str,
        split: str,
        videos: Sequence[Video],
        frames: FileTree,
        masks: FileTree,
        index: LabelIndex,
        public: Public = "all",
        labels: Sequence[Sequence[int]] | None = None,
        categories: Mapping[tuple[str, int], str] | None = None,
        trained: Container[str] | None = None,
        seen: Sequence[bool] | None = None,
        other_size: OtherSize = "error",
        suffix: str = ".jpg",
        truth: IndexedMaps | None = None,
    ) -> None:
        """`labels`: objects of each video where a protocol fixes them; else all that the index shows.

        `trained`: categories that occur in training, where a protocol keeps the others apart; or `seen`: whether each
        video's do. `truth`: None for the maps of `masks`.
        """
        lost = (frame_problems(v.id, v.frames, masks.names(v.id), split, str(frames.place)) for v in videos)
        refuse_if(chain.from_iterable(lost))
        truth = truth or IndexedMaps(masks, index, public, other_size)
        items = []
        for number, video in enumerate(videos):
            for label in index.labels(number) if labels is None else labels[number]:
                item = Item(number, str(label), None, (label,))
                shown = np.flatnonzero(truth.visible(video, item))
                category = (categories or {}).get((video.id, label))
                known = None if category is None or trained is None else category in trained
                known = known if seen is None else seen[number]
                facts = Facts(label, category=category, seen=known, frame=int(shown[0]) if len(shown) else None)
                items.append(replace(item, facts=facts))
        if not items:
            held = np.flatnonzero(np.unpackbits(index.bits, axis=1).any(0)).tolist()
            what = f"no object in any mask; they hold the values {held[:8]}, of which 0 is background and 255 void"
            refuse_if(
                [Problem(str(masks.place), what, "Save object numbers 1, 2, ... in the masks.", blocks_of(split))]
            )
        super().__init__(name, split, videos, items, ImageFrames(frames, suffix), truth, [])

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Videos without an object."""
        have = {item.video for item in self.items}
        for number in sorted(set(range(len(self.videos))) - have):
            yield Problem(f"video {self.videos[number].id}", "no object in any of its masks", "Unpack its masks again.")


def list_videos(frames: FileTree, masks: FileTree | None = None, names: Sequence[str] | None = None) -> list[Video]:
    """Videos of a tree of frames: all of its folders, or those named, or those that have masks.

    Raises:
        DataError: a named video has no frame.
    """
    folders = set(masks.names()) if masks is not None and names is None else None
    chosen = [n for n in frames.names() if not n.startswith(".")] if names is None else list(names)
    videos = []
    for name in chosen:
        if folders is not None and name not in folders:
            continue
        stems = tuple(
            entry.rsplit(".", 1)[0] for entry in frames.names(name) if entry.endswith((".jpg", ".jpeg", ".png"))
        )
        if not stems:
            raise DataError(f"{frames.place}/{name}: no frames of video {name}. Unpack the frames again.")
        videos.append(Video(name, stems))
    return videos


def suffix_of(frames: FileTree, videos: Sequence[Video]) -> str:
    """The ending of frame files, judged by the first video."""
    entries = frames.names(videos[0].id) if videos else []
    return next((f".{entry.rsplit('.', 1)[1]}" for entry in entries if entry.startswith(videos[0].frames[0])), ".jpg")
