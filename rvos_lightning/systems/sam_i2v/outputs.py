"""What SAM-I2V predicts beyond a mask per frame."""

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from rvos_lightning.core.types import Prediction


@dataclass
class DecoderStep:
    """One decoder call on one frame, for the items that took part.

    Attributes:
        time: position of the frame in the clip.
        items: rows of the batch.
        mask_logits: every candidate (three for an ambiguous prompt, else one).
        iou: estimated IoU of each candidate.
        presence_logits: is the object there.
    """

    time: int
    items: Int[Tensor, "part"]
    mask_logits: Float[Tensor, "part m h w"]
    iou: Float[Tensor, "part m"]
    presence_logits: Float[Tensor, "part 1"]


@dataclass
class TrackedPrediction(Prediction):
    """Masks, and every decoder step behind them (first answers and all corrections); steps only in training."""

    steps: list[DecoderStep] = field(default_factory=list)
