"""The seam through which a promptable data set brings its simulated user."""

from abc import ABC, abstractmethod

import numpy as np

from rvos_lightning.core.types import ClipMeta, Targets, User


def one_seed(numbers: tuple[int, ...]) -> int:
    """A seed made of several numbers as one."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class UserFactory(ABC):
    """Makes the user of one batch, who knows the targets so that the network need not.

    Attributes:
        needs_targets: False: can answer for videos whose truth nobody knows.
    """

    needs_targets = True

    @abstractmethod
    def __call__(self, targets: Targets | None, meta: list[ClipMeta], seed: int, batch_seed: int | None = None) -> User:
        """A user for these targets (lazy in evaluation).

        Args:
            targets: the truth.
            meta: of the items.
            seed: decides where the user points; each rank has its own.
            batch_seed: decides how often which part of a network runs. All ranks of a training step have the same,
                so that parts whose parameters are spread over them are called in one order. None: `seed`.
        """

    def evaluation(self, targets: Targets | None, meta: list[ClipMeta], seed: int) -> User:
        """The user of evaluation videos; by default the one of training clips."""
        return self(targets, meta, seed)
