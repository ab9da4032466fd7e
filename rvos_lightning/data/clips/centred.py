"""Evaluation around the one frame that a sentence was written for: every item becomes a short video of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from rvos_lightning.data.clips.sampling import around
from rvos_lightning.data.reader import DataError, Item, Reader, Video


class _Made(Sequence):
    """A sequence as long as another, made element by element."""

    def __init__(self, source: Sequence, make: object) -> None:
        self.source, self.make = source, make

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> object:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.make(index)  # type: ignore[operator]

    def __iter__(self) -> Iterator[object]:
        return (self[index] for index in range(len(self)))


class CentredItems(Reader):
    """A reader whose items each have a video of `length` frames around their own frame, which alone is annotated.

    Args:
        reader: where frames, masks and sentences come from; its items know their frame (A2D, JHMDB).
        length: frames; the annotated one is at `length // 2`, the video's ends repeat.
    """

    def __init__(self, reader: Reader, length: int) -> None:
        self.reader, self.length = reader, length
        self.name, self.split = reader.name, reader.split
        self.items = _Made(reader.items, self._item)
        self.videos = _Made(reader.items, self._video)

    def positions(self, item: int) -> list[int]:
        """Where the item's frames are in its whole video.

        Raises:
            DataError: the data set does not say which frame an item is about.
        """
        entry = self.reader.items[item]
        if entry.facts.frame is None:
            raise DataError(
                f"data.around: {self.name} does not say which frame an expression is about; leave it out (null)"
            )
        return around(len(self.reader.videos[entry.video].frames), self.length, entry.facts.frame)

    def _item(self, index: int) -> Item:
        return replace(self.reader.items[index], video=index)

    def _video(self, index: int) -> Video:
        whole = self.reader.videos[self.reader.items[index].video]
        return replace(whole, frames=tuple(whole.frames[p] for p in self.positions(index)))

    def read_frames(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `Reader`."""
        places = self.positions(video)
        return self.reader.read_frames(self.reader.items[video].video, [places[p] for p in positions])

    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]] | None:
        """See `Reader`; repeats of the annotated frame are not annotated."""
        places = self.positions(item)
        truth = self.reader.read_masks(item, [places[p] for p in positions])
        if truth is None:
            return None
        masks, annotated = truth
        middle = torch.tensor([p == self.length // 2 for p in positions])
        return masks, annotated & middle

    def item_videos(self) -> Int[np.ndarray, "items"]:
        """Every item has its own."""
        return np.arange(len(self.reader.items))
