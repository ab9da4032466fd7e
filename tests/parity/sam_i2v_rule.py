"""The recordings' rule for weights and inputs, and where the recordings lie (see their README)."""

import math
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from once import seeded
from safetensors import safe_open
from stated import prefix, readme, stated
from torch import Tensor, nn

FOLDER = Path(os.environ.get("RVOS_GOLDEN", Path(__file__).parents[1] / "golden")) / "sam_i2v"
README = readme(FOLDER)
SIZE = stated(README, r"stated video size (\d+)x(\d+)", (270, 480))
CLICK = stated(README, r"one positive click \((\d+),(\d+)\) on frame (\d+)", (200, 100, 0))
STRIDES = (1, 1, *stated(README, r"`video` logits at video size strides 1,1,(\d+),(\d+)", (9, 10)))
FILL = stated(README, r"`misc.fill` \([\d,]+\) \+ ([\d.]+)", 0.9)
FRAMES = stated(README, r"`e2e\.frames` \((\d+),3,(\d+),(\d+)\)", (7, 1024, 1024))

_FIFTY = (
    "attention_biases", "positional_encoding_gaussian_matrix", ".gamma", "mask_tokens.weight", "iou_token.weight",
    "obj_score_token.weight", "query_embedding_fg.weight", "not_a_point_embed.weight", "no_mask_embed.weight",
    "no_memory_prompt_embeddings_fg.weight", *(f"point_embeddings.{i}.weight" for i in range(4)),
)  # fmt: skip
_TEN = ("rel_pos_h", "rel_pos_w", "maskmem_tpos_enc", "no_mem_embed", "no_obj_ptr", "no_obj_embed_spatial")


@cache
def start() -> str:
    """How the inputs' names begin: so that filling holes leaves the foreground as it was drawn."""
    recording = next((Recording(path) for path in recordings("misc*")), {})

    def fits(name: str) -> bool | None:
        if "fill.out" not in recording:
            return None
        filled = recording["fill.out"]
        moved = filled - noise(f"{name}misc.fill", filled.shape).float()
        return bool(moved[filled > 0.11].std() < 1e-4)  # holes are 0.1 now

    return prefix(README, fits)


def noise(key: str, shape: Sequence[int]) -> Tensor:
    """n(key, shape), float64."""
    seed = zlib.crc32(key.encode()) & 0xFFFFFFFF
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)))


def given(name: str, *shape: int) -> Tensor:
    """A recorded input."""
    return noise(start() + name, shape).float()


def weight(key: str, shape: Sequence[int], sharp: bool) -> Tensor:
    """A recorded weight."""
    value = noise(key, shape)
    if key.endswith("running_var"):
        value = 1 + 0.02 * value.abs()
    elif key.endswith(".weight") and len(shape) == 1:
        value = 1 + 0.02 * value
    else:
        value = 0.02 * value
    value = value.float()
    return value * np.float32(_factor(key, shape)).item() if sharp else value


def _factor(key: str, shape: Sequence[int]) -> float:
    if key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight")) and len(shape) == 2:
        return 6
    if key.endswith(("attn.qkv.weight", "attn.proj.weight")) and len(shape) == 2:
        return 3
    if key.endswith(".c.weight") and len(shape) == 4:
        gain = 0.5 if key.startswith("image_encoder.features.") else 2
        return 50 * math.sqrt(gain / math.prod(shape[1:]))
    return 50 if key.endswith(_FIFTY) else 10 if key.endswith(_TEN) else 1


def drawn(shapes: Mapping[str, Sequence[int]], sharp: bool) -> dict[str, Tensor]:
    """Recorded weights by official key, drawn once a session; plain and sharp ones are the same numbers, scaled."""
    plain = seeded("sam_i2v", shapes, lambda key, shape: weight(key, shape, False))
    return {k: v * np.float32(_factor(k, v.shape)).item() for k, v in plain.items()} if sharp else plain


def fill(module: nn.Module, names: Mapping[str, str], sharp: bool) -> None:
    """Give a module its recorded weights; `names` maps the keys of its state to official ones."""
    state = module.state_dict()
    floating = {key: value.shape for key, value in state.items() if value.is_floating_point()}
    values = drawn({names[key]: shape for key, shape in floating.items()}, sharp)
    module.load_state_dict({key: values[names[key]] if key in floating else value for key, value in state.items()})


class Recording(dict):
    """A recording's tensors by name, its `sharp` flag and metadata."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            super().__init__({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
            self.metadata = file.metadata() or {}
        self.path, self.sharp = path, path.stem.endswith("_sharp")
        self.name = path.stem.removesuffix("_sharp")

    def frames(self, start: str) -> int:
        """How many frames the pass of this name has recorded, those before its first among them."""
        return 1 + max(int(found[1]) for name in self if (found := re.match(rf"{start}\.f(\d+)\.low$", name)))

    def check(self, name: str, value: Tensor, strides: Sequence[int] = (), bound: float = 1e-3) -> None:
        """Compare a whole tensor with its recorded slice, and its statistics with the recorded ones."""
        expected = self[name]
        value = value.detach().float().cpu()
        got = value[tuple(slice(None, None, s) for s in strides)]
        assert got.shape == expected.shape, f"{self.path.stem}:{name} {tuple(got.shape)} {tuple(expected.shape)}"
        spread = expected.float().std().item() if expected.numel() > 1 else 0.0
        spread = spread if spread > 0 else max(expected.float().abs().max().item(), 1e-6)
        worst = (got - expected.float()).abs().max().item()
        assert worst <= bound * spread, f"{self.path.stem}:{name}: {worst:.3g} of std {spread:.3g}"
        if f"{name}.stats" in self:
            stats = torch.stack([value.mean(), value.std(), value.abs().max(), value.abs().mean()])
            drift = (stats - self[f"{name}.stats"]).abs().max().item()
            assert drift <= 3 * bound * max(spread, self[f"{name}.stats"][2].item()), f"{name}.stats {drift:.3g}"


def recordings(pattern: str) -> list[Path]:
    """All recordings of a kind."""
    return sorted(FOLDER.glob(pattern + ".safetensors"))


def ellipse(height: int, width: int, cy: float, cx: float, ry: float, rx: float) -> Tensor:
    """The README's E(H, W, cy, cx, ry, rx)."""
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def numbers(terms: str, **values: int) -> list[int]:
    """`40+6n-3t,14+3n` and the letters' values as numbers."""
    parts = [re.findall(r"([+-]?)(\d*)([a-z]?)", term.strip()) for term in terms.split(",")]
    return [sum(int(f"{sign}{n or 1}") * (values[x] if x else 1) for sign, n, x in part if n or x) for part in parts]


def shapes(pattern: str, default: str) -> list[str]:
    """The arguments of every E(...) in what the README says by the pattern, the default's where it says nothing."""
    return re.findall(r"E\((?:\.\., ?)?([^)]*)\)", stated(README, pattern, default))
