"""Truth as PNG files: one map of object numbers a frame, or one binary picture an object and frame."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.file_reader import Masks, MaskSource, misfit
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import Size, decode_ids

VOID = 255  # DAVIS: pixels that count for nothing

OtherSize = Literal["error", "nearest"]
"""A mask that is not of its frame's size: refuse it, or stretch it to the frame by nearest neighbour."""


class IdMaps(MaskSource):
    """`<video>/<frame>.png` holds object numbers; an item's objects are some of them."""

    def __init__(
        self, tree: FileTree, annotated: Literal["all", "present"] = "all", other: OtherSize = "error"
    ) -> None:
        """`annotated`: every frame must have a file ("all"), or those without one are not annotated ("present")."""
        self.tree, self.annotated, self.other = tree, annotated, other

    def ids(self, video: Video, position: int, size: Size) -> UInt8[np.ndarray, "height width"] | None:
        """Object numbers of one frame, void included; None where there is no file and need not be one."""
        name = f"{video.id}/{video.frames[position]}.png"
        if self.annotated == "present" and not self.tree.exists(name):
            return None
        ids = decode_ids(self.tree.read(name), f"{self.tree.place}/{name}")
        return fit(ids, size, self.other, f"{self.tree.place}/{name}")

    def void(self, video: Video, positions: Sequence[int], size: Size) -> Bool[Tensor, "time height width"]:
        """See `MaskSource.void`."""
        void = np.zeros((len(positions), *size), bool)
        for index, position in enumerate(positions):
            ids = self.ids(video, position, size)
            if ids is not None:
                void[index] = ids == VOID
        return torch.from_numpy(void)

    def counted(self, video: Video) -> int | None:
        """See `MaskSource.counted`."""
        if self.annotated == "all":
            return None
        there = set(self.tree.names(video.id))
        return sum(f"{frame}.png" in there for frame in video.frames)

    def missing(self, video: Video) -> list[str]:
        """See `MaskSource.missing`."""
        if self.annotated == "present":
            return []
        there = set(self.tree.names(video.id))
        return [f"{video.id}/{frame}.png" for frame in video.frames if f"{frame}.png" not in there]

    def read(self, video: Video, item: Item, positions: Sequence[int], size: Size) -> Masks:
        """See `MaskSource.read`."""
        return self.read_all(video, [item], positions, size)[0]

    def read_all(self, video: Video, items: Sequence[Item], positions: Sequence[int], size: Size) -> list[Masks]:
        """See `MaskSource.read_all`; each map is decoded once, whatever the number of items."""
        masks = np.zeros((len(items), len(positions), *size), bool)
        annotated = np.zeros(len(positions), bool)
        numbers = [[int(each) for each in item.objects or ()] for item in items]
        for index, position in enumerate(positions):
            ids = self.ids(video, position, size)
            if ids is None:
                continue
            annotated[index] = True
            for own, labels in zip(masks[:, index], numbers, strict=True):
                for label in labels:
                    own |= ids == label
        return [(torch.from_numpy(own), torch.from_numpy(annotated.copy())) for own in masks]


class BinaryFolders(MaskSource):
    """`<video>/<object>/<frame>.png`, anything above zero inside."""

    def __init__(
        self, tree: FileTree, other: OtherSize = "error", annotated: Literal["present", "all"] = "present"
    ) -> None:
        """PNG files of `tree`; objects are folder names.

        `annotated`: frames without a file are not annotated ("present"), or do not show the object ("all").
        """
        self.tree, self.other, self.annotated = tree, other, annotated

    def counted(self, video: Video) -> int | None:
        """See `MaskSource.counted`."""
        frames = {f"{frame}.png" for frame in video.frames}
        folders = (f"{video.id}/{each}" for each in self.tree.names(video.id))
        return sum(len(frames.intersection(self.tree.names(folder))) for folder in folders)

    def read(self, video: Video, item: Item, positions: Sequence[int], size: Size) -> Masks:
        """See `MaskSource.read`."""
        masks = np.zeros((len(positions), *size), bool)
        annotated = np.full(len(positions), self.annotated == "all")
        for index, position in enumerate(positions):
            for each in item.objects or ():
                name = f"{video.id}/{each}/{video.frames[position]}.png"
                if self.tree.exists(name):
                    place = f"{self.tree.place}/{name}"
                    ids = fit(decode_ids(self.tree.read(name), place), size, self.other, place)
                    masks[index] |= self.inside(ids, item)
                    annotated[index] = True
        return torch.from_numpy(masks), torch.from_numpy(annotated)

    def inside(self, ids: UInt8[np.ndarray, "height width"], item: Item) -> Bool[np.ndarray, "height width"]:
        """The item's pixels of a picture."""
        return ids > 0

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"] | None:
        """See `MaskSource.visible`: frames that have a file, where only those may show an object."""
        if self.annotated == "present":
            return None
        there = {name for each in item.objects or () for name in self.tree.names(f"{video.id}/{each}")}
        return np.array([f"{frame}.png" in there for frame in video.frames], bool)


def fit(ids: UInt8[np.ndarray, "h w"], size: Size, other: OtherSize, place: str) -> UInt8[np.ndarray, "height width"]:
    """`ids` at the frame's size.

    Raises:
        DataError: it has another size and must not be stretched.
    """
    if ids.shape == tuple(size):
        return ids
    if other == "error":
        raise DataError(misfit(place, ids.shape, size) + " `other_size: nearest` stretches the mask to the frame.")
    from PIL import Image

    return np.asarray(Image.fromarray(ids).resize((size[1], size[0]), Image.Resampling.NEAREST))
