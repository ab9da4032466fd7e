"""What Sa2VA yields beyond the shared types: what was said, and a second set of masks from tracking."""

from dataclasses import dataclass, field, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rvos_lightning.core.types import Prediction, Prompt


@dataclass
class SpokenPrompt(Prompt):
    """A prompt taken from a language model's answer.

    Attributes:
        spoken: did the item's answer contain [SEG]? Without it the item's mask is empty.
        answers: the answers as text; in training the ones taught.
        token_logits: logits of the taught answers' tokens, gathered over all items.
        labels: the taught tokens.
        positions: in inference, positions in the video of the frames the language model was shown.
    """

    spoken: Bool[Tensor, "batch"] | None = None
    answers: list[str] = field(default_factory=list)
    token_logits: Float[Tensor, "taught vocabulary"] | None = None
    labels: Int[Tensor, "taught"] | None = None
    positions: tuple[int, ...] = ()

    def repeat_time(self, time: int) -> "SpokenPrompt":
        """The same prompt for a window of `time` frames."""
        return replace(self, tokens=self.tokens[:, :1].expand(-1, time, -1, -1))


@dataclass
class Tracks(Prediction):
    """Masks that a tracker made of some of a batch's items in training.

    Attributes:
        items: which items; the other fields have one row for each of them.
        tracked: which frames; on the others, which it was prompted on, it repeats the prompt.
    """

    items: Int[Tensor, "items"] | None = None
    tracked: Bool[Tensor, "time"] | None = None


@dataclass
class TrackedPrediction(Prediction):
    """Masks decoded frame by frame (`mask_logits`), and masks tracked from some of them."""

    tracks: Tracks | None = None
