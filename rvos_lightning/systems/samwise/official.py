"""Checkpoints of ClaudiaCuttano/SAMWISE in and out.

rvos convert samwise official.pth ours.safetensors
rvos convert samwise ours.safetensors official.pth --export
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rvos_lightning.parts.segmenters.sam2_build import BLOCKS, variant_of
from rvos_lightning.parts.weights import KeyMap, Rule, WeightsError, convert, load_official, report, save

TEXT, OUR_TEXT = "text_encoder.model.encoder.sentence_encoder.", "adapter.text.model."
CME = "conditional_memory_encoder."
TOKEN_TYPES = OUR_TEXT + "embeddings.token_type_embeddings.weight"  # fairseq has none: zero here
MOST_LAYERS = 24  # RoBERTa-large

LAYER = {  # inside layer i: fairseq -> transformers
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
ADAPTER = {  # inside an adapter: official -> ours
    "proj_vis_down.": "down.",
    "proj_vis_up.": "up.",
    "proj_text_down.0.": "text_down.",
    "proj_text_up.0.": "text_up.",
    "ca_V2T.multihead_attn.": "vision_from_text.",
    "ca_T2V.multihead_attn.": "text_from_vision.",
    "norm_pre_HSA.": "selective.norm.",
    "hsa.self_attn.": "selective.attention.",
    "hsa.linear.": "selective.linear.",
    "spatial_pos_embed": "selective.place",
}
PREFIXES = {  # official -> ours; in both directions the first that fits wins, so the longer stand first
    TEXT + "embed_tokens.": OUR_TEXT + "embeddings.word_embeddings.",
    TEXT + "embed_positions.": OUR_TEXT + "embeddings.position_embeddings.",
    TEXT + "layernorm_embedding.": OUR_TEXT + "embeddings.LayerNorm.",
    **{
        f"{TEXT}layers.{i}.{theirs}.": f"{OUR_TEXT}encoder.layer.{i}.{ours}."
        for i in range(MOST_LAYERS)
        for theirs, ours in LAYER.items()
    },
    "sam.sam_prompt_encoder.project_text.": "prompter.project_text.",
    "sam.": "segmenter.",
    CME + "decision_class_head.": "memory.encoder.decision_head.",
    CME + "decision_token.": "memory.encoder.decision_token.",
    CME + "transformerBlock.": "memory.encoder.",
    **{  # adapter i stands after trunk stage i + 1 (official flag fusion_stages 1 2 3)
        f"cmt_adapters.{i}.{theirs}": f"adapter.adapters.{i + 1}.{ours}"
        for i in range(3)
        for theirs, ours in ADAPTER.items()
    },
}
NEVER_USED = (r"text_encoder\._float_tensor", re.escape(TEXT) + "version", r"text_encoder\.model\.encoder\.lm_head\..*",
              re.escape(CME) + r"transformerBlock\.norm2\..*")  # fmt: skip


def _rules(prefixes: Mapping[str, str], reverse: bool) -> list[Rule]:
    rules = []
    for theirs, ours in prefixes.items():
        source, target = (ours, theirs) if reverse else (theirs, ours)
        place = theirs.endswith("spatial_pos_embed")  # theirs [1, 1, 1, p * p, d], ours [p * p, d]
        change = (_add_axes if reverse else _drop_axes) if place else None
        rules.append(Rule(re.escape(source) + "(.*)", target + r"\1", change))
    return rules


def _drop_axes(tensor: Tensor) -> list[Tensor]:
    return [tensor.reshape(tensor.shape[-2:])]


def _add_axes(tensor: Tensor) -> list[Tensor]:
    return [tensor[None, None, None]]


KEY_MAP = KeyMap(_rules(PREFIXES, reverse=False), drop=NEVER_USED, missing=(re.escape(TOKEN_TYPES),))
EXPORT_MAP = KeyMap(_rules(PREFIXES, reverse=True), drop=(re.escape(TOKEN_TYPES),))


def import_official(source: Path | str, destination: Path | str) -> str:
    """Write an official checkpoint as ours; returns a report that says which variant it is.

    Raises:
        WeightsError: a key is not accounted for, or a shape differs (e.g. another adapter width).
    """
    state = load_official(source, allow=[argparse.Namespace])
    variant = describe(state)
    if "RefCOCO" in variant:  # its CME was built, but never trained nor used
        state = {key: value for key, value in state.items() if not key.startswith(CME)}
    target = parts_for(state).state_dict()
    ours = convert(state, KEY_MAP, target)
    ours[TOKEN_TYPES] = torch.zeros(target[TOKEN_TYPES].shape)
    save(ours, destination, {"system": "samwise", "variant": variant})
    return f"variant   {variant}\n{report(state, KEY_MAP, target)}"


def export_official(source: Path | str, destination: Path | str) -> str:
    """Write our weights in the official layout, every key of it filled.

    The official model stores tensors it never uses (RoBERTa's LM head, one norm of the CME, two version numbers);
    they are written as ones and zeros, the LM head's tied weight as the word embedding.

    Raises:
        WeightsError: a key of ours is not known.
    """
    state = {re.sub("^network\\.", "", key): value for key, value in load_official(source).items()}
    official, unknown = to_official(state)
    if unknown:
        raise WeightsError(f"{source}: {len(unknown)} keys are not SAMWISE's, first {unknown[0]}")
    filler = _filler(official)
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {**filler, **official}}, destination)
    written = f"{len(official)} keys, and {len(filler)} the official model never uses"
    return f"variant   {describe(official)}\nwritten   {written}"


def to_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our keys and shapes in the official layout, and the keys no rule knows.

    A token-type row of a transformers RoBERTa is folded into the positions, since fairseq has none.
    """
    state = dict(state)
    positions = OUR_TEXT + "embeddings.position_embeddings.weight"
    if TOKEN_TYPES in state and state[TOKEN_TYPES].any():
        state[positions] = state[positions] + state[TOKEN_TYPES]
    renamed = EXPORT_MAP.rename(state)
    return renamed.state, renamed.unknown


def describe(state: Mapping[str, Tensor]) -> str:
    """Which of the published variants an official state dict is.

    Raises:
        WeightsError: it is no SAMWISE checkpoint.
    """
    if "cmt_adapters.0.proj_vis_down.0.weight" not in state:
        raise WeightsError("no SAMWISE checkpoint: cmt_adapters.0.proj_vis_down.0.weight is missing")
    selective = any(".hsa." in key for key in state)
    scores = "sam.no_obj_ptr" in state
    stage = "RVOS" if selective and scores else "RefCOCO pre-training (no HSA, no object scores)"
    if selective != scores:
        stage = f"unpublished mixture (HSA {'on' if selective else 'off'}, object scores {'on' if scores else 'off'})"
    return f"{stage}, {trunk_variant(state)}, RoBERTa of {_depth(state)} layers"


def trunk_variant(state: Mapping[str, Tensor]) -> str:
    """hiera_t, hiera_s, hiera_b+ or hiera_l, from the number of blocks."""
    variant = variant_of(state)
    if variant is None:
        raise WeightsError(f"the trunk has not as many blocks as one of SAM 2's: {', '.join(map(str, BLOCKS))}")
    return variant


def parts_for(state: Mapping[str, Tensor]) -> nn.Module:
    """The parts an official state dict belongs to, without memory for their weights, named as in the network."""
    from rvos_lightning.core.network import PromptedSegmenter
    from rvos_lightning.parts.segmenters.sam2 import Sam2
    from rvos_lightning.parts.text.roberta import Roberta, TextSize
    from rvos_lightning.parts.text.tokenizers import WordTokenizer
    from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
    from rvos_lightning.systems.samwise.conditional_memory import ConditionalMemory
    from rvos_lightning.systems.samwise.motion_prompter import MotionPrompter

    vocabulary, width = state[TEXT + "embed_tokens.weight"].shape
    size = TextSize(
        vocabulary=vocabulary,
        width=width,
        layers=_depth(state),
        heads=1,  # leaves no trace in shapes
        mlp=state[TEXT + "layers.0.fc1.weight"].shape[0],
        positions=state[TEXT + "embed_positions.weight"].shape[0] - 2,
    )
    places = [state.get(f"cmt_adapters.{i}.spatial_pos_embed") for i in range(3)]
    depth = size.layers
    with torch.device("meta"):
        segmenter = Sam2(trunk_variant(state), object_scores="sam.no_obj_ptr" in state)
        adapter = CMTAdapter(
            Roberta(size=size, tokenizer=WordTokenizer((), buckets=1)),
            text_layers=(1, depth // 3, 2 * depth // 3, depth),
            dim=state["cmt_adapters.0.proj_vis_down.0.weight"].shape[0],
            patches=[8 if place is None else int(place.shape[-2] ** 0.5) for place in places],
            selective=places[0] is not None,
        )
        memory = ConditionalMemory(switching=CME + "decision_token.weight" in state)
        return PromptedSegmenter(segmenter, adapter, MotionPrompter(), memory)


def _depth(state: Mapping[str, Tensor]) -> int:
    return sum(key.startswith(TEXT) and key.endswith(".fc1.weight") for key in state)


def _filler(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    words = official[TEXT + "embed_tokens.weight"]
    width, head = words.shape[1], "text_encoder.model.encoder.lm_head."
    filler = {
        "text_encoder._float_tensor": torch.zeros(1),
        TEXT + "version": torch.zeros(1),
        head + "weight": words,
        head + "bias": torch.zeros(len(words)),
        head + "dense.weight": torch.zeros(width, width),
        head + "dense.bias": torch.zeros(width),
        head + "layer_norm.weight": torch.ones(width),
        head + "layer_norm.bias": torch.zeros(width),
    }
    if (token := official.get(CME + "decision_token.weight")) is not None:
        filler[CME + "transformerBlock.norm2.weight"] = torch.ones(token.shape[1])
        filler[CME + "transformerBlock.norm2.bias"] = torch.zeros(token.shape[1])
    return filler
