"""Reads the recordings of the official SgMg code and draws the weights and inputs they were made with.

The rules are those of the recordings' README: every tensor is drawn from its own name.
"""

import fnmatch
import json
import os
import re
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import once
import torch
from safetensors import safe_open
from stated import prefix, readme, slices
from torch import nn

from rvos_lightning.core.types import Clip, ClipMeta
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.text.tokenizers import Tokenizer
from rvos_lightning.parts.weights import convert
from rvos_lightning.systems.sgmg.network import DEVIATION, MEAN, SgMg
from rvos_lightning.systems.sgmg.official import KEY_MAP, to_official
from rvos_lightning.systems.sgmg.video_swin import SIZES, SwinSize, VideoSwin

FOLDER = Path(os.environ.get("RVOS_GOLDEN", Path(__file__).parents[1] / "golden")) / "sgmg"


def files(pattern: str) -> list[Path]:
    """Every recording of a kind."""
    return sorted(FOLDER.glob(pattern))


def normal(key: str, shape) -> np.ndarray:
    """n(key, shape) of the README."""
    return np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(tuple(shape))


def draw(name: str, shape) -> torch.Tensor:
    """An input of unit scale, float32."""
    return torch.from_numpy(normal(start() + name, shape).astype(np.float32))


@cache
def start() -> str:
    """How the inputs' names begin: objects are labelled where their drawn logits are positive."""
    golden = next((Recording(path) for path in files("davis_merge*.safetensors")), None)

    def fits(name: str) -> bool | None:
        if golden is None:
            return None
        shape = [golden.config[axis] for axis in "OTHW"]
        shown = torch.from_numpy(normal(name + "davis.logits", shape) > 0).any(0)
        return torch.equal(sliced(shown, golden.tensors["labels"]["slice"]), golden.arrays["labels"] > 0)

    return prefix(readme(FOLDER), fits)


def weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A parameter."""
    n = normal(key, shape)
    value = 1 + 0.02 * n if key.endswith(".weight") and len(shape) == 1 else 0.02 * n
    return torch.from_numpy(value.astype(np.float32))


def matches(key: str, pattern: str) -> bool:
    """Suffix match without a star, as the recordings' `boost` means it."""
    return fnmatch.fnmatchcase(key, pattern) if "*" in pattern else key.endswith(pattern)


def seed(module: nn.Module, prefix: str = "", boost: list | None = None) -> None:
    """Give `module`, which hangs at `prefix` in our network, the official weights, through both key maps."""
    own = {prefix + key: value for key, value in module.state_dict().items()}
    official, unknown = to_official(own)
    assert not unknown, unknown[:3]
    names = {key: key.replace("transformer.decoder.bbox_embed.", "bbox_embed.") for key in official}
    shapes = {names[key]: tuple(value.shape) for key, value in official.items() if value.is_floating_point()}
    numbers = once.seeded("sgmg", shapes, weight)
    drawn = {}
    for key, value in official.items():
        name = names[key]
        factor = next((by for pattern, by in boost or () if matches(name, pattern)), 1.0)
        drawn[key] = numbers[name] * factor if name in numbers else value
    state = convert(drawn, KEY_MAP, own)
    module.load_state_dict({key[len(prefix) :]: value for key, value in state.items()})


RESULTS: list[tuple[str, str, float]] = []
"""(file, array, greatest absolute error) of every comparison, for the parity table."""


@dataclass
class Recording:
    """One .safetensors file: arrays, thinned out by a slice, and metadata."""

    path: Path

    def __post_init__(self):
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
            self.arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.config, self.tensors = json.loads(metadata["config"]), json.loads(metadata["tensors"])
        self.unread = set(self.arrays)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> torch.Tensor:
        """A stored input (ids, masks, targets), whole."""
        self.unread.discard(name)
        return self.arrays[name]

    def check(self, name: str, ours: torch.Tensor, atol: float, rtol: float = 0.0, of_greatest: float = 0.0) -> None:
        """Compare the stored elements, and mean, rms and greatest magnitude of all."""
        self.unread.discard(name)
        facts, theirs = self.tensors[name], self.arrays[name].double()
        ours = ours.detach().double()
        assert list(ours.shape) == facts["full_shape"], (name, tuple(ours.shape), facts["full_shape"])
        stored = sliced(ours, facts["slice"])
        error = (stored - theirs).abs()
        RESULTS.append((self.path.stem, name, float(error.max()) if error.numel() else 0.0))
        limit = atol + rtol * theirs.abs() + of_greatest * facts.get("absmax", 0.0)
        assert bool((error <= limit).all()), f"{self.path.name} {name}: max error {float(error.max()):.2e}"
        for fact, value in (("mean", ours.mean()), ("rms", ours.square().mean().sqrt()), ("absmax", ours.abs().max())):
            if fact in facts:
                near = atol + (rtol + of_greatest) * facts["absmax"]
                assert abs(float(value) - facts[fact]) <= near, (self.path.name, name, fact, float(value), facts[fact])

    def finish(self) -> None:
        """Every array must have been looked at."""
        assert not self.unread, f"{self.path.name}: nobody compared {sorted(self.unread)}"


def sliced(full: torch.Tensor, rule: str) -> torch.Tensor:
    """`full[rule]` for the rules that metadata holds: a python slice as text, or a step through the flat tensor."""
    if found := re.search(r"numel\(\) // (\d+)", rule):
        return full.reshape(-1)[:: max(1, full.numel() // int(found[1]))]
    return full[slices(rule)]


class IdTokenizer(Tokenizer):
    """Reads ids written as text."""

    pad, end, size = 1, 2, 0

    def __call__(self, text: str) -> list[int]:
        return [int(token) for token in text.split()]


def sentences(ids: torch.Tensor, mask: torch.Tensor | None = None) -> list[str]:
    """Ids as text that `IdTokenizer` reads; padding left out."""
    mask = torch.ones_like(ids) if mask is None else mask
    return [" ".join(str(int(i)) for i in row[keep.bool()]) for row, keep in zip(ids, mask, strict=True)]


def roberta(layers: int, vocabulary: int) -> Roberta:
    """The recordings' RoBERTa, dropout off, not frozen."""
    size = TextSize(vocabulary=vocabulary, layers=layers, positions=512, dropout=0.0)
    return Roberta(size=size, tokenizer=IdTokenizer(), frozen=False, pooler=True)


def network(config: dict, **options) -> SgMg:
    """The recording's network, seeded."""
    name = config.get("backbone", "video_swin_t_p4w7").split("_")[2]
    size = SwinSize(**{**vars(SIZES[name]), "drop_path": 0.0})
    text = roberta(config.get("text_layers", 2), config.get("vocab", 1000))
    built = SgMg(VideoSwin(size=size), text, dropout=0.0, **options)
    seed(built, boost=config.get("boost"))
    return built.eval()


def clip_of(videos: list[torch.Tensor], texts: list[str]) -> Clip:
    """Normalised videos [time, 3, h, w], padded to one size with zeros, as the network gets them: not normalised."""
    height, width = (max(video.shape[axis] for video in videos) for axis in (-2, -1))
    mean, deviation = torch.tensor(MEAN)[:, None, None], torch.tensor(DEVIATION)[:, None, None]
    frames = torch.zeros(len(videos), len(videos[0]), 3, height, width)
    for row, video in zip(frames, videos, strict=True):
        row[..., : video.shape[-2], : video.shape[-1]] = video * deviation + mean
    names = tuple(str(i) for i in range(frames.shape[1]))
    meta = [ClipMeta(f"v{i}", "0", names, tuple(v.shape[-2:]), tuple(v.shape[-2:])) for i, v in enumerate(videos)]
    return Clip(frames, torch.arange(len(videos)), texts, meta)
