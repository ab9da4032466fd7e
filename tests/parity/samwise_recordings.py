"""Reads the recordings of the official SAMWISE code and draws the weights and inputs they were made with.

The rules are those of the recordings' README: every tensor is drawn from its own name.
"""

import json
import os
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from once import seeded
from safetensors import safe_open
from torch import nn

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Clip, ClipMeta
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.text.tokenizers import Tokenizer
from rvos_lightning.parts.weights import convert
from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
from rvos_lightning.systems.samwise.conditional_memory import ConditionalMemory
from rvos_lightning.systems.samwise.motion_prompter import MotionPrompter
from rvos_lightning.systems.samwise.official import KEY_MAP, to_official

FOLDER = Path(os.environ.get("RVOS_GOLDEN", Path(__file__).parents[1] / "golden")) / "samwise"
VARIANTS = {"tiny": "hiera_t", "small": "hiera_s", "base": "hiera_b+", "large": "hiera_l"}


def files(pattern: str) -> list[Path]:
    """Every recording of a kind."""
    return sorted(FOLDER.glob(pattern))


def normal(key: str, shape) -> np.ndarray:
    """n(key, shape) of the README."""
    return np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(tuple(shape))


def draw(key: str, shape, scale: float = 1.0) -> torch.Tensor:
    """An input of unit scale (times `scale`), float32."""
    return torch.from_numpy((scale * normal(key, shape)).astype(np.float32))


def weight(key: str, like: torch.Tensor, rule: str) -> torch.Tensor:
    """A parameter or buffer under rule A or B; integer buffers stay as built."""
    if not like.is_floating_point():
        return like
    name = key
    if key.endswith("lm_head.weight"):
        name = "text_encoder.model.encoder.sentence_encoder.embed_tokens.weight"
    n, shape = normal(name, like.shape), like.shape
    if key.endswith(".weight") and len(shape) == 1:
        value = 1 + 0.02 * n
    elif key.endswith("running_var"):
        value = 1 + 0.02 * np.abs(n)
    elif len(shape) <= 1 or rule == "A":
        value = 0.02 * n
    else:
        value = n / np.sqrt(prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def seed(parts: nn.Module, rule: str, bias_delta: dict | None = None, prefix: str = "") -> None:
    """Give `parts` (named as in the network, below `prefix`) the official weights, through both key maps."""
    own = {prefix + key: value for key, value in parts.state_dict().items()}
    official, unknown = to_official(own)
    assert not unknown, unknown[:3]
    shapes = {key: value.shape for key, value in official.items() if value.is_floating_point()}
    kept = {key: value for key, value in official.items() if key not in shapes}
    drawn = kept | seeded(f"samwise {rule}", shapes, lambda key, shape: weight(key, torch.empty(shape), rule))
    for key, delta in (bias_delta or {}).items():
        drawn[key] = drawn[key] + torch.tensor(delta)
    state = convert(drawn, KEY_MAP, own)
    for key, value in own.items():
        state.setdefault(key, torch.zeros_like(value))  # token types, which fairseq does not have
    parts.load_state_dict({key[len(prefix) :]: value for key, value in state.items()})


@dataclass
class Recording:
    """One .safetensors file: arrays (possibly thinned out) and metadata."""

    path: Path

    def __post_init__(self):
        with safe_open(self.path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            self.arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.metadata = metadata
        self.config = metadata["config"]
        self.strides = metadata.get("flat_strides", {})

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def error(self, name: str, ours: torch.Tensor) -> torch.Tensor:
        """Absolute differences on the stored elements."""
        theirs = self.arrays[name].double()
        shape = self.metadata.get("shapes", {}).get(name)
        ours = ours.detach().double()
        if shape is not None:
            assert ours.numel() == prod(shape), (name, tuple(ours.shape), shape)
        if name in self.strides:
            ours = ours.reshape(-1)[:: self.strides[name]]
        return (ours.reshape(theirs.shape) - theirs).abs()

    def check(self, name: str, ours: torch.Tensor, atol: float, rtol: float = 0.0, outliers: float = 0.0) -> None:
        """Compare; a share `outliers` of the elements may differ (the switch rule is discontinuous)."""
        error = self.error(name, ours)
        excess = error - atol - rtol * self.arrays[name].double().abs()
        RESULTS.append((self.path.stem, name, float(error.max()) if error.numel() else 0.0))
        share = float((excess > 0).double().mean()) if error.numel() else 0.0
        assert share <= outliers, f"{self.path.name} {name}: max error {float(error.max()):.2e}, {share:.2%} beyond"

    def input(self, pattern: str, shape, scale: float = 1.0) -> torch.Tensor:
        """The input whose name in the metadata contains `pattern`."""
        names = self.config.get("input_names") or self.config.get("inputs") or [self.config.get("input_name")]
        name = next(name for name in names if pattern in name)
        return draw(name, shape, scale)


RESULTS: list[tuple[str, str, float]] = []
"""(file, array, greatest absolute error) of every comparison, for the parity table."""


class IdTokenizer(Tokenizer):
    """Reads ids written as text, as the recordings' captions are."""

    pad, end, size = 1, 2, 0

    def __call__(self, text: str) -> list[int]:
        return [int(token) for token in text.split()]


def roberta(sizes: dict, **options) -> Roberta:
    """The recording's RoBERTa, dropout off."""
    size = TextSize(
        sizes["vocab"], sizes["dim"], sizes["layers"], sizes["heads"], sizes["ffn"], sizes["max_positions"], dropout=0.0
    )
    return Roberta(size=size, tokenizer=IdTokenizer(), **options)


def network(config: dict, **sam2) -> PromptedSegmenter:
    """The recording's whole network, seeded; frames are taken as already normalised."""
    scores = not config["disable_pred_obj_score"]
    segmenter = Sam2(
        VARIANTS[config["sam2_version"]],
        image_size=config["image_size"],
        object_scores=scores,
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
        **sam2,
    )
    text = roberta(config["roberta"])
    adapter = CMTAdapter(
        text,
        stages=config["fusion_stages"],
        text_layers=[1, *config["fusion_stages_txt"]],
        dim=config["adapter_dim"],
        patches=config["HSA_patch_size"],
        selective=config["HSA"],
        dropout=0.0,
        parity="official",
    )
    memory = ConditionalMemory(
        switching=config["use_cme_head"],
        window=config["cme_decision_window"],
        switch=config.get("switch_mem", "reweight"),
        dropout=0.0,
        parity="official",
    )
    built = PromptedSegmenter(segmenter, adapter, MotionPrompter(), memory)
    delta = dict(config["bias_delta"])
    if not config["use_cme_head"]:
        delta = {key: value for key, value in delta.items() if not key.startswith("conditional_memory_encoder")}
    seed(built, config["rule"], delta)
    return built


def clip_of(frames: torch.Tensor, captions: list[str], sizes: list[tuple[int, int]] | None = None) -> Clip:
    """A clip of one video per caption; frames [video, time, 3, height, width]."""
    names = tuple(str(i) for i in range(frames.shape[1]))
    sizes = sizes or [tuple(frames.shape[-2:])] * len(captions)
    meta = [ClipMeta(f"v{i}", "0", names, size, size) for i, size in enumerate(sizes)]
    return Clip(frames, torch.arange(len(captions)), list(captions), meta)
