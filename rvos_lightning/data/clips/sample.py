"""A training clip before batching, and what may change it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.core.types import ClipMeta


@dataclass
class ClipSample:
    """One training clip of one video with some of its items, before batching."""

    frames: UInt8[Tensor, "time 3 height width"]
    masks: Bool[Tensor, "items time height width"]
    annotated: Bool[Tensor, "items time"]
    expressions: list[str | None]
    meta: list[ClipMeta]
    context: UInt8[Tensor, "few 3 height width"] | None = None
    context_positions: tuple[int, ...] = ()
    instances: Bool[Tensor, "instances time height width"] | None = None
    instance_item: list[int] = field(default_factory=list)  # of the sample
    no_target: bool = False  # an item means nothing on purpose: an empty mask is then no reason to redraw
    seed: tuple[int, ...] = (0,)
    batch_seed: tuple[int, ...] = (0,)  # the same for all samples of a batch, on every rank


class Augmentation(ABC):
    """A random change of a whole training clip, the same for all its frames unless it says otherwise."""

    @abstractmethod
    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """The changed clip; `random` is the only source of randomness."""
