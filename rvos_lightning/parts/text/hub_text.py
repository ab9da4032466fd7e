"""Text encoders of transformers: their configuration, weights and vocabulary, the same way for every kind."""

import json
from pathlib import Path
from typing import Any

from rvos_lightning.parts.starting import read_weights, started
from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.parts.text.tokenizers import Tokenizer, tokenizer_for
from rvos_lightning.parts.weights import (
    WeightsError,
    load_official,
    mark_reproducible,
    metadata,
    refuse_misfit,
    shipped,
)


class HubText(TextEncoder):
    """A text encoder around a model of transformers; a subclass says which, and reads its layers."""

    def build(
        self,
        model: type,
        config: type,
        weights: str | None,
        tokenizer: Tokenizer | str | None,
        sizes: dict[str, Any],
        fixed: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Tokenizer, network and weights.

        Where the network starts from a file that holds this part (`model.weights`), `weights` need not be there: the
        sizes are then those given, whose defaults are the published ones.

        Args:
            model: transformers' class.
            config: of its configuration.
            weights: folder or hub id, or `small/NAME`, whose words are those of `WordTokenizer` and which says its
                sizes itself; None: random weights of `sizes`.
            tokenizer: see `tokenizer_for`.
            sizes: arguments of the configuration where there are no weights to be asked; a vocabulary of 0 has as
                many rows as the tokenizer has ids.
            fixed: arguments of the configuration in any case.
            options: of the model's constructor.

        Raises:
            ValueError: the tokenizer has more ids than the embedding rows.
            WeightsError: there is no tokenizer to be had.
        """
        small = shipped(weights)
        published = None if small else weights
        self.tokenizer = tokenizer_for(tokenizer, published, "--model.network.adapter.text.tokenizer")
        self.options, fixed = options, {"attn_implementation": "sdpa", **(fixed or {})}
        if small is not None:
            self.model = model(config(**{**config_of(small, config), **fixed}), **options)
        elif weights is None or (started() is not None and not Path(weights).is_dir()):
            sizes = {**sizes, "vocab_size": sizes["vocab_size"] or self.tokenizer.size}
            self.model = model(config(**sizes, **fixed), **options)
        else:
            self.model = model(config.from_pretrained(weights, **fixed), **options)
        if weights is not None:
            read_weights(self, weights, self.load_weights)
        if self.tokenizer.size > self.model.config.vocab_size:
            raise ValueError(
                f"{type(self).__name__}: the tokenizer has {self.tokenizer.size} ids, the embedding "
                f"{self.model.config.vocab_size} rows; give the tokenizer of these weights, or size.vocabulary 0"
            )
        self.width, self.depth = self.model.config.hidden_size, self.model.config.num_hidden_layers
        self.model.train()

    def load_weights(self, weights: str) -> None:
        """Read a transformers folder or hub id."""
        self._take(weights)
        mark_reproducible(self, weights)

    def _take(self, weights: str) -> list[str]:
        """Read the numbers; returns the keys that the source lacks."""
        if shipped(weights) is not None:
            state, own = load_official(weights), self.model.state_dict()
            absent = sorted(key for key in own if key not in state and key.startswith("pooler."))
            refuse_misfit(state, own, absent.__contains__, what=weights)
            self.model.load_state_dict(state, strict=False)
            return absent
        read, info = type(self.model).from_pretrained(
            weights, config=self.model.config, output_loading_info=True, **self.options
        )
        self.model.load_state_dict(read.state_dict())
        return sorted(info["missing_keys"])


def config_of(foundation: Path, config: type) -> dict[str, Any]:
    """The sizes that a foundation's file states.

    Raises:
        WeightsError: it is of another kind of model, or of none of transformers'.
    """
    said = json.loads(metadata(foundation).get("config", "{}"))
    if said.get("model_type") != config.model_type:
        raise WeightsError(
            f"small/{foundation.stem} is {said.get('model_type', 'no text encoder')}, where the network has "
            f"{config.model_type}: give another name or another class"
        )
    return said
