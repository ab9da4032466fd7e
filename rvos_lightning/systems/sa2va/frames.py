"""Which frames the language model looks at: index rules of Sa2VA (first k) and Sa2VA-i (uniform)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rvos_lightning.core.types import Clip

Sampling = Literal["first", "uniform"]


def first_frames(length: int, k: int) -> list[int]:
    """Sa2VA inference: the first `k` frames, or all of a shorter video."""
    return list(range(min(k, length)))


def uniform_frames(length: int, k: int) -> list[int]:
    """Sa2VA-i inference: `k` frames from first to last, floored; repeats of short videos are dropped."""
    return sorted({int(i) for i in np.linspace(0, length - 1, k, dtype=int)})


def inference_frames(length: int, k: int, sampling: Sampling) -> list[int]:
    """The frames shown to the language model, ascending and distinct."""
    if length < 1 or k < 1:
        raise ValueError(f"cannot choose {k} frames of a video of {length} frames; both must be at least 1")
    return first_frames(length, k) if sampling == "first" else uniform_frames(length, k)


@dataclass(frozen=True)
class Shown:
    """The frames the language model looks at: positions in the video, ascending and distinct, and pictures."""

    positions: tuple[int, ...]
    frames: Float[Tensor, "video shown 3 height width"]


def shown(clip: Clip, k: int, sampling: Sampling) -> Shown:
    """The data's context frames where it gives them, else `k` of the clip's own frames.

    A clip without context must be the whole video for uniform sampling to mean anything.

    Raises:
        ValueError: context frames whose positions the data does not state, or that differ between videos.
    """
    if clip.context is None:
        chosen = inference_frames(clip.time, k, sampling)
        return Shown(tuple(chosen), clip.frames[:, :][:, chosen])
    stated = set(clip.context_positions or [()])
    if len(stated) != 1 or len(next(iter(stated))) != clip.context.shape[1]:
        raise ValueError(
            f"clip.context has {clip.context.shape[1]} frames, clip.context_positions states "
            f"{sorted(stated)}; state one position per context frame, the same for every video"
        )
    positions = next(iter(stated))
    kept = [i for i, p in enumerate(positions) if i == 0 or p != positions[i - 1]]
    return Shown(tuple(positions[i] for i in kept), clip.context[:, kept])


def pictures(clip: Clip, positions: tuple[int, ...]) -> Float[Tensor, "video shown 3 height width"]:
    """The frames at positions that `shown` returned for this clip."""
    if clip.context is None:
        return clip.frames[:, :][:, list(positions)]
    return shown(clip, len(positions), "first").frames
