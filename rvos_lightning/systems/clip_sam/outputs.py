"""What SAM + CLIP says besides masks."""

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from rvos_lightning.core.types import Prediction


@dataclass
class QueryOutput:
    """One of the query module's outputs.

    Attributes:
        masks: mask logits of every query; they follow from the image.
        image: which image each (image, sentence) pair looks at.
        clip_logits: every query against the sentences of the batch (columns 0, 1, ...) and the category table.
        sentence_logits: every query against the text encoder's sentences.
    """

    masks: Float[Tensor, "images queries h w"]
    image: Int[Tensor, "pairs"]
    clip_logits: Float[Tensor, "pairs queries columns"]
    sentence_logits: Float[Tensor, "pairs queries sentences"]


@dataclass
class BridgePrediction(Prediction):
    """Masks of SAM's decoder and what trains the bridge beneath.

    A pair is an (image, sentence) pair: items of the batch, frame by frame.

    Attributes:
        outputs: of the learned queries and after every layer; empty where the query module was skipped.
        column: each pair's own sentence among the columns.
        target_logits: there is a target, there is none; None without the head.
    """

    outputs: list[QueryOutput] = field(default_factory=list)
    column: Int[Tensor, "pairs"] | None = None
    target_logits: Float[Tensor, "pairs 2"] | None = None
