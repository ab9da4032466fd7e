"""The abstract callback that receives masks."""

from abc import ABC, abstractmethod

from lightning.pytorch import Callback

from rvos_lightning.core.types import SegmentedWindow


class MaskSink(Callback, ABC):
    """Receives masks window by window in validation, test and prediction, so that nothing long is ever held.

    `RVOSModule` hands every window of a video, in order, to each sink among the trainer's callbacks. Windows of
    one video arrive together; the last has `clip.meta[i].positions[-1] == last`.
    """

    @abstractmethod
    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Take one window.

        Args:
            stage: "val", "test" or "predict".
            window: frames at network size, masks at the targets' or the original size.
            last: True on the video's final window.
        """
