"""Scale and crop of the ReferFormer line, and its way with words."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rvos_lightning.core.bounds import Share
from rvos_lightning.data.clips.sample import Augmentation, ClipSample
from rvos_lightning.data.clips.transforms import MultiScale, RandomCrop


class ScaleOrCrop(Augmentation):
    """One half of the clips is scaled to a random short side; the other half first scaled, cropped, and then scaled.

    ReferFormer's and SgMg's transforms of Ref-YouTube-VOS and RefCOCO; give `resize: none`, so that pictures come as
    they are. The same for all frames of a clip. Where a crop would lose the object everywhere, there is none.

    Args:
        sides: short sides to choose from.
        longest: most for the long side.
        first_sides: short sides before a crop.
        crop: smallest and largest side of a crop.
        p: probability of scaling alone.
        whole_sides, whole_longest: as `sides` and `longest` where there is no crop; None: the same.
    """

    def __init__(
        self,
        sides: Sequence[int] = (288, 320, 352, 392, 416, 448, 480, 512),
        longest: int = 640,
        first_sides: Sequence[int] = (400, 500, 600),
        crop: tuple[int, int] = (384, 600),
        p: Share = 0.5,
        whole_sides: Sequence[int] | None = None,
        whole_longest: int | None = None,
    ) -> None:
        self.p = p
        self.alone = MultiScale(whole_sides or sides, whole_longest or longest)
        self.first, self.last = MultiScale(first_sides, 2**31 - 1), MultiScale(sides, longest)
        self.crop = RandomCrop(*crop, p=1.0)

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        if random.random() < self.p:
            return self.alone(sample, random)
        return self.last(self.crop(self.first(sample, random), random), random)


class PlainWords(Augmentation):
    """Sentences in lower case, single spaces between words; ReferFormer's line trains so, and tests on raw ones."""

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        texts = [text if text is None else " ".join(text.lower().split()) for text in sample.expressions]
        return replace(sample, expressions=texts)
