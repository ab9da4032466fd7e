"""A control: the same videos with one another's sentences. A network that listens must score far lower."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.data.reader import Item, Reader


class _Exchanged(Sequence):
    """Items that keep their masks and speak another video's sentence."""

    def __init__(self, items: Sequence[Item], seed: int):
        self.items = items
        self.source = np.random.default_rng(seed).permutation(len(items))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        item = self.items[index]
        if item.expression is None:
            return item
        start = int(self.source[index])
        for step in range(len(self.items)):  # the first item from there on that is another video with other words
            other = self.items[(start + step) % len(self.items)]
            if other.video != item.video and other.expression != item.expression:
                return replace(item, expression=other.expression)
        return item

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


class ShuffledExpressions(Reader):
    """A reader whose expressions are exchanged between videos.

    Args:
        reader: where frames, masks and sentences come from.
        seed: of the exchange.
    """

    def __init__(self, reader: Reader, seed: int = 0):
        self.reader = reader
        self.name, self.split, self.videos = f"{reader.name} with shuffled expressions", reader.split, reader.videos
        self.items = _Exchanged(reader.items, seed)
        self.protocol, self.layout, self.besides = reader.protocol, reader.layout, reader.besides
        self.pictures = reader.pictures

    def read_frames(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """The wrapped reader's frames."""
        return self.reader.read_frames(video, positions)

    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]] | None:
        """The wrapped reader's masks: those of the item's own sentence."""
        return self.reader.read_masks(item, positions)

    def read_masks_of(
        self, items: Sequence[int], positions: Sequence[int]
    ) -> list[tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]] | None]:
        """The wrapped reader's."""
        return self.reader.read_masks_of(items, positions)

    def read_beside(self, name: str, item: int, positions: Sequence[int]) -> Tensor:
        """The wrapped reader's."""
        return self.reader.read_beside(name, item, positions)
