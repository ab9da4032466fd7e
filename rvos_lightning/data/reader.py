"""The seam between a layout on disk (or a generator) and everything that samples, transforms and batches clips.

A reader lists the videos and items of one split and reads frames and masks by position; it knows nothing of
clips, sizes, epochs or augmentation. One small file a layout.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from rvos_lightning.core.types import ClipMeta, Facts
from rvos_lightning.data.errors import DataError as DataError
from rvos_lightning.data.problems import Problem
from rvos_lightning.data.shared_pictures import Pictures
from rvos_lightning.metrics.expressions import JAndF
from rvos_lightning.metrics.layouts import LAYOUTS, Layout
from rvos_lightning.metrics.rows import FrameRows


@dataclass(frozen=True)
class Video:
    """One video (or still image: a video of one frame).

    Attributes:
        id: identifier in its data set; may contain slashes.
        frames: frame names in temporal order (file stems as the annotation file writes them).
        size: (height, width) in pixels; None when only reading a frame can tell.
    """

    id: str
    frames: tuple[str, ...]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Item:
    """One expression or object of a video.

    Attributes:
        video: index into `Reader.videos`.
        id: identifier, unique inside the video.
        expression: the raw sentence; None in promptable-VOS sets.
        objects: ids of the objects it means (palette labels, annotation ids); empty = no target; None = hidden.
        subsets: named subsets this item is scored in, too.
        facts: what protocols ask for besides (annotator, object, category, ...).
    """

    video: int
    id: str
    expression: str | None = None
    objects: tuple[int | str, ...] | None = None
    subsets: tuple[str, ...] = ()
    facts: Facts = Facts()

    @property
    def no_target(self) -> bool:
        """The data set says that it means nothing in its video."""
        return self.objects == ()


class Count(NamedTuple):
    """Published numbers of one split; several where releases differ.

    Attributes:
        videos: videos (or pictures).
        items: expressions, sentences or objects; empty = not published.
        source: who says so.
        references: referred objects of the refer API, each with several sentences; empty = not published.
    """

    videos: tuple[int, ...]
    items: tuple[int, ...]
    source: str = "the data set's page or paper"
    references: tuple[int, ...] = ()


RECALLED = "recalled from the literature, not read off a page"


class Reader(ABC):
    """One split of one data set. Picklable and cheap to copy to a worker: big tables live in memory maps.

    Attributes:
        name: the data set's name, e.g. "mevis".
        split: e.g. "train", "valid_u".
        videos: every video of the split.
        items: every item of the split; several items may share a video.
        protocol: builds the metric that the data set's paper scores with.
        layout: how its server or scorer wants predicted masks on disk.
        counts: published numbers of its splits.
        licence: name and terms.
        besides: optional fields of `Targets` that `read_beside` knows.
        pictures: of still images of COCO, the number that every data set knows them by, one a video; else empty.
    """

    protocol: Callable[[], FrameRows] = JAndF
    layout: Layout = LAYOUTS["plain"]
    counts: Mapping[str, Count] = MappingProxyType({})
    licence: str = ""
    besides: tuple[str, ...] = ()
    pictures: Sequence[int] = ()

    name: str
    split: str
    videos: Sequence[Video]
    items: Sequence[Item]

    @classmethod
    def judged_pictures(cls, root: Path, **options: Any) -> list[Pictures]:
        """Of still images of COCO: the pictures of every split on disk but the training one, without opening any.

        Args:
            root: the data set's folder.
            options: what the reader is told besides root and split.
        """
        return []

    @abstractmethod
    def read_frames(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """RGB frames of a video at positions in `Video.frames` (repeats allowed).

        Raises:
            DataError: a file is missing or unreadable; names the file and the remedy.
        """

    @abstractmethod
    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]] | None:
        """Union mask of the item's objects, and which of those frames are annotated; None where truth is hidden."""

    def read_masks_of(
        self, items: Sequence[int], positions: Sequence[int]
    ) -> list[tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]] | None]:
        """`read_masks` of several items; readers whose items share files decode each file once."""
        return [self.read_masks(item, positions) for item in items]

    def read_instances(self, item: int, positions: Sequence[int]) -> Bool[Tensor, "objects time height width"] | None:
        """The item's objects one by one; the union as one where a layout does not separate them. None where hidden."""
        truth = self.read_masks(item, positions)
        return None if truth is None else truth[0][None]

    def read_beside(self, name: str, item: int, positions: Sequence[int]) -> Tensor:
        """A field of `Targets` named in `besides`, [time height width], at positions of the item's video."""
        raise NotImplementedError(name)

    def visible(self, item: int) -> Bool[Tensor, "frames"] | None:
        """Frames of the item's video on which truth is known to show it, without decoding a mask; None = unknown.

        A sampler chooses its anchor among these, so that a clip is not wasted on an absent object.
        """
        return None

    def problems(self, fast: bool) -> Iterator[Problem]:
        """What is wrong with this layout in particular; the doctor asks, before the checks common to all."""
        return iter(())

    def item_videos(self) -> Int[np.ndarray, "items"]:
        """`Item.video` of every item; a reader with its own table answers without building the items."""
        return np.fromiter((item.video for item in self.items), dtype=np.int64, count=len(self.items))


def expected_items(reader: Reader) -> Iterator[ClipMeta]:
    """Every item of a split with all frames of its video; size (0, 0) where only a frame could tell."""
    for item in reader.items:
        video = reader.videos[item.video]
        size = (0, 0) if video.size is None else (int(video.size[0]), int(video.size[1]))
        positions = tuple(range(len(video.frames)))
        own = {"subsets": item.subsets, "facts": item.facts, "no_target": item.no_target}
        yield ClipMeta(video.id, item.id, tuple(video.frames), size, size, positions, reader.name, **own)
