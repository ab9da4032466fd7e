"""The multimodal language model: visual tokens, states, greedy answers with a shared prefix (transformers InternVL)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rvos_lightning.parts.starting import covered, outside_adapter
from rvos_lightning.systems.sa2va.lora import LoRA, add_lora, lora_scale, train_whole
from rvos_lightning.systems.sa2va.shards import fill, mark_frozen
from rvos_lightning.systems.sa2va.sizes import MLLMSize, transformers_config


@dataclass
class Answer:
    """A generated answer and the final-norm state of every token that was fed back (all but the last).

    `states[i]` is the state computed when `tokens[i]` was the input; the last token has none.
    """

    tokens: list[int]
    states: Float[Tensor, "fed width"]

    def states_at(self, token: int) -> Float[Tensor, "found width"]:
        """States at every occurrence of a token that has one."""
        places = [i for i, t in enumerate(self.tokens[:-1]) if t == token]
        return self.states[places]


class MLLM(nn.Module):
    """InternVL2.5 on transformers, with optional adapters on its language model.

    Args:
        size: of both towers.
        image_token: id of `<IMG_CONTEXT>`.
        lora: adapters; None trains or keeps the weights themselves.
        train_vision: train the vision tower (published: frozen).
        train_language: train the language model's own weights (published: adapters only).
        weights: folder of converted weights, read before adapters are added.
        attention: transformers' attention implementation; `eager` is bit-exact with the released code.
        checkpointing: recompute language-model activations in the backward pass.
    """

    def __init__(
        self,
        size: MLLMSize,
        image_token: int,
        lora: LoRA | None = None,
        train_vision: bool = False,
        train_language: bool = False,
        weights: Path | str | None = None,
        attention: str = "sdpa",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        from transformers import InternVLForConditionalGeneration

        self.size, self.image_token = size, image_token
        self.model: Any = InternVLForConditionalGeneration(transformers_config(size, image_token, attention))
        read = weights is not None and not covered(self.model, "prompter.mllm.model.")
        if read:
            self.load_beside(weights, self.model, "prompter.mllm.model.")
        if lora is not None:
            add_lora(self.model, lora, head=size.language.family == "internlm2")
        train_whole(self.model, train_vision, train_language)
        if read:
            mark_frozen(self.model, str(weights))
        self.train_vision = train_vision
        self.register_buffer("lora_scale", lora_scale(lora))
        if checkpointing:
            language = self.model.model.language_model  # the older name goes in transformers 6
            new = getattr(language, "activation_checkpointing_enable", None)
            (new or language.gradient_checkpointing_enable)({"use_reentrant": False})

    @property
    def width(self) -> int:
        """Width of the language model."""
        return self.size.language.width

    def train(self, mode: bool = True) -> "MLLM":
        """The frozen vision tower stays in eval mode."""
        super().train(mode)
        if not self.train_vision:
            self.model.model.vision_tower.eval()
        return self

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Merged weights under the names that adapters give them; the adapters start anew and change nothing yet."""
        own = self.state_dict()
        if not any(".lora_" in key for key in own) or any(".lora_" in key for key in state):
            return dict(state)
        inside = {outside_adapter(key): key for key in own}
        fresh = {key: value for key, value in own.items() if ".lora_" in key}
        renamed = {inside.get(key, key): value for key, value in state.items()}
        return {**fresh, **renamed, "lora_scale": own["lora_scale"]}

    def load_beside(self, weights: Path, module: nn.Module, prefix: str) -> None:
        """Fill a module from a converted checkpoint, tensor by tensor; see `shards.fill`."""
        fill(module, weights, prefix)

    def embed(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """Token embeddings."""
        return self.model.get_input_embeddings()(ids)

    def visual_tokens(self, pixels: Float[Tensor, "tiles 3 s s"]) -> Float[Tensor, "kept tokens width"]:
        """Normalised tiles to visual tokens; all-zero tiles (text-only samples) are dropped."""
        pixels = pixels[pixels.flatten(1).sum(1) != 0]
        if not len(pixels):
            return pixels.new_zeros(0, self.size.vision.tokens, self.width)
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def insert(
        self, ids: Int[Tensor, "batch length"], visual: Float[Tensor, "n width"]
    ) -> Float[Tensor, "batch length width"]:
        """Embeddings of the ids with visual tokens written over the image tokens, in order.

        Raises:
            ValueError: their numbers differ.
        """
        places = ids == self.image_token
        if int(places.sum()) != len(visual):
            raise ValueError(
                f"the text has {int(places.sum())} <IMG_CONTEXT> tokens, the pictures give {len(visual)}; "
                "announce as many frames or tiles as there are"
            )
        embeddings = self.embed(ids)
        return embeddings.masked_scatter(places.unsqueeze(-1), visual.to(embeddings.dtype))

    def states(
        self,
        embeddings: Float[Tensor, "batch length width"],
        mask: Bool[Tensor, "batch total"] | None = None,
        cache: Any = None,
        positions: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """Final-norm states; with a cache, goes on from it and extends it.

        Raises:
            ValueError: more tokens than the model's context.
        """
        length = embeddings.shape[1] + (0 if cache is None else cache.get_seq_length())
        if length > self.size.language.context:
            raise ValueError(
                f"{length} tokens do not fit the context of {self.size.language.context}; show fewer frames"
            )
        return self.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=None if mask is None else mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, states: Float[Tensor, "*any width"]) -> Float[Tensor, "*any vocabulary"]:
        """Next-token logits."""
        return self.model.lm_head(states)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[list[int]],
        visual: Float[Tensor, "n width"],
        max_new_tokens: int,
        stopped: Callable[[list[int]], bool],
    ) -> list[Answer]:
        """Greedy answers to several prompts about the same pictures; their common beginning is computed once.

        Args:
            prompts: token ids; every prompt contains the same image tokens.
            visual: visual tokens of the pictures.
            max_new_tokens: stop there, or where the context is full.
            stopped: does an answer end with its last token?
        """
        from transformers import DynamicCache

        device = visual.device
        shared = _common_length(prompts)
        beginning = torch.tensor([prompts[0][:shared]], device=device)
        cache = DynamicCache(config=self.model.model.language_model.config)
        self.states(self.insert(beginning, visual), cache=cache)
        tails = [prompt[shared:] for prompt in prompts]
        room = self.size.language.context - max(map(len, prompts)) + 1  # the last token is not fed back
        return self._go_on(tails, copy.deepcopy(cache), max(1, min(max_new_tokens, room)), stopped)

    def _go_on(
        self, tails: list[list[int]], cache: Any, max_new_tokens: int, stopped: Callable[[list[int]], bool]
    ) -> list[Answer]:
        device = self.model.lm_head.weight.device if hasattr(self.model.lm_head, "weight") else cache.device
        shared, longest = cache.get_seq_length(), max(map(len, tails))
        cache.batch_repeat_interleave(len(tails))
        ids = torch.tensor([[0] * (longest - len(tail)) + tail for tail in tails], device=device)
        real = torch.tensor([[False] * (longest - len(tail)) + [True] * len(tail) for tail in tails], device=device)
        mask = torch.cat([torch.ones(len(tails), shared, dtype=torch.bool, device=device), real], 1)
        answers: list[list[int]] = [[] for _ in tails]
        states: list[list[Tensor]] = [[] for _ in tails]
        running = [True] * len(tails)
        for _ in range(max_new_tokens):
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            last = self.states(self.embed(ids), mask, cache, positions)[:, -1]
            chosen = self.logits(last).argmax(-1)
            for row in [i for i, go in enumerate(running) if go]:
                if answers[row]:
                    states[row].append(last[row])
                answers[row].append(int(chosen[row]))
                running[row] = not stopped(answers[row])
            if not any(running):
                break
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        empty = torch.zeros(0, self.width, device=device)
        return [
            Answer(tokens, torch.stack(kept) if kept else empty) for tokens, kept in zip(answers, states, strict=True)
        ]


def _common_length(prompts: Sequence[list[int]]) -> int:
    """Length of the common beginning, leaving every prompt at least one token of its own."""
    limit = min(map(len, prompts)) - 1
    columns = zip(*(prompt[:limit] for prompt in prompts), strict=True)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), limit)
