"""What SgMg says beyond the common candidates."""

from dataclasses import dataclass

from rvos_lightning.core.types import Candidates


@dataclass
class FrameCandidates(Candidates):
    """Candidates of some of a clip's frames.

    Attributes:
        answered: positions in the clip of the frames on the time axis; None: all.
    """

    answered: tuple[int, ...] | None = None
