"""The seam through which a promptable data set brings its simulated user."""

from abc import ABC, abstractmethod

from rvos_lightning.types import ClipMeta, Targets, User


class UserFactory(ABC):
    """Makes the user of one batch, who knows the targets so that the network need not.

    Attributes:
        needs_targets: False: can answer for videos whose truth nobody knows.
    """

    needs_targets = True

    @abstractmethod
    def __call__(self, targets: Targets | None, meta: list[ClipMeta], seed: int) -> User:
        """A user for these targets (lazy in evaluation); every random choice of theirs follows from `seed`."""

    def evaluation(self, targets: Targets | None, meta: list[ClipMeta], seed: int) -> User:
        """The user of evaluation videos; by default the one of training clips."""
        return self(targets, meta, seed)
