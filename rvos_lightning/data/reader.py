"""The seam between a layout on disk (or a generator) and everything that samples, transforms and batches clips.

A reader lists the videos and items of one split and reads frames and masks by position; it knows nothing of
clips, sizes, epochs or augmentation. One small file a layout.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from rvos_lightning.core.types import Facts


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


class Reader(ABC):
    """One split of one data set. Picklable and cheap to copy to a worker: big tables live in memory maps.

    Attributes:
        name: the data set's name, e.g. "mevis".
        split: e.g. "train", "valid_u".
        videos: every video of the split.
        items: every item of the split; several items may share a video.
    """

    name: str
    split: str
    videos: Sequence[Video]
    items: Sequence[Item]

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

    def read_instances(self, item: int, positions: Sequence[int]) -> Bool[Tensor, "objects time height width"] | None:
        """The item's objects one by one; the union as one where a layout does not separate them. None where hidden."""
        truth = self.read_masks(item, positions)
        return None if truth is None else truth[0][None]

    def visible(self, item: int) -> Bool[Tensor, "frames"] | None:
        """Frames of the item's video on which truth is known to show it, without decoding a mask; None = unknown.

        A sampler chooses its anchor among these, so that a clip is not wasted on an absent object.
        """
        return None

    def item_videos(self) -> Int[np.ndarray, "items"]:
        """`Item.video` of every item; a reader with its own table answers without building the items."""
        return np.fromiter((item.video for item in self.items), dtype=np.int64, count=len(self.items))


class DataError(ValueError):
    """Data on disk that cannot be used; the message names file, field and remedy."""
