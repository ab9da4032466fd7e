"""CLIP's text tower (transformers), layer by layer."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from rvos_lightning.parts.text.encoder import Real, Words
from rvos_lightning.parts.text.hub_text import HubText
from rvos_lightning.parts.text.roberta import TextSize
from rvos_lightning.parts.text.tokenizers import Tokenizer
from rvos_lightning.parts.weights import freeze

CLIP_B = TextSize(vocabulary=49408, width=512, layers=12, heads=8, mlp=2048, positions=77, dropout=0.0)


class ClipText(HubText):
    """CLIP's causal text transformer; the sentence is the state of its end token after the final norm.

    The paper's CLIP-B variant of SAMWISE was never released, so where its adapters read is our reading: the same
    schedule as RoBERTa's.

    Args:
        weights: folder or hub id of a transformers CLIP, e.g. openai/clip-vit-base-patch16; None: random.
        tokenizer: another folder or hub id, or a `Tokenizer`; None: the weights' own, or hashed words.
        size: widths and depths, ignored when `weights` is given.
        frozen: no gradients.
    """

    licence = "CLIP, weights: MIT"

    def __init__(
        self,
        weights: str | None = None,
        tokenizer: Tokenizer | str | None = None,
        size: TextSize = CLIP_B,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        sizes = {
            "vocab_size": size.vocabulary,
            "hidden_size": size.width,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "intermediate_size": size.mlp,
            "max_position_embeddings": size.positions,
            "attention_dropout": size.dropout,
        }
        self.build(CLIPTextModel, CLIPTextConfig, weights, tokenizer, sizes)
        if frozen:
            freeze(self)

    @property
    def tower(self) -> nn.Module:
        """Embeddings, layers and final norm (some versions of transformers nest them once more)."""
        return getattr(self.model, "text_model", self.model)

    @property
    def longest(self) -> int:
        """Most tokens a sentence may have."""
        return self.model.config.max_position_embeddings

    def embed(self, ids: Int[Tensor, "batch words"], real: Real) -> Words:
        """States before the first layer."""
        return self.tower.embeddings(input_ids=ids)

    def run(self, words: Words, real: Real, start: int, stop: int) -> Words:
        """Layers `start` to `stop` (exclusive), each word seeing itself and what came before."""
        length = words.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=words.device).tril()[None, None]
        if real is not None:
            mask = mask & real[:, None, None, :]
        mask = mask.expand(len(words), 1, length, length)
        for layer in self.tower.encoder.layers[start:stop]:
            words = layer(words, mask)
        return words

    def finish(self, words: Words) -> Words:
        """The final layer norm."""
        return self.tower.final_layer_norm(words)

    def sentence(self, words: Words, ids: Int[Tensor, "batch words"]) -> Tensor:
        """The state of the first end token (CLIP pads with more of them)."""
        end = (ids == self.tokenizer.end).int().argmax(1)
        return words[torch.arange(len(words), device=words.device), end]
