"""Which frames of a video make up a training clip: one named class a published rule.

Every rule is a pure function of (video length, clip length, anchor, random generator); positions come out sorted
unless the rule reverses time, and repeat only where the published rule repeats them.
"""

from abc import ABC, abstractmethod

import numpy as np

from rvos_lightning.core.bounds import Share


class ClipSampling(ABC):
    """Draws the positions of a training clip's frames."""

    @abstractmethod
    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """Positions of a clip.

        Args:
            frames: number of frames in the video.
            length: number of positions wanted; a rule may return fewer for a shorter video and says so.
            anchor: a position that anchored rules build the clip around.
            random: the only source of randomness.
        """


def _distinct(pool: list[int], count: int, random: np.random.Generator) -> list[int]:
    return [pool[i] for i in random.permutation(len(pool))[:count]]


class LocalGlobal(ClipSampling):
    """The anchor, one frame 1-3 before and one 1-3 after it, the rest from outside that span (ReferFormer's data set).

    SAMWISE calls it "global" and uses it for MeViS with 8 frames; SgMg with 5. Borders repeat positions, as
    published: at anchor 0 position 0 occurs twice. Where the video is shorter than the draw, SAMWISE's form is
    followed (draws with replacement until full).
    """

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """Exactly `length` sorted positions."""
        if length == 1:
            return [anchor]
        before, after = random.integers(1, 4, size=2)
        near = [max(0, anchor - int(before)), anchor, min(frames - 1, anchor + int(after))][:length]
        missing = length - len(near)
        outside = list(range(min(near))) + list(range(max(near), frames))
        if len(outside) > missing:
            near += _distinct(outside, missing, random)
        elif frames >= missing:
            near += _distinct(list(range(frames)), missing, random)
        else:
            near += [int(p) for p in random.integers(0, frames, size=missing)]
        return sorted(near)


class Local(ClipSampling):
    """Half the frames shortly before the anchor, half shortly after (SAMWISE on Ref-YouTube-VOS, 8 frames).

    The anchor itself need not be in the clip, as published.
    """

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """Exactly `length` sorted positions; repeats only where the video is too short."""
        half = length // 2
        earlier = list(range(max(anchor - length, 0), anchor))
        later = list(range(anchor, min(anchor + length, frames)))
        chosen = _distinct(earlier, min(anchor, half), random)
        chosen += _distinct(later, min(max(frames - anchor - 1, 0), half), random)
        if len(chosen) < length and anchor not in chosen:
            chosen.append(anchor)
        around = range(max(anchor - 2 * length, 0), min(anchor + 2 * length, frames))
        fresh = [p for p in around if p not in set(chosen)]
        chosen += _distinct(fresh, max(length - len(chosen), 0), random)
        if len(chosen) < length:
            chosen += [int(p) for p in random.integers(0, frames, size=length - len(chosen))]
        return sorted(chosen[:length])


class Uniform(ClipSampling):
    """Evenly spread from the first frame to the last, `numpy.linspace(0, frames - 1, length)` floored (Sa2VA-i)."""

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """Exactly `length` sorted positions; repeats when the video is shorter."""
        return uniform_positions(frames, length)


class UniformWithOffset(ClipSampling):
    """Evenly spread with one random shift for the whole clip (Sa2VA-i fine-tuning).

    Args:
        offset: a fixed shift in units of the interval, -0.5 to 0.5, instead of a random one.
    """

    def __init__(self, offset: float | None = None) -> None:
        self.offset = offset

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """`length` sorted positions; all frames once when the video is not longer than `length`."""
        if frames <= length:
            return list(range(frames))
        if length == 1:
            return [int(random.integers(frames))]
        pad = frames / (2 * length)
        base = np.linspace(pad - 0.5, frames - 1 - (pad - 0.5), length)
        step = (frames - 2 * pad) / (length - 1)
        shift = random.uniform(-step / 2, step / 2) if self.offset is None else self.offset * step
        # The published shift can round to -1 or `frames` at its extremes; those are frames that do not exist.
        return [int(p) for p in np.clip(np.round(base + shift), 0, frames - 1)]


class Contiguous(ClipSampling):
    """A run of consecutive frames (SAM 2, SAM-I2V).

    Args:
        around_anchor: the run contains the anchor; otherwise it starts anywhere.
        stride: distance between neighbouring frames, shrunk where the video is too short.
    """

    def __init__(self, around_anchor: bool = False, stride: int = 1) -> None:
        self.around_anchor = around_anchor
        self.stride = stride

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """`length` positions; the last one repeats when the video is shorter."""
        stride = max(1, min(self.stride, (frames - 1) // max(length - 1, 1)))
        span = (length - 1) * stride + 1
        if span >= frames:
            return [min(i * stride, frames - 1) for i in range(length)]
        low, high = 0, frames - span
        if self.around_anchor:
            low, high = max(low, anchor - span + 1), min(high, anchor)
        start = int(random.integers(low, high + 1))
        return [start + i * stride for i in range(length)]


class RandomDistinct(ClipSampling):
    """Distinct random frames when the video has more than `length` + 1, else random with repeats (Sa2VA).

    Args:
        contiguous: probability of a contiguous run instead (Sa2VA's `frame_contiguous_sample` is 0.5 where on).
    """

    def __init__(self, contiguous: Share = 0.0) -> None:
        self.contiguous = contiguous

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """Exactly `length` sorted positions."""
        if self.contiguous and random.random() < self.contiguous:
            return Contiguous()(frames, length, anchor, random)
        enough = frames > length + 1
        return sorted(int(p) for p in random.choice(frames, size=length, replace=not enough))


class AroundReference(ClipSampling):
    """The anchor and others drawn with replacement from `reach` frames on either side (LMPM, the MeViS baseline)."""

    def __init__(self, reach: int = 8) -> None:
        self.reach = reach

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """Exactly `length` sorted positions, with repeats."""
        low, high = max(0, anchor - self.reach), min(frames, anchor + self.reach + 1)
        return sorted([anchor] + [int(p) for p in random.integers(low, high, size=length - 1)])


class Centred(ClipSampling):
    """The anchor in the middle of consecutive frames; beyond the video's ends its first or last frame repeats.

    ReferFormer's and SgMg's clips of A2D-Sentences, where one frame is annotated.
    """

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """Exactly `length` positions."""
        return around(frames, length, anchor)


def around(frames: int, length: int, middle: int) -> list[int]:
    """`length` positions with `middle` at index `length // 2`, kept inside the video."""
    return [min(max(middle - length // 2 + step, 0), frames - 1) for step in range(length)]


class Reverse(ClipSampling):
    """Another rule's clip, played backwards now and then (SgMg: p = 0.3, SAM 2 and SAM-I2V: 0.5).

    A reversed clip turns "moving left" into its opposite; published recipes accept that.
    """

    def __init__(self, sampling: ClipSampling, p: Share = 0.3) -> None:
        self.sampling = sampling
        self.p = p

    def __call__(self, frames: int, length: int, anchor: int, random: np.random.Generator) -> list[int]:
        """The wrapped rule's positions, in falling order with probability `p`."""
        positions = self.sampling(frames, length, anchor, random)
        return positions[::-1] if random.random() < self.p else positions


def uniform_positions(frames: int, length: int) -> list[int]:
    """`length` positions from first to last frame, floored; repeats for a short video (Sa2VA-i, phase 1)."""
    return [int(p) for p in np.linspace(0, frames - 1, length, dtype=int)]
