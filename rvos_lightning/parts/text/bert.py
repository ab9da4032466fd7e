"""BERT (transformers) without pooler."""

from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from rvos_lightning.parts.text.encoder import Real, TextEncoder, Words
from rvos_lightning.parts.text.roberta import TextSize
from rvos_lightning.parts.text.tokenizers import HubTokenizer, Tokenizer, WordTokenizer
from rvos_lightning.parts.weights import freeze, mark_reproducible

BERT_BASE = TextSize(vocabulary=30522, positions=512)


class Bert(TextEncoder):
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
        trained_layers: int | None = None,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        source = tokenizer or weights
        self.tokenizer = HubTokenizer(source) if isinstance(source, str | Path) else source or WordTokenizer()
        options = {"add_pooling_layer": False}
        if weights is not None:
            self.model = BertModel.from_pretrained(weights, attn_implementation="sdpa", **options)
            mark_reproducible(self, weights)
        else:
            config = BertConfig(
                vocab_size=size.vocabulary or self.tokenizer.size,
                hidden_size=size.width,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                intermediate_size=size.mlp,
                max_position_embeddings=size.positions,
                hidden_dropout_prob=size.dropout,
                attention_probs_dropout_prob=size.dropout,
                attn_implementation="sdpa",
            )
            self.model = BertModel(config, **options)
        if self.tokenizer.size > self.model.config.vocab_size:
            raise ValueError(
                f"Bert: the tokenizer has {self.tokenizer.size} ids, the embedding {self.model.config.vocab_size} "
                "rows; give the tokenizer of these weights, or size.vocabulary 0"
            )
        self.width, self.depth = self.model.config.hidden_size, self.model.config.num_hidden_layers
        self.model.train()
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
