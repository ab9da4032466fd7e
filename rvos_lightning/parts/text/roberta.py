"""RoBERTa (transformers), layer by layer, with the details of fairseq's."""

import warnings
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from rvos_lightning.core.bounds import FromZero
from rvos_lightning.parts.text.encoder import Real, Words
from rvos_lightning.parts.text.hub_text import HubText
from rvos_lightning.parts.text.tokenizers import Tokenizer
from rvos_lightning.parts.weights import freeze, mark_reproducible


@dataclass(frozen=True)
class TextSize:
    """Sizes of a text transformer; the defaults are RoBERTa-base's.

    Attributes:
        vocabulary: number of token ids; 0: as many as the tokenizer has.
        width: channels.
        layers: depth.
        heads: attention heads.
        mlp: width of the feed-forward layers.
        positions: most tokens of a sentence.
        dropout: on embeddings, attention and both residual branches.
    """

    vocabulary: FromZero = 50265
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072
    positions: int = 512
    dropout: float = 0.1


class Roberta(HubText):
    """RoBERTa; the sentence is the state of its start token, or what a pooler makes of it.

    Layer norms have eps 1e-5 (fairseq and the published roberta-base; transformers' own default is 1e-12), and
    embeddings are zeroed on padding as in fairseq.

    Args:
        weights: folder or hub id of a transformers RoBERTa, or `small/NAME`; None: random weights of `size`.
        tokenizer: `weights` or another folder or hub id; a `Tokenizer`; None: the weights' own, or hashed words.
        size: widths and depths, ignored where `weights` is there to be asked.
        frozen: no gradients.
        frozen_dropout: a frozen encoder keeps dropout in training, as the official SAMWISE and SgMg leave it.
        pooler: with transformers' pooler. Published files often lack its weights: then they are random, which is
            said, and kept in checkpoints.
    """

    licence = "RoBERTa, weights: MIT"

    def __init__(
        self,
        weights: str | None = None,
        tokenizer: Tokenizer | str | None = None,
        size: TextSize = TextSize(),  # noqa: B008 (frozen)
        frozen: bool = True,
        frozen_dropout: bool = False,
        pooler: bool = False,
    ) -> None:
        super().__init__()
        from transformers import RobertaConfig, RobertaModel

        sizes = sizes_of(size, max_position_embeddings=size.positions + 2, type_vocab_size=1)
        fixed = {"layer_norm_eps": 1e-5}
        self.build(RobertaModel, RobertaConfig, weights, tokenizer, sizes, fixed, add_pooling_layer=pooler)
        if frozen:
            freeze(self, train_mode=frozen_dropout)

    def load_weights(self, weights: str) -> None:
        """Read a transformers folder or hub id; a pooler that it lacks keeps its values."""
        self._mark(weights, [key for key in self._take(weights) if key.startswith("pooler.")])

    def _mark(self, weights: str, random: list[str]) -> None:
        """Checkpoints may leave out what came from the file, but not a pooler that the file lacks."""
        if not random:
            mark_reproducible(self, weights)
            return
        warnings.warn(f"{weights} has no pooler ({random[0]} is missing): it starts at random", stacklevel=3)
        mark_reproducible(self.model.embeddings, weights)
        mark_reproducible(self.model.encoder, weights)

    @property
    def longest(self) -> int:
        """Most tokens a sentence may have."""
        return self.model.config.max_position_embeddings - 2

    def embed(self, ids: Int[Tensor, "batch words"], real: Real) -> Words:
        """States before the first layer; zero on padding, which with a pooler stays as transformers leaves it."""
        words = self.model.embeddings(input_ids=ids)
        whole = real is None or self.model.pooler is not None
        return words if whole else words * real[:, :, None].to(words.dtype)

    def run(self, words: Words, real: Real, start: int, stop: int) -> Words:
        """Layers `start` to `stop` (exclusive); padding is never attended."""
        mask = None if real is None else real[:, None, None, :].expand(-1, 1, words.shape[1], -1)
        for layer in self.model.encoder.layer[start:stop]:
            words = layer(words, mask)
        return words

    def finish(self, words: Words) -> Words:
        """Nothing follows the last layer."""
        return words

    def sentence(self, words: Words, ids: Int[Tensor, "batch words"]) -> Tensor:
        """The start token's state, or the pooler's answer to it."""
        return words[:, 0] if self.model.pooler is None else self.model.pooler(words)


def sizes_of(size: TextSize, **more: Any) -> dict[str, Any]:
    """Own widths as transformers' configurations of BERT and RoBERTa call them."""
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.mlp,
        "hidden_dropout_prob": size.dropout,
        "attention_probs_dropout_prob": size.dropout,
        **more,
    }
