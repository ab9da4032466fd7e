"""Reads the recordings of the released SAM + CLIP model and draws the weights and inputs they were made with.

The rules are those of the recordings' README: every tensor is drawn from its own name.
"""

import json
import os
import re
import zlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from stated import prefix, readme, slices
from torch import nn

from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.text.bert import Bert, TextSize
from rvos_lightning.parts.text.tokenizers import Tokenizer
from rvos_lightning.systems.clip_sam.network import ClipSam
from rvos_lightning.systems.clip_sam.official import EXPORT_MAP, KEY_MAP
from rvos_lightning.systems.clip_sam.towers import ClipTower

LOCAL = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("RVOS_GOLDEN", LOCAL)) / "sam_clip_ris"
GENERATED = ("sam.", "bridge.", "text.", "word_projection.", "category_projection.")
RESULTS: list[tuple[str, str, float]] = []
"""(file, array, greatest absolute error) of every comparison, for the parity table."""


def files(pattern: str) -> list[Path]:
    """Every recording of a kind."""
    return sorted(FOLDER.glob(pattern))


def generator(key: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)


@cache
def factors() -> list:
    """The table of the weight rule, the same for every set of recordings."""
    own, local = FOLDER / "weight_factors.json", LOCAL / "sam_clip_ris" / "weight_factors.json"
    return json.loads((own if own.exists() else local).read_text())


def weight(key: str, shape) -> torch.Tensor:
    """A parameter or buffer, drawn from its official key."""
    n = generator(key).standard_normal(tuple(shape))
    f = next((factor for pattern, factor in factors() if fnmatchcase(key, pattern)), 1)
    if len(shape) == 0:
        value = f * (1 + 0.02 * n)
    elif key.endswith(".weight") and len(shape) == 1:
        value = 1 + 0.02 * n
    else:
        value = f * 0.02 * n
    return torch.from_numpy(np.asarray(value).astype(np.float32))


def seed(module: nn.Module, prefix: str = "") -> nn.Module:
    """Give `module` (named as in the network, below `prefix`) the official weights, through both key maps."""
    own = {prefix + key: value for key, value in module.state_dict().items()}
    own = {key: value for key, value in own.items() if key.startswith(GENERATED) and value.is_floating_point()}
    renamed = EXPORT_MAP.rename(own)
    assert not renamed.unknown, renamed.unknown[:3]
    drawn = KEY_MAP.rename({key: weight(key, value.shape) for key, value in renamed.state.items()})
    assert not drawn.unknown and drawn.state.keys() == own.keys()
    missing = module.load_state_dict({k[len(prefix) :]: v for k, v in drawn.state.items()}, strict=False).missing_keys
    assert all(not (prefix + key).startswith(GENERATED) for key in missing), missing[:3]
    return module.eval()


@dataclass
class Recording:
    """One .safetensors file: slices of arrays and metadata."""

    path: Path

    def __post_init__(self):
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
            self.arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.config, self.tensors = json.loads(metadata["config"]), json.loads(metadata["tensors"])
        self.prefix = self.config.get("input_prefix") or prefix_of(FOLDER)
        self.compared: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        """I(NAME, shape)."""
        return torch.from_numpy(generator(self.prefix + name).standard_normal(shape).astype(np.float32))

    def uniform(self, name: str, *shape: int) -> torch.Tensor:
        """U(NAME, shape)."""
        return torch.from_numpy(generator(self.prefix + name).random_sample(shape).astype(np.float32))

    def sam_map(self, name: str, batch: int, h: int, w: int) -> torch.Tensor:
        """F(NAME, B, h, w)."""
        return self.normal(name, batch, 256, h, w) + 1.5 * self.normal(f"{name}.offset", batch, 256, 1, 1)

    def table(self) -> torch.Tensor:
        """T_cat."""
        table = self.normal("t_cat", 134, 768)
        return table / table.norm(dim=1, keepdim=True)

    def errors(self, name: str, ours: torch.Tensor) -> torch.Tensor:
        """Absolute differences on the stored slice, after a look at the shape."""
        entry = self.tensors[name]
        assert list(ours.shape) == entry["full_shape"], (name, tuple(ours.shape), entry["full_shape"])
        self.compared.add(name)
        return (ours.detach().double()[slices(entry["slice"])] - self.arrays[name].double()).abs()

    def check(self, name: str, ours: torch.Tensor, atol: float, rtol: float = 0.0, queries: int = 0) -> None:
        """Compare slice and statistics; `queries` of axis 1 may leave the tolerance by up to 2 % of the greatest."""
        errors, entry = self.errors(name, ours), self.tensors[name]
        RESULTS.append((self.path.stem, name, float(errors.max()) if errors.numel() else 0.0))
        excess = errors - atol - rtol * self.arrays[name].double().abs()
        out = (excess > 0).flatten(2).any(2) if queries and errors.dim() > 2 else (excess > 0).reshape(1, -1)
        assert int(out.sum(1).max()) <= queries, f"{self.path.name} {name}: max error {float(errors.max()):.2e}"
        if queries:
            assert float(errors.max()) <= max(0.02 * float(self.arrays[name].abs().max()), atol), name
        loose = 1e-4 if queries else 0
        value = ours.detach().double()
        for statistic, mine in (
            ("mean", value.mean()), ("rms", value.square().mean().sqrt()), ("absmax", value.abs().max()),
        ):  # fmt: skip
            if statistic in entry:
                theirs, slack = entry[statistic], 2 * atol + max(rtol, 1e-5) * abs(entry["absmax"]) + loose
                assert abs(float(mine) - theirs) <= slack, (self.path.name, name, statistic, float(mine), theirs)

    def exact(self, name: str, ours: torch.Tensor, within: int = 0) -> None:
        """Integers and booleans: slice and sum."""
        errors = self.errors(name, ours)
        assert float(errors.max() if errors.numel() else 0) <= within, f"{self.path.name} {name}"
        if "sum" in self.tensors[name]:
            assert abs(int(ours.long().sum()) - self.tensors[name]["sum"]) <= within * ours.numel(), (name, "sum")

    def complete(self, *unused: str) -> None:
        """Every recorded array was compared but those that match `unused`."""
        left = [n for n in self.arrays if n not in self.compared and not any(re.fullmatch(u, n) for u in unused)]
        assert not left, f"{self.path.name}: never compared: {left}"


@cache
def prefix_of(folder: Path) -> str:
    """How the inputs' names begin: so that they give the gate of the fusion block."""
    from rvos_lightning.systems.clip_sam.pwam import Pwam

    path = next(iter(sorted(folder.glob("pwam*.safetensors"))), None)
    if path is None:
        return prefix(readme(folder), lambda start: None)
    with safe_open(path, "pt") as file:
        c, a = json.loads(file.metadata()["config"]), file.get_tensor("a")
        index = slices(json.loads(file.metadata()["tensors"])["a"]["slice"])
    pwam = seed(Pwam(), "bridge.fusion.")

    def fits(start: str) -> bool:
        drawn = generator(f"{start}pwam.v").standard_normal((c["B"], c["grid"] ** 2, 1024)).astype(np.float32)
        gate = nn.functional.gelu(pwam.gate(torch.from_numpy(drawn))).transpose(1, 2)
        return torch.allclose(gate[index], a, atol=1e-3)

    return prefix(readme(folder), fits)


def tag_of(path: Path, default: str) -> str:
    """The name that a recording's inputs carry: of its metadata, of its paragraph in the README, else the default."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    paragraph = re.search(rf"\*\*{path.stem}\*\* (.*?)(?= \*\*|$)", readme(FOLDER))
    found = re.search(r"\btag `(\w+)`|[FIU]\('(\w+)\.", paragraph[1]) if paragraph else None
    return config.get("tag") or (found and (found[1] or found[2])) or default


class IdTokenizer(Tokenizer):
    """Reads ids written as text."""

    pad, end, size = 0, 102, 0

    def __call__(self, text: str) -> list[int]:
        return [int(token) for token in text.split()]


def network(golden: Recording, no_target: bool) -> ClipSam:
    """The released network of a recording; SAM's and CLIP's image encoders are never asked."""
    tall = "bert12" in golden.path.stem
    words = golden.config["T"]
    size = TextSize(30522 if tall else 1000, layers=12 if tall else 2, dropout=0.0)
    tower = ClipTower(size={
        "embed_dim": 768, "quick_gelu": True,
        "vision_cfg": {"image_size": 336, "layers": 1, "width": 1024, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 1},
    })  # fmt: skip
    sam = Sam("mobile_sam")
    sam.encoder = nn.Identity()
    net = ClipSam(
        sam, tower, Bert(size=size, tokenizer=IdTokenizer()), preset="released", allow_oracle=True,
        no_target=no_target, words=words,
    )  # fmt: skip
    seed(net)
    net.category_table = golden.table()
    return net


def sentences(golden: Recording) -> list[str]:
    """The recorded token ids, padding left out."""
    rows = zip(golden.arrays["token_ids"], golden.arrays["text_mask"].bool(), strict=True)
    return [" ".join(map(str, ids[real].tolist())) for ids, real in rows]
