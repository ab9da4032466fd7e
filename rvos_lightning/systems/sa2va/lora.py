"""Low-rank adapters on the language model only, through peft."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rvos_lightning.parts.starting import outside_adapter

LANGUAGE = r"model\.language_model\..*"


@dataclass(frozen=True)
class LoRA:
    """Rank, scale and targets; the published values (rank 128, alpha 256, dropout 0.05).

    Attributes:
        targets: last names of the Linear modules of the language model; None: all of them.
        head: an adapter on the output head too; None: where the released training has one, which is on InternLM2
            (8B, 26B), as that calls its head `output` and the exception is made for `lm_head`.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    targets: tuple[str, ...] | None = None
    head: bool | None = None


def add_lora(model: nn.Module, lora: LoRA, head: bool = False) -> nn.Module:
    """Put adapters into an InternVL model in place; its own weights are frozen by this.

    `head` is what `lora.head` None means.

    Raises:
        ValueError: a target that names no Linear module of the language model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    inside = [name for name in linear if re.fullmatch(LANGUAGE, name)]
    found = sorted({name.rsplit(".", 1)[1] for name in inside})
    targets = found if lora.targets is None else list(lora.targets)
    if absent := [target for target in targets if target not in found]:
        raise ValueError(f"lora.targets {absent} match nothing in the language model; it has {', '.join(found)}")
    head = head if lora.head is None else lora.head
    pattern = rf"{LANGUAGE}\.({'|'.join(map(re.escape, targets))})" + ("|lm_head" if head else "")
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=pattern, bias="none"
    )
    return inject_adapter_in_model(config, model)


def merged(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state dict with each adapter added to its base layer: W + scale * B A, in float32, then W's own type."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if re.search(r"\.lora_[AB]\.", key):
            continue
        if not key.endswith(".base_layer.weight"):
            result[outside_adapter(key)] = tensor
            continue
        stem = key.removesuffix(".base_layer.weight")
        down, up = (_adapter(state, stem, part) for part in "AB")
        result[f"{stem}.weight"] = (tensor.float() + scale * (up.float() @ down.float())).to(tensor.dtype)
    return result


def _adapter(state: Mapping[str, Tensor], stem: str, part: str) -> Tensor:
    return next(state[key] for key in state if key.startswith(f"{stem}.lora_{part}."))


def lora_scale(lora: LoRA | None) -> Tensor:
    """alpha / rank, kept beside the weights so that a merge needs nothing else; 0 without adapters."""
    return torch.tensor(0.0 if lora is None else lora.alpha / lora.rank)


def train_whole(model: Any, vision: bool, language: bool) -> None:
    """The published split on top of adapters: projector, embeddings and head whole; vision and base on request."""
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad_(vision)
    for name, parameter in model.model.language_model.named_parameters():
        parameter.requires_grad_(language or ".lora_" in f".{name}")
    parts = (model.model.multi_modal_projector, model.get_input_embeddings(), model.get_output_embeddings())
    for part in parts:
        part.requires_grad_(True)
