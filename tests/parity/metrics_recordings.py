"""The recordings' inputs: masks on disk and masks drawn by the rules of their README."""

import os
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from rvos_lightning.core.types import ClipMeta, SegmentedWindow, Targets

LOCAL = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("RVOS_GOLDEN", LOCAL)) / "metrics"


@cache
def id_maps(sequence, side, frames=None):
    """Label maps [time, height, width] of `masks/<sequence>/<side>`, all frames or the named ones."""
    from PIL import Image

    folder = FOLDER / "masks" / sequence / side
    names = sorted(path.stem for path in folder.glob("*.png")) if frames is None else frames
    return np.stack([np.array(Image.open(folder / f"{name}.png")) for name in names])


def shift(maps, dy, dx):
    """out[y + dy, x + dx] = maps[y, x], zeros elsewhere."""
    out = np.zeros_like(maps)
    h, w = maps.shape[-2:]
    if abs(dy) < h and abs(dx) < w:
        source = maps[..., max(-dy, 0) : h - max(dy, 0), max(-dx, 0) : w - max(dx, 0)]
        out[..., max(dy, 0) : h - max(-dy, 0), max(dx, 0) : w - max(-dx, 0)] = source
    return out


def pert(truth):
    """The rule `pert` of a whole sequence."""
    moved = [shift(m, (5 * t) % 23 - 11, (7 * t) % 29 - 14) for t, m in enumerate(truth)]
    return np.stack(moved)


def planes(maps, labels):
    """One boolean plane a label [labels, time, height, width]."""
    return torch.from_numpy(np.stack([maps == label for label in labels]))


def seed(key):
    return zlib.crc32(key.encode()) & 0xFFFFFFFF


def draw(operations, h, w):
    """A mask from the operations of the README."""
    mask = np.zeros((h, w), bool)
    for name, *a in operations:
        if name in ("all", "none"):
            mask[:] = name == "all"
        elif name == "rect":
            mask[a[0] : a[1], a[2] : a[3]] = True
        elif name == "xorrect":
            mask[a[0] : a[1], a[2] : a[3]] ^= True
        elif name == "pix":
            mask[a[0], a[1]] = True
        elif name == "disc":
            y, x = np.mgrid[:h, :w]
            mask |= (y - a[0]) ** 2 + (x - a[1]) ** 2 <= a[2] ** 2
        elif name == "inv":
            mask = ~mask
        elif name == "noise":
            mask |= np.random.RandomState(seed(a[0])).rand(h, w) < a[1]
        elif name in ("blob", "XBLOB"):
            cells = np.random.RandomState(seed(a[0])).rand(-(-h // a[2]), -(-w // a[2])) < a[1]
            blob = cells.repeat(a[2], 0).repeat(a[2], 1)[:h, :w]
            mask = mask ^ blob if name == "XBLOB" else mask | blob
        else:
            raise AssertionError(f"the README has no operation {name}")
    return mask


def meta_of(video, item, frames, size, **more):
    """Facts of an item; `frames` counts frames or gives their positions."""
    positions = tuple(range(frames)) if isinstance(frames, int) else tuple(frames)
    return ClipMeta(video, str(item), tuple(map(str, positions)), size, size, positions, "golden", **more)


def feed(metric, truth, predicted, meta, windows=1, **more):
    """Update a metric with planes [items, time, height, width], window by window."""
    time = truth.shape[1]
    for part in torch.arange(time).chunk(windows):
        cut = slice(int(part[0]), int(part[-1]) + 1)
        own = {key: value[:, cut] for key, value in more.items()}
        targets = Targets(truth[:, cut], torch.ones(truth[:, cut].shape[:2], dtype=torch.bool), **own)
        metas = [replace(m, frames=m.frames[cut], positions=m.positions[cut]) for m in meta]
        metric.update(SegmentedWindow(predicted[:, cut], targets, metas))
