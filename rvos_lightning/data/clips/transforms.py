"""Augmentations that treat frames, masks and words as one."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from rvos_lightning.core.bounds import Share
from rvos_lightning.data.clips.resizing import fit_size, resize_frames, resize_masks
from rvos_lightning.data.clips.sample import Augmentation, ClipSample

MIRRORED = {
    f"{a}{ending}": f"{b}{ending}"
    for a, b in (("left", "right"), ("right", "left"))
    for ending in ("", "most", "hand", "side", "ward", "wards")
}
"""Whole words that a mirror exchanges."""

TURNING = {"clockwise", "anticlockwise", "counterclockwise"}
"""Words that a mirror makes wrong and that are not exchanged: such a clip is not flipped."""

COLOURS = set(
    "red green blue yellow orange purple violet pink brown black white grey gray cyan magenta beige golden gold silver "
    "maroon navy teal turquoise tan blond blonde dark light reddish greenish bluish".split()
)
"""Words that a change of hue, a swap of channels or greyness makes wrong."""


def words_of(sample: ClipSample) -> set[str]:
    """All words of a sample's expressions, in lower case."""
    return {word for text in sample.expressions if text for word in re.findall(r"[a-z]+", text.lower())}


def mirror_words(text: str) -> str:
    """`text` with left and right exchanged as whole words ("bright" stays), capitals kept."""

    def exchange(match: re.Match[str]) -> str:
        word = match.group()
        other = MIRRORED.get(word.lower(), word)
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return re.sub(r"[A-Za-z]+", exchange, text)


class HorizontalFlip(Augmentation):
    """Mirrors a clip and its words with it.

    Args:
        p: probability.
        swap_words: exchange left and right in the expressions; False: clips with such words are not flipped.
    """

    def __init__(self, p: Share = 0.5, swap_words: bool = True) -> None:
        self.p, self.swap_words = p, swap_words

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        words = words_of(sample)
        if random.random() >= self.p or words & TURNING or (words & set(MIRRORED) and not self.swap_words):
            return sample
        texts = [text if text is None else mirror_words(text) for text in sample.expressions]
        context = None if sample.context is None else sample.context.flip(-1)
        return replace(
            sample, frames=sample.frames.flip(-1), masks=sample.masks.flip(-1), context=context, expressions=texts
        )


class ColourJitter(Augmentation):
    """Brightness, contrast, saturation and hue (SAM 2: 0.1, 0.03, 0.03 a clip, then 0.1, 0.05, 0.05 a frame).

    Args:
        brightness, contrast, saturation: factors from 1 - x to 1 + x.
        hue: shift up to this share of the colour circle; left out where the words name a colour.
        p: probability.
        per_frame: draw anew for every frame.
    """

    def __init__(
        self,
        brightness: float = 0.1,
        contrast: float = 0.03,
        saturation: float = 0.03,
        hue: float = 0.0,
        p: Share = 1.0,
        per_frame: bool = False,
    ) -> None:
        self.ranges = (brightness, contrast, saturation, hue)
        self.p, self.per_frame = p, per_frame

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        if random.random() >= self.p:
            return sample
        keep_hue = bool(words_of(sample) & COLOURS)
        parts = sample.frames.split(1) if self.per_frame else [sample.frames]
        return replace(sample, frames=torch.cat([self._jitter(part, keep_hue, random) for part in parts]))

    def _jitter(self, frames: Tensor, keep_hue: bool, random: np.random.Generator) -> Tensor:
        draws = random.uniform(-1, 1, size=4)
        changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
        for change, draw, reach in zip(changes, draws, self.ranges[:3], strict=False):
            if reach:
                frames = change(frames, 1 + float(draw) * reach)
        if self.ranges[3] and not keep_hue:
            frames = F.adjust_hue(frames, float(draws[3]) * self.ranges[3])
        return frames


class Greyscale(Augmentation):
    """Grey pictures with probability `p` (SAM 2: 0.05), never where the words name a colour."""

    def __init__(self, p: Share = 0.05) -> None:
        self.p = p

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        if random.random() >= self.p or words_of(sample) & COLOURS:
            return sample
        return replace(sample, frames=F.rgb_to_grayscale(sample.frames, 3))


class PhotometricDistortion(Augmentation):
    """Brightness, contrast, saturation and hue, each with probability one half, and order of channels, drawn per frame.

    The augmentation of the SSD line; the defaults are ReferFormer's, which SAMWISE has switched off. SgMg's: contrast
    and saturation 0.2, hue 0, channels 0.2. Hue and channels are left alone where the words name a colour; values are
    cut at white (SgMg's release lets them wrap to black).

    Args:
        contrast, saturation: factors from 1 - x to 1 + x.
        hue: shift up to so many degrees.
        channels: probability that the channels change places.
    """

    def __init__(
        self, contrast: float = 0.5, saturation: float = 0.5, hue: float = 18.0, channels: Share = 0.5
    ) -> None:
        self.contrast, self.saturation, self.hue, self.channels = contrast, saturation, hue, channels

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        coloured = bool(words_of(sample) & COLOURS)
        return replace(sample, frames=torch.cat([self._one(f, coloured, random) for f in sample.frames.split(1)]))

    def _one(self, frame: Tensor, coloured: bool, random: np.random.Generator) -> Tensor:
        do = random.random(5) < (0.5, 0.5, 0.5, 0.5, self.channels)
        draws = random.uniform(-1, 1, size=4)
        if do[0]:
            frame = (frame.int() + round(32 * float(draws[0]))).clamp(0, 255).to(torch.uint8)
        if do[1]:
            frame = F.adjust_contrast(frame, 1 + self.contrast * float(draws[1]))
        if do[2]:
            frame = F.adjust_saturation(frame, 1 + self.saturation * float(draws[2]))
        if do[3] and self.hue and not coloured:
            frame = F.adjust_hue(frame, float(draws[3]) * self.hue / 360)
        order = random.permutation(3)
        return frame[:, torch.from_numpy(order)] if do[4] and not coloured else frame


class Affine(Augmentation):
    """Rotation, shear, shift and scale of a whole clip (SAM 2: 25 degrees, shear 20).

    Not done where it would push an object out of the clip's first frame.

    Args:
        degrees: rotation up to so many degrees either way.
        shear: shear up to so many degrees, both axes.
        translate: shift up to this share of the picture's sides.
        scale: smallest and largest factor.
        fill: RGB of what comes into view (SAM 2's mean colour).
        p: probability.
    """

    def __init__(
        self,
        degrees: float = 25.0,
        shear: float = 20.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        fill: tuple[int, int, int] = (123, 116, 103),
        p: Share = 1.0,
    ) -> None:
        self.degrees, self.shear, self.translate = degrees, shear, translate
        self.scale, self.fill, self.p = scale, fill, p

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        height, width = sample.frames.shape[-2:]
        draws = [float(d) for d in random.uniform(-1, 1, size=5)]
        warp = {
            "angle": draws[0] * self.degrees,
            "translate": [round(draws[1] * self.translate * width), round(draws[2] * self.translate * height)],
            "scale": float(random.uniform(*self.scale)),
            "shear": [draws[3] * self.shear, draws[4] * self.shear],
        }
        if random.random() >= self.p:
            return sample
        masks = F.affine(sample.masks.to(torch.uint8), **warp).bool()
        if (sample.masks[:, 0].flatten(1).any(1) & ~masks[:, 0].flatten(1).any(1)).any():
            return sample
        bilinear = {"interpolation": InterpolationMode.BILINEAR, "fill": list(self.fill)}
        return replace(sample, frames=F.affine(sample.frames, **warp, **bilinear), masks=masks)


class MultiScale(Augmentation):
    """Another size for each clip (ReferFormer: short side 288 to 512, long side at most 640).

    Args:
        short_sides: drawn from these, in pixels.
        longest: the long side is at most this.
    """

    def __init__(self, short_sides: Sequence[int], longest: int = 640) -> None:
        self.short_sides, self.longest = tuple(short_sides), longest

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        height, width = sample.frames.shape[-2:]
        short = self.short_sides[int(random.integers(len(self.short_sides)))]
        size = fit_size((height, width), (short, self.longest), "short_side")
        return replace(
            sample,
            frames=resize_frames(sample.frames, size),
            masks=resize_masks(sample.masks, size),
            context=None if sample.context is None else resize_frames(sample.context, size),
            meta=[replace(m, size=size) for m in sample.meta],
        )


class RandomCrop(Augmentation):
    """A random part of the picture, of sides drawn between two bounds (ReferFormer: 384 to 600), with probability `p`.

    Not done where it would lose every object on every frame.
    """

    def __init__(self, smallest: int = 384, largest: int = 600, p: Share = 0.5) -> None:
        self.smallest, self.largest, self.p = smallest, largest, p

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        sides, corner = [], []
        for side in sample.frames.shape[-2:]:
            low, high = min(self.smallest, side), min(self.largest, side)
            sides.append(int(random.integers(low, high + 1)))
            corner.append(int(random.integers(0, side - sides[-1] + 1)))
        window = (..., slice(corner[0], corner[0] + sides[0]), slice(corner[1], corner[1] + sides[1]))
        masks = sample.masks[window]
        if random.random() >= self.p or (sample.masks.any() and not masks.any()):
            return sample
        meta = [replace(m, size=(sides[0], sides[1])) for m in sample.meta]
        return replace(sample, frames=sample.frames[window], masks=masks, meta=meta)
