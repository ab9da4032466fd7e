"""BERT (transformers) without pooler."""

from jaxtyping import Int
from torch import Tensor

from rvos_lightning.core.bounds import FromZero
from rvos_lightning.parts.text.encoder import Real, Words
from rvos_lightning.parts.text.hub_text import HubText
from rvos_lightning.parts.text.roberta import TextSize, sizes_of
from rvos_lightning.parts.text.tokenizers import Tokenizer
from rvos_lightning.parts.weights import freeze

BERT_BASE = TextSize(vocabulary=30522, positions=512)


class Bert(HubText):
    """BERT; the sentence is the state of its [CLS] token.

    Args:
        weights: folder or hub id of a transformers BERT, e.g. bert-base-uncased; None: random weights of `size`.
        tokenizer: another folder or hub id, or a `Tokenizer`; None: the weights' own, or hashed words.
        size: widths and depths, ignored when `weights` is given.
        frozen: no gradients.
        trained_layers: train only the first so many layers and not the embeddings (LAVT and its successors: 10); None:
            everything.

    Raises:
        ValueError: the tokenizer has more ids than the embedding rows.
    """

    licence = "BERT, weights: Apache-2.0"

    def __init__(
        self,
        weights: str | None = None,
        tokenizer: str | Tokenizer | None = None,
        size: TextSize = BERT_BASE,
        frozen: bool = False,
        trained_layers: FromZero | None = None,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = sizes_of(size, max_position_embeddings=size.positions)
        self.build(BertModel, BertConfig, weights, tokenizer, sizes, add_pooling_layer=False)
        if frozen:
            freeze(self)
        elif trained_layers is not None:
            self.train_only(trained_layers)

    def train_only(self, layers: int) -> None:
        """Freeze the embeddings and all but the first `layers` layers."""
        self.model.embeddings.requires_grad_(False)
        self.model.encoder.layer[layers:].requires_grad_(False)

    @property
    def longest(self) -> int:
        """Most tokens a sentence may have."""
        return self.model.config.max_position_embeddings

    def embed(self, ids: Int[Tensor, "batch words"], real: Real) -> Words:
        """States before the first layer."""
        return self.model.embeddings(input_ids=ids)

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
        """The state of the [CLS] token."""
        return words[:, 0]
