"""What a text encoder offers, so that language can be read whole or layer by layer."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rvos_lightning.parts.text.tokenizers import Tokenizer

Words = Float[Tensor, "batch words text"]
Real = Bool[Tensor, "batch words"] | None
"""True on real tokens, False on padding; None when nothing is padded."""


class TextEncoder(nn.Module, ABC):
    """A transformer over words whose layers can be run in pieces.

    Attributes:
        width: channels of its states.
        depth: number of layers.
        tokenizer: sentences -> token ids.
    """

    width: int
    depth: int
    tokenizer: Tokenizer

    def forward(self, expressions: list[str]) -> tuple[Words, Real, Float[Tensor, "batch text"]]:
        """All layers: word states, which of them are real, and one vector per sentence."""
        ids, real = self.tokenize(expressions)
        words = self.finish(self.run(self.embed(ids, real), real, 0, self.depth))
        return words, real, self.sentence(words, ids)

    @torch.compiler.disable
    def tokenize(self, expressions: list[str]) -> tuple[Int[Tensor, "batch words"], Real]:
        """Token ids padded to the longest sentence, on the encoder's device.

        Not compiled, as a graph would hold for these very sentences only.

        Raises:
            ValueError: no expressions, or a sentence longer than the encoder's positions.
        """
        if not expressions:
            raise ValueError("the text encoder got no expressions; referring data must give clip.expressions")
        ids = [self.tokenizer(text) for text in expressions]
        longest = max(map(len, ids))
        if longest > self.longest:
            raise ValueError(
                f"expression of {longest} tokens, the text encoder reads at most {self.longest}; shorten it"
            )
        pad = self.tokenizer.pad
        device = next(self.parameters()).device
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in ids], device=device)
        if all(len(row) == longest for row in ids):
            return padded, None
        lengths = torch.tensor([len(row) for row in ids], device=device)
        return padded, torch.arange(longest, device=device) < lengths[:, None]

    @property
    @abstractmethod
    def longest(self) -> int:
        """Most tokens a sentence may have."""

    @abstractmethod
    def embed(self, ids: Int[Tensor, "batch words"], real: Real) -> Words:
        """States before the first layer."""

    @abstractmethod
    def run(self, words: Words, real: Real, start: int, stop: int) -> Words:
        """Layers `start` to `stop` (exclusive)."""

    @abstractmethod
    def finish(self, words: Words) -> Words:
        """What follows the last layer (a final norm, or nothing)."""

    @abstractmethod
    def sentence(self, words: Words, ids: Int[Tensor, "batch words"]) -> Float[Tensor, "batch text"]:
        """The vector that stands for the whole sentence."""
