"""The rule by which the Sa2VA recordings' weights and inputs are rebuilt from names, and what the README states."""

import json
import os
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from once import seeded
from stated import prefix, readme
from stated import stated as read_stated

FOLDER = Path(os.environ.get("RVOS_GOLDEN", Path(__file__).parents[1] / "golden")) / "sa2va"
README = readme(FOLDER)
stated = partial(read_stated, README)


def files(pattern):
    """All recordings of one kind."""
    return sorted(FOLDER.glob(pattern))


def load(path):
    """A recording's arrays."""
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def prompts():
    """All recorded prompt files."""
    return [json.loads(path.read_text()) for path in files("g_prompts*.json")]


def frames_shown(kind):
    """How many first frames the language model was shown in a Sa2VA run of this kind."""
    return stated(rf"\b{kind}=(\d+)", {"ka": 5, "kb": 2}.get(kind, 0))


def seed(name):
    return zlib.crc32(name.encode()) & 0xFFFFFFFF


def noise(name, shape):
    return np.random.RandomState(seed(name)).standard_normal(tuple(shape))


def given(name, shape):
    """A recorded run's input."""
    return torch.from_numpy(noise(start() + name, shape).astype(np.float32))


@cache
def start():
    """How the inputs' names begin: so that a recorded mask is where its drawn numbers, averaged, are positive."""
    data = next((load(path) for path in files("d_*.npz")), None)

    def fits(name):
        if data is None:
            return None
        count, _, _, height, width, _ = data["shape"].tolist()
        drawn = torch.from_numpy(noise(f"{name}mask_gt", (count, height, width)).astype(np.float32))
        full = torch.nn.functional.avg_pool2d(drawn, 9, 1, 4) > 0
        return (full.numpy() == unpack(data["gt_full_bits"], full.shape)).mean() > 0.99

    return prefix(README, fits)


def weight(key, shape, scale=0.02):
    """A recorded run's weight, by its official key."""
    n = noise(key, shape)
    base = 1 + 0.02 * n if key.endswith(".weight") and len(shape) == 1 else scale * n
    return torch.from_numpy(np.asarray(base, dtype=np.float32))


def weights(shapes, scale=lambda key: 0.02):
    """All weights of an official layout `key -> shape`."""
    scales = sorted({scale(key) for key in shapes})
    return seeded(f"sa2va {scales}", shapes, lambda key, shape: weight(key, shape, scale(key)))


def close(actual, expected, atol):
    """Equal within an absolute tolerance, in float64."""
    actual = (
        actual.detach().to(torch.float64) if isinstance(actual, torch.Tensor) else torch.as_tensor(np.asarray(actual))
    )
    expected = torch.as_tensor(np.asarray(expected, dtype=np.float64))
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    worst = (actual.double() - expected).abs().max().item() if expected.numel() else 0.0
    assert worst <= atol, f"largest difference {worst:.3g} > {atol:g}"


def unpack(bits, shape):
    """`*_bits` arrays as booleans."""
    return np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape).astype(bool)


def strided(maps):
    """32 x 32 samples of square maps."""
    step = maps.shape[-1] // 32
    return maps[..., step // 2 :: step, step // 2 :: step]


def crop(maps):
    """The centre 32 x 32."""
    middle = maps.shape[-1] // 2
    return maps[..., middle - 16 : middle + 16, middle - 16 : middle + 16]


def stats(maps):
    """Mean, deviation, extremes and positive fraction of each map, in float64."""
    flat = maps.double().flatten(1)
    columns = (flat.mean(1), flat.std(1, unbiased=False), flat.amin(1), flat.amax(1), (flat > 0).double().mean(1))
    return torch.stack(columns, 1)
