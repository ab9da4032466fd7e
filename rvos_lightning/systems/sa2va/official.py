"""Released Sa2VA / Sa2VA-i (and InternVL2.5) folders in and out, shard by shard.

rvos convert sa2va OFFICIAL_FOLDER OURS_FOLDER
rvos convert sa2va OURS_FOLDER OFFICIAL_FOLDER --export
rvos convert sa2va_i SA2VA_FOLDER SA2VA_I_FOLDER --sam2 SAM2_LARGE_FILE
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rvos_lightning.parts.segmenters.sam2_build import variant_of
from rvos_lightning.parts.weights import KeyMap, WeightsError, convert, load_official, report
from rvos_lightning.systems.sa2va.key_map import FINETUNED, key_rules, to_official
from rvos_lightning.systems.sa2va.lora import merged
from rvos_lightning.systems.sa2va.shards import Tensors, keys_of, write_shards
from rvos_lightning.systems.sa2va.sizes import MLLMSize, size_of_release

LORA_SCALE = "prompter.mllm.lora_scale"
SAM = "grounding_encoder.sam2_model."
BESIDE = ("config.json", "generation_config.json", "vocab.json", "merges.txt", "tokenizer*", "*token*.json")


def import_official(source: Path, destination: Path, sam2_variant: str | None = None) -> str:
    """Convert a released folder to ours: same tensors, our names, tokenizer and config copied along.

    Sa2VA-i folders have both decoders; Sa2VA folders have one (see `add_original_decoder`); InternVL2.5 folders only
    fill the language model. No more than one shard lies in memory. `sam2_variant` is found out where it is published.

    Raises:
        WeightsError: no config.json, or a key on either side that is not accounted for.
    """
    source, destination = Path(source), Path(destination)
    size, layout = read_size(source), keys_of(source)
    two = any("sam_mask_decoder_modified." in key for key in layout)
    key_map = KeyMap(
        key_rules(size.language.width // size.language.heads, two),
        drop=[r".*position_ids", r".*rotary_emb\.inv_freq"],
        missing=[LORA_SCALE],
    )
    shapes = {key: torch.empty(shape, device="meta") for key, (_, shape) in layout.items()}
    with_sam = any(key.startswith(SAM) for key in layout)
    target = expected(size, two, with_sam, sam2_variant or variant_of(layout) or "hiera_l")
    words = _own_vocabulary(key_map.rename(shapes).state, target)
    convert(shapes, key_map, {**target, **words})
    write_shards(_renamed(Tensors(source), list(layout), key_map), destination)
    _copy_beside(source, destination)
    return report(shapes, key_map, target)


def export_official(source: Path, destination: Path) -> str:
    """Write ours (a folder, a .safetensors or a complete checkpoint) in the released layout, adapters merged.

    Raises:
        WeightsError: keys that have no released name, or weights left out of a checkpoint.
    """
    source, destination = Path(source), Path(destination)
    state: Mapping[str, Tensor]
    state = _LazyState(Tensors(source)) if source.is_dir() else _of_checkpoint(load_official(source))
    head_dim = 128
    if source.is_dir() and (source / "config.json").exists():
        size = read_size(source)
        head_dim = size.language.width // size.language.heads
    count = export_state(state, destination, head_dim)
    if source.is_dir():
        _copy_beside(source, destination)
    return f"wrote {count} tensors in the released layout to {destination}"


def export_state(state: Mapping[str, Tensor], destination: Path, head_dim: int) -> int:
    """Write weights under our names in the released layout; returns the number of tensors.

    Raises:
        WeightsError: a key that has no released name, or whole parts missing.
    """
    parts = ("prompter.mllm.model.model.vision_tower.", "prompter.mllm.model.model.language_model.", FINETUNED)
    if absent := [part for part in parts if not any(key.startswith(part) for key in state)]:
        raise WeightsError(f"nothing under {absent[0]}: frozen parts are left out of checkpoints; export the network")
    scale = float(state[LORA_SCALE]) if LORA_SCALE in state else 0.0
    if any(".lora_A." in key for key in state):
        state = merged(state, scale)
    plain = {key: None for key in state if key != LORA_SCALE}
    attention = "prompter.mllm.model.model.language_model.layers.0.self_attn."
    internlm2 = f"{attention}q_proj.weight" in plain and f"{attention}q_proj.bias" not in plain
    view = _Without(state, LORA_SCALE)
    try:
        return len(write_shards(to_official(view, internlm2, head_dim), destination))
    except KeyError as error:
        raise WeightsError(f"key {error} has no name in the released layout") from error


def add_original_decoder(source: Path, sam2_weights: Path, destination: Path) -> str:
    """Sa2VA folder -> Sa2VA-i folder: the finetuned decoder is renamed, Meta's SAM 2.0 decoder put beside it.

    Raises:
        WeightsError: the folder has two decoders already, or the file lacks decoder tensors of these shapes.
    """
    source, destination = Path(source), Path(destination)
    layout, original = keys_of(source), load_official(sam2_weights)
    if any("sam_mask_decoder_modified." in key for key in layout):
        raise WeightsError(f"{source} has two mask decoders already")
    decoder = [key for key in layout if key.startswith(f"{SAM}sam_mask_decoder.")]
    if not decoder:
        raise WeightsError(f"{source} has no {SAM}sam_mask_decoder; give a Sa2VA folder")
    plain = {key: key.removeprefix(SAM) for key in decoder}
    bad = [k for k, name in plain.items() if name not in original or tuple(original[name].shape) != layout[k][1]]
    if bad:
        raise WeightsError(
            f"{sam2_weights} does not hold {plain[bad[0]]} of shape {layout[bad[0]][1]}; use SAM 2.0 large"
        )
    tensors = Tensors(source)

    def entries() -> Iterator[tuple[str, Callable[[], Tensor]]]:
        for key in layout:
            if key not in plain:
                yield key, lambda key=key: tensors[key]
                continue
            yield key.replace("sam_mask_decoder.", "sam_mask_decoder_modified."), lambda key=key: tensors[key]
            yield key, lambda key=key: original[plain[key]].to(tensors[key].dtype)

    write_shards(entries(), destination)
    _copy_beside(source, destination)
    return f"{len(layout)} tensors and {len(decoder)} of the original decoder written to {destination}"


def read_size(folder: Path) -> MLLMSize:
    """Sizes from a released folder's config.json.

    Raises:
        WeightsError: there is none, or it lacks a field.
    """
    path = folder / "config.json"
    if not path.exists():
        raise WeightsError(f"{path} is missing; give the folder as it was released")
    try:
        return size_of_release(json.loads(path.read_text()))
    except KeyError as error:
        raise WeightsError(f"{path}: field {error} is missing") from error


def expected(size: MLLMSize, two_decoders: bool, with_sam2: bool, sam2_variant: Any = "hiera_l") -> dict[str, Tensor]:
    """Our keys and shapes for a release, without memory: modules on the meta device."""
    from rvos_lightning.systems.sa2va.mllm import MLLM
    from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2

    with torch.device("meta"):
        modules: dict[str, nn.Module] = {"prompter.mllm.": MLLM(size, image_token=0)}
        if with_sam2:
            sam = TwoDecoderSam2(variant=sam2_variant, second_decoder=two_decoders)
            width = size.language.width
            head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, sam.prompt_dim))
            modules |= {"prompter.to_prompt.": head, "segmenter.": sam}
    return {prefix + key: value for prefix, module in modules.items() for key, value in module.state_dict().items()}


def _own_vocabulary(renamed: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Embedding and head at the checkpoint's own number of words, which config.json need not state.

    A base model does not know Sa2VA's added tokens yet; `shards.fill` makes their rows.
    """
    names = [key for key in renamed if key.endswith(("embed_tokens.weight", "lm_head.weight"))]
    return {key: renamed[key] for key in names if key in target and renamed[key].shape[1:] == target[key].shape[1:]}


def _renamed(tensors: Tensors, keys: Sequence[str], key_map: KeyMap) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    for key in keys:
        for name, tensor in key_map.rename({key: tensors[key]}).state.items():
            yield name, lambda tensor=tensor: tensor
    yield LORA_SCALE, lambda: torch.tensor(0.0)


class _LazyState(Mapping[str, Tensor]):
    """A checkpoint folder as a state dict that reads a tensor when it is asked for."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: object) -> bool:
        return key in self.tensors.where

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors.where)

    def __len__(self) -> int:
        return len(self.tensors.where)


class _Without(_LazyState):
    """Another state dict less one key."""

    def __init__(self, state: Mapping[str, Tensor], left_out: str) -> None:
        self.state, self.keys_left = state, [key for key in state if key != left_out]

    def __getitem__(self, key: str) -> Tensor:
        return self.state[key]

    def __contains__(self, key: object) -> bool:
        return key in self.state

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_left)

    def __len__(self) -> int:
        return len(self.keys_left)


def _of_checkpoint(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("network."): value for key, value in state.items() if not key.startswith("metrics.")}


def _copy_beside(source: Path, destination: Path) -> None:
    for pattern in BESIDE:
        for file in source.glob(pattern) if source.is_dir() else ():
            if file.suffix != ".safetensors" and "index" not in file.name:
                shutil.copyfile(file, destination / file.name)
