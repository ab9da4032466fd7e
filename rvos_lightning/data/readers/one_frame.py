"""Truth of data sets whose sentences are scored on one frame each."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool

from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.file_reader import Masks, MaskSource, misfit
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import Size


class OneFrame(MaskSource):
    """Only the item's own frame, `Facts.frame`, is annotated."""

    def __init__(self, tree: FileTree) -> None:
        """Files of `tree`."""
        self.tree = tree

    @abstractmethod
    def file(self, video: Video, item: Item) -> str:
        """Name of the file that holds the item's mask, below the tree."""

    @abstractmethod
    def mask(self, data: bytes, item: Item, place: str) -> Bool[np.ndarray, "height width"]:
        """The item's mask on its frame.

        Raises:
            DataError: the file does not hold it; names the place.
        """

    def read(self, video: Video, item: Item, positions: Sequence[int], size: Size) -> Masks:
        """See `MaskSource.read`."""
        masks = np.zeros((len(positions), *size), bool)
        annotated = np.zeros(len(positions), bool)
        frame = item.facts.frame
        if frame in positions:
            name = self.file(video, item)
            place = f"{self.tree.place}/{name}"
            mask = self.mask(self.tree.read(name), item, place)
            if mask.shape != tuple(size):
                raise DataError(misfit(place, mask.shape, size))
            index = list(positions).index(frame)
            masks[index], annotated[index] = mask, True
        return torch.from_numpy(masks), torch.from_numpy(annotated)

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"]:
        """See `MaskSource.visible`."""
        seen = np.zeros(len(video.frames), bool)
        seen[item.facts.frame] = True
        return seen
