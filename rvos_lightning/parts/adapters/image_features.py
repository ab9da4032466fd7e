"""No language, no time: the segmenter's own features."""

from rvos_lightning.core.seams import Adapter, Segmenter
from rvos_lightning.core.types import Clip, Features


class ImageFeatures(Adapter):
    """Every frame as the segmenter encodes it; each video is encoded once."""

    def forward(self, clip: Clip, segmenter: Segmenter) -> Features:
        """All levels of every frame, for every item."""
        levels = segmenter.encode(clip.frames.flatten(0, 1))
        return Features(tuple(level.unflatten(0, (-1, clip.time))[clip.video] for level in levels))
