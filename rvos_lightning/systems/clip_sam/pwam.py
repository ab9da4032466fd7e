"""Pixel-word attention (PWAM, LAVT: Yang et al. 2022, section 3.2) of CLIP's patches and a sentence's words."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

SHUT = 1e4
"""Subtracted from the scores of padded words."""


class Looked(NamedTuple):
    """What no sentence changes: the gate and the query of every patch."""

    gate: Float[Tensor, "images patches c"]
    query: Float[Tensor, "images patches c"]


class Pwam(nn.Module):
    """One attention head over the words for every patch, gated by the patch itself; no residual.

    Args:
        vision: channels of CLIP's patches.
        width: channels of the words, and of everything inside.
    """

    def __init__(self, vision: int = 1024, width: int = 256) -> None:
        super().__init__()
        self.gate, self.query = nn.Linear(vision, width), nn.Linear(vision, width)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.out, self.join = nn.Linear(width, width), nn.Linear(width, width)

    def look(self, patches: Float[Tensor, "images patches vision"]) -> Looked:
        """The half that needs no words, once per image."""
        return Looked(functional.gelu(self.gate(patches)), over_positions(self.query(patches)))

    def forward(
        self,
        looked: Looked,
        words: Float[Tensor, "pairs words c"],
        real: Bool[Tensor, "pairs words"],
        image: Int[Tensor, "pairs"],
    ) -> Float[Tensor, "pairs patches c"]:
        """Fused patches of every (image, sentence) pair.

        Args:
            looked: `look` of the images.
            words: word states, already of width c.
            real: False on padding.
            image: which image each pair looks at.
        """
        real = real[..., None].to(words.dtype)
        keys, values = self.key(words) * real, self.value(words) * real
        scores = looked.query[image] @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
        scores = scores + (real.transpose(1, 2) - 1) * SHUT
        read = over_positions(self.out(scores.softmax(-1) @ values))
        return functional.gelu(self.join(looked.gate[image] * read))


def over_positions(x: Float[Tensor, "rows positions c"]) -> Float[Tensor, "rows positions c"]:
    """Instance norm without weights: each channel over its positions."""
    return functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
