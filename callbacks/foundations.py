"""Losses of what small foundations are trained with: names of attributes for pixels, hidden words."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.types import Batch, Prediction
from rvos_lightning.foundations.attributes import AttributePrediction, classes_of, enlarged
from rvos_lightning.foundations.words import WordsPrediction


class AttributeClasses(Objective):
    """Cross-entropy of every pixel's attributes at each tap: mean over things' pixels plus mean over the others'.

    Terms: one a kind of attribute, the mean over taps.

    Args:
        weights: kind -> weight, where it is not 1.
        every: only every so many rows and columns of pixels are looked at, which takes less time.
    """

    def __init__(self, weights: dict[str, float] | None = None, every: int = 1) -> None:
        self.weights, self.every = weights or {}, every

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms.

        Raises:
            TypeError: the network classifies no attributes.
            ValueError: a weight of a kind that there is not.
        """
        if not isinstance(prediction, AttributePrediction):
            raise TypeError(f"AttributeClasses needs the network AttributePixels, not a {type(prediction).__name__}")
        if unknown := sorted(self.weights.keys() - prediction.kinds.keys()):
            raise ValueError(
                f"AttributeClasses weights: no kind {unknown[0]!r}; there are {', '.join(prediction.kinds)}"
            )
        masks = batch.targets.masks[..., self.every // 2 :: self.every, self.every // 2 :: self.every]
        size = masks.shape[1:]
        known = batch.targets.annotated.new_zeros(len(batch.clip.frames), size[0])
        known[batch.clip.video] = batch.targets.annotated
        terms = {}
        for kind, truth in classes_of(batch.clip, masks, prediction.kinds).items():
            logits = [enlarged(tap[kind], size) for tap in prediction.taps]
            terms[kind] = self.weights.get(kind, 1.0) * torch.stack([_balanced(x, truth, known) for x in logits]).mean()
        return terms


def _balanced(logits: Tensor, truth: Tensor, known: Tensor) -> Float[Tensor, ""]:
    every = F.cross_entropy(logits.flatten(0, 1), truth.flatten(0, 1), reduction="none")
    known = known.flatten(0, 1)[:, None, None]
    things, ground = (truth.flatten(0, 1) > 0) & known, (truth.flatten(0, 1) == 0) & known
    return sum((every * mask).sum() / mask.sum().clamp(min=1) for mask in (things, ground))


class HiddenWords(Objective):
    """Cross-entropy of hidden words, and binary cross-entropy of which words a sentence's pooled vector holds.

    Terms: `words`, `held`.

    Args:
        words: weight of the first.
        held: weight of the second, a sum over the vocabulary.
    """

    def __init__(self, words: float = 1.0, held: float = 0.1) -> None:
        self.words, self.held = words, held

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms.

        Raises:
            TypeError: the network guesses no words.
        """
        if not isinstance(prediction, WordsPrediction):
            raise TypeError(f"HiddenWords needs the network MaskedWords, not a {type(prediction).__name__}")
        held = F.binary_cross_entropy_with_logits(
            prediction.held_logits, prediction.held.to(prediction.held_logits.dtype), reduction="none"
        )
        return {
            "words": self.words * F.cross_entropy(prediction.word_logits, prediction.words),
            "held": self.held * held.sum(1).mean(),
        }
