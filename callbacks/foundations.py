"""Losses of what small foundations are trained with: names of attributes for pixels, hidden words."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from callbacks.masks import DiceFocal
from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.types import Batch, Prediction
from rvos_lightning.foundations.attributes import AttributePrediction, classes_of, enlarged
from rvos_lightning.foundations.dialogue import PointedPrediction
from rvos_lightning.foundations.naming import NamedPrediction
from rvos_lightning.foundations.words import WordsPrediction


class AttributeClasses(Objective):
    """Cross-entropy of every pixel's attributes at each tap: mean over things' pixels plus mean over the others'.

    Terms: one a kind of attribute, the mean over taps; where sentences are classified, too, `told_<kind>`,
    and `own`, of each visual token's own place.

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
        if isinstance(prediction, NamedPrediction):
            for kind, logits in prediction.told.items():
                terms[f"told_{kind}"] = self.weights.get(kind, 1.0) * F.cross_entropy(logits, prediction.truth[kind])
            own = prediction.own
            places = torch.arange(own.shape[2], device=own.device).expand(len(own), -1)
            terms["own"] = F.cross_entropy(own.flatten(0, 1), places.flatten())
        return terms


def _balanced(logits: Tensor, truth: Tensor, known: Tensor) -> Float[Tensor, ""]:
    every = F.cross_entropy(logits.flatten(0, 1), truth.flatten(0, 1), reduction="none")
    known = known.flatten(0, 1)[:, None, None]
    things, ground = (truth.flatten(0, 1) > 0) & known, (truth.flatten(0, 1) == 0) & known
    return sum((every * mask).sum() / mask.sum().clamp(min=1) for mask in (things, ground))


class Places(DiceFocal):
    """DICE plus focal loss on where the state of [SEG] says that things are; see `DiceFocal`.

    Terms: `places_dice`, `places_focal`.
    """

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The two weighted terms.

        Raises:
            TypeError: the network says no places.
        """
        if not isinstance(prediction, PointedPrediction):
            raise TypeError(f"Places needs the network AnsweredQuestions, not a {type(prediction).__name__}")
        terms = super().terms(batch, replace(prediction, mask_logits=prediction.places))
        return {f"places_{name}": term for name, term in terms.items()}


class Looks(Objective):
    """Cross-entropy on what an attention head looks at: a thing's pixels evenly, or, where nothing is meant, the text.

    Term: `looks`.

    Args:
        weight: of the term.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted term; items without annotated frames do not count.

        Raises:
            TypeError: the network has no such heads.
        """
        if not isinstance(prediction, PointedPrediction):
            raise TypeError(f"Looks needs the network AnsweredQuestions, not a {type(prediction).__name__}")
        odds = prediction.mask_logits.flatten(1)
        shares = F.pad(odds, (0, 1)).log_softmax(1)  # the last one is the text's
        meant = F.adaptive_avg_pool2d(batch.targets.masks.to(odds.dtype), prediction.mask_logits.shape[-2:]).flatten(1)
        meant = torch.cat([meant, (meant.sum(1, keepdim=True) == 0).to(odds.dtype)], 1)
        missed = -(meant / meant.sum(1, keepdim=True) * shares).sum(1)
        known = batch.targets.annotated.any(1).to(odds.dtype)
        return {"looks": self.weight * (missed * known).sum() / known.sum().clamp(min=1)}


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
