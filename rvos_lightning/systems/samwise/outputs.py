"""What SAMWISE's memory says besides masks."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from rvos_lightning.core.types import Prediction


@dataclass
class SwitchedPrediction(Prediction):
    """A prediction with the Conditional Memory Encoder's (CME) opinion.

    Attributes:
        switch_frames: frames of the window at which the memory-less pass ran, in order.
        switch_ran: False where an item's CME was not consulted at that frame (too early, or cooling down).
        switch_logits: classes "keep" and "the sentence now fits another object".
        memoryless_logits: masks of the memory-less pass at those frames, like `mask_logits`, without gradient.
        memoryless_presence_logits: is the object there, says the memory-less pass; None without object scores.
    """

    switch_frames: tuple[int, ...] = ()
    switch_ran: Bool[Tensor, "batch ran"] | None = None
    switch_logits: Float[Tensor, "batch ran 2"] | None = None
    memoryless_logits: Float[Tensor, "batch ran h w"] | None = None
    memoryless_presence_logits: Float[Tensor, "batch ran"] | None = None

    @property
    def memory_logits(self) -> Float[Tensor, "batch ran h w"]:
        """Masks of the memory pass at the same frames."""
        return self.mask_logits[:, list(self.switch_frames)]
