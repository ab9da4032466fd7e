"""J and F on one core against an implementation of the official kind; prints both tables of the closing note.

The slow truth works as the public evaluators do: one mask pair a call, boundary maps of the whole frame, both
dilated with scikit-image's disk (as offsets), by `cv2.dilate` (what the DAVIS program calls) or, slower still, by a
boolean dilation offset by offset. Every timed pair is also compared: all integers must agree.

Run: python -m tests.benchmarks.bench_metrics [--golden DIR] [--pairs N]
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from rvos_lightning.metrics.region_boundary import COUNTS, boundary_radius, frame_counts

GOLDEN = Path(os.environ.get("RVOS_GOLDEN", Path(__file__).parents[1] / "golden")) / "metrics"
Dilate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def disk(radius: int) -> np.ndarray:
    """The offsets dx^2 + dy^2 <= r^2 as a 0/1 array."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def boundary_of(mask: np.ndarray) -> np.ndarray:
    """East, south and south-east comparison of the whole frame."""
    east, south, corner = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    east[:, :-1], south[:-1], corner[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ east) | (mask ^ south) | (mask ^ corner)
    edge[-1] = mask[-1] ^ east[-1]
    edge[:, -1] = mask[:, -1] ^ south[:, -1]
    edge[-1, -1] = False
    return edge


def dilate_cv2(mask: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """What the DAVIS program does."""
    return cv2.dilate(mask.astype(np.uint8), footprint).astype(bool)


def dilate_boolean(mask: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Boolean dilation, one footprint offset after another."""
    radius = footprint.shape[0] // 2
    padded = np.pad(mask, radius)
    grown = np.zeros_like(mask)
    for dy, dx in np.argwhere(footprint):
        grown |= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
    return grown


def slow_pair(target: np.ndarray, prediction: np.ndarray, dilate: Dilate) -> list[int]:
    """One pair the official way, as `COUNTS`."""
    target, prediction = target.astype(bool), prediction.astype(bool)
    kept = np.logical_not(np.zeros_like(target))  # the evaluators clear void pixels even where there are none
    inter, union = np.sum((target & prediction) & kept), np.sum((target | prediction) & kept)
    footprint = disk(boundary_radius(*target.shape))
    edge_t, edge_p = boundary_of(target * kept), boundary_of(prediction * kept)
    match_t, match_p = np.sum(edge_t & dilate(edge_p, footprint)), np.sum(edge_p & dilate(edge_t, footprint))
    values = (inter, union, edge_t.sum(), edge_p.sum(), match_t, match_p, target.sum(), prediction.sum())
    return [int(value) for value in values]


def golden_pairs(pairs: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Real mask pairs of the recordings' 480x854 sequences, enlarged by nearest neighbour where asked."""
    from PIL import Image

    sequences = json.loads((GOLDEN / "per_frame.json").read_text())["sequences"]
    targets, predictions = [], []
    for name, facts in sequences.items():
        if facts["width"] != 854:
            continue
        for frame in facts["frames"]:
            truth, guess = (np.array(Image.open(GOLDEN / "masks" / name / s / f"{frame}.png")) for s in ("gt", "pred"))
            for label in facts["objects"]:
                targets.append(_resize(truth == label, height))
                predictions.append(_resize(guess == label, height))
    keep = np.linspace(0, len(targets) - 1, pairs).astype(int)
    return np.stack([targets[i] for i in keep]), np.stack([predictions[i] for i in keep])


def _resize(mask: np.ndarray, height: int) -> np.ndarray:
    size = {480: (854, 480), 1080: (1920, 1080)}[height]
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)


def per_pair(run: Callable[[], object], pairs: int, repeats: int) -> float:
    """Milliseconds of processor time per pair (one thread; other load does not count), the best of some repeats."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best / pairs * 1e3


def main() -> None:
    """Print milliseconds per pair of J and F together, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=48)
    pairs = parser.parse_args().pairs
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(
        f"{'size':>10} {'boolean':>9} {'cv2':>9} {'ours':>9} {'x boolean':>10} {'x cv2':>8}   (ms per pair, one core)"
    )
    for height in (480, 1080):
        targets, predictions = golden_pairs(pairs, height)
        ours_t, ours_p = torch.from_numpy(targets), torch.from_numpy(predictions)
        few = max(1, pairs // 8)
        truth = [slow_pair(t, p, dilate_cv2) for t, p in zip(targets, predictions, strict=True)]
        assert frame_counts(ours_t, ours_p).tolist() == truth, f"integers differ among {COUNTS}"
        boolean = per_pair(lambda t=targets[::8], p=predictions[::8]: _slow(t, p, dilate_boolean), few, 1)
        official = per_pair(lambda t=targets, p=predictions: _slow(t, p, dilate_cv2), pairs, 3)
        ours = per_pair(lambda t=ours_t, p=ours_p: frame_counts(t, p), pairs, 7)
        size = f"{height}x{targets.shape[-1]}"
        print(f"{size:>10} {boolean:9.2f} {official:9.2f} {ours:9.3f} {boolean / ours:10.1f} {official / ours:8.1f}")


def _slow(targets: np.ndarray, predictions: np.ndarray, dilate: Dilate) -> None:
    for target, prediction in zip(targets, predictions, strict=True):
        slow_pair(target, prediction, dilate)


if __name__ == "__main__":
    main()
