"""What SgMg says beyond the common candidates."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rvos_lightning.core.types import Candidates, ChosenPrediction


@dataclass
class FrameCandidates(Candidates):
    """Candidates of some of a clip's frames.

    Attributes:
        answered: positions in the clip of the frames on the time axis; None: all.
    """

    answered: tuple[int, ...] | None = None


@dataclass
class RankedPrediction(ChosenPrediction):
    """All queries' masks beside the best one's.

    Attributes:
        proposal_logits: several masks an item and frame, as `mask_logits`.
        scores: confidence of each proposal, the higher the better.
    """

    proposal_logits: Float[Tensor, "batch time proposals h w"] | None = None
    scores: Float[Tensor, "batch time proposals"] | None = None
