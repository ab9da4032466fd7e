"""Guesses masked words and remembers sentences: how a small text encoder learns a grammar before it meets pictures.

Masked words as RoBERTa was trained (Liu et al., arXiv 1907.11692). The pooler, which RoBERTa itself never trained,
learns here to say which words a sentence holds. Heads are thrown away; the encoder is kept (`rvos convert part RUN FILE
--part text.model`).
"""

import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

from rvos_lightning.core.bounds import Share
from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Clip, Prediction, SegmentedWindow, State
from rvos_lightning.parts.text.encoder import Real
from rvos_lightning.parts.text.roberta import Roberta


@dataclass
class WordsPrediction(Prediction):
    """What the network makes of the sentences; its masks are empty.

    Attributes:
        word_logits: logits of the masked words, gathered over all sentences.
        words: the words that were there.
        held_logits: for each sentence and token id, whether the sentence holds it.
        held: what it holds.
    """

    word_logits: Float[Tensor, "masked vocabulary"] | None = None
    words: Int[Tensor, "masked"] | None = None
    held_logits: Float[Tensor, "batch vocabulary"] | None = None
    held: Bool[Tensor, "batch vocabulary"] | None = None


class MaskedWords(Network):
    """A text encoder that guesses words hidden from it; looks at no frames.

    A hidden word becomes one that the tokenizer does not know, in four of five cases; else another word, or stays (one
    in ten each), as in BERT and RoBERTa. In evaluation the same words of a sentence are hidden every time.

    Args:
        text: what shall learn.
        share: of words that are hidden; at least one a sentence.
        unknown: the word that stands for a hidden one.
    """

    says_presence = False

    def __init__(self, text: Roberta, share: Share = 0.15, unknown: str = "mask") -> None:
        super().__init__()
        width, vocabulary = text.width, text.model.config.vocab_size
        self.text, self.share = text, share
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, vocabulary))
        self.holds = nn.Linear(width, vocabulary)
        self.unknown = text.tokenizer(unknown)[1]

    def forward(self, clip: Clip, state: State | None = None) -> WordsPrediction:
        """Hide words and guess them; see `seams.Network`."""
        ids, real = self.text.tokenize(clip.expressions)
        hidden, shown = self.hide(clip.expressions, ids, real)
        words = self.text.finish(self.text.run(self.text.embed(shown, real), real, 0, self.text.depth))
        whole = self.text(clip.expressions)[2]
        held = torch.zeros(len(ids), self.holds.out_features, dtype=torch.bool, device=ids.device)
        held.scatter_(1, ids, True)
        empty = words.new_full((len(clip), clip.time, 1, 1), -1.0) + 0 * words.sum()
        return WordsPrediction(
            empty, word_logits=self.head(words[hidden]), words=ids[hidden], held_logits=self.holds(whole), held=held
        )

    def hide(
        self, sentences: list[str], ids: Int[Tensor, "batch words"], real: Real
    ) -> tuple[Bool[Tensor, "batch words"], Int[Tensor, "batch words"]]:
        """Which words must be guessed, and the token ids that are shown instead."""
        dice = torch.stack([self.dice(sentence, ids.shape[1]) for sentence in sentences]).to(ids.device)
        among = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        among = among & (ids != self.text.tokenizer.end) & (torch.arange(ids.shape[1], device=ids.device) > 0)
        order = dice[:, 0].masked_fill(~among, 2.0)  # start, end and padding come last
        hidden = among & ((order < self.share) | (order == order.amin(1, keepdim=True)))
        others = ids[torch.randperm(len(ids), device=ids.device)] if self.training else ids.flip(0)
        unknown = torch.full_like(ids, self.unknown)
        instead = torch.where(dice[:, 1] < 0.8, unknown, torch.where(dice[:, 1] < 0.9, others, ids))
        return hidden, torch.where(hidden, instead, ids)

    def dice(self, sentence: str, length: int) -> Float[Tensor, "two length"]:
        """Numbers that decide which words are hidden, and how; in evaluation they follow from the sentence."""
        if self.training:
            return torch.rand(2, length)
        return torch.rand(2, length, generator=torch.Generator().manual_seed(zlib.crc32(sentence.encode())))


class WordAccuracy(Metric):
    """Share of hidden words that are guessed, `words`, and of sentences' words that pooled vectors hold, `held`."""

    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "total", "kept", "there"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, window: SegmentedWindow) -> None:
        """Count a window.

        Raises:
            TypeError: the network guesses no words.
        """
        said = window.prediction
        if not isinstance(said, WordsPrediction):
            raise TypeError(f"WordAccuracy needs the network MaskedWords, not a {type(said).__name__}")
        self.right += (said.word_logits.argmax(1) == said.words).sum()
        self.total += len(said.words)
        self.kept += ((said.held_logits > 0) & said.held).sum()
        self.there += said.held.sum()

    def compute(self) -> dict[str, Tensor]:
        """Scores by name."""
        return {"words": self.right / self.total, "held": self.kept / self.there}
