"""`rvos cache`: the features of a system's frozen encoders, once for every picture of the data."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rvos_lightning.core.types import Batch, Clip
from rvos_lightning.parts.feature_cache import CacheError, FeatureWriter, verify_shards


def main(words: Sequence[str]) -> int:
    """Write what is missing; returns the exit status."""
    import argparse

    parser = argparse.ArgumentParser(prog="rvos cache", allow_abbrev=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--splits", default="train,val,test")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--verify", type=Path)
    options, rest = parser.parse_known_args(list(words))
    try:
        if options.verify is not None:
            return _verify(options.verify)
        if options.out is None:
            print("error: where? give --out FOLDER", file=sys.stderr)
            return 2
        return _fill(rest, options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _verify(folder: Path) -> int:
    broken = verify_shards(folder)
    print(
        *(f"{name}: changed on disk" for name in broken) if broken else ("every shard is as it was written",), sep="\n"
    )
    return int(bool(broken))


def _fill(words: Sequence[str], options: Any) -> int:
    from rvos_lightning.run.config import open_config

    cli = open_config(list(words))
    config = cli.config.clone()
    for key in ("callbacks", "objectives"):
        config.pop(key, None)
    made = cli.parser.instantiate_classes(config)
    network = made.model.network
    if not hasattr(network, "feature_writer"):
        raise CacheError(f"{type(network).__name__} has no frozen image encoders whose features could be kept")
    network.to(options.device).eval()
    writer = network.feature_writer(options.out, options.images)
    return _run(network, made.data, writer, options)


@torch.no_grad()
def _run(network: nn.Module, data: Any, writer: FeatureWriter, options: Any) -> int:
    started, seen, new = time.monotonic(), 0, 0
    for split in options.splits.split(","):
        for clip in clips(data, split.strip()):
            if network.lacks(writer, clip):
                clip = clip.to(options.device)
                new += network.keep(writer, clip)
            seen += len(clip.frames)
            if sys.stderr.isatty():
                rate = seen / max(time.monotonic() - started, 1e-9)
                print(f"\r{split}: {seen} pictures, {new} new, {rate:.1f}/s", end="", file=sys.stderr)
    writer.flush()
    size = sum(facts["bytes"] for facts in writer.manifest["shards"].values())
    print(f"{writer.folder}: {len(writer.index)} pictures ({new} new), {size / 2**20:.1f} MiB")
    for name, error in writer.manifest["worst_error"].items():
        print(f"  {name}: half precision is off by {error:.1e} of the greatest value at most")
    return 0


def clips(data: Any, split: str) -> Iterator[Clip]:
    """Every picture of a split once, as training and evaluation would show it.

    Raises:
        CacheError: pictures are augmented, so that no two showings are alike.
    """
    from dataclasses import replace

    if data.augment:
        raise CacheError("data.augment changes pictures at every showing: features cannot be kept; remove it")
    batches = data.evaluation_batches(split)
    if batches is None:
        return
    if split == "train":
        batches = replace(batches, framing=data.framing)
    for index in range(len(batches)):
        batch: Batch = batches[index]
        for start in range(0, batch.clip.time, 8):
            yield batch.clip.window(start, min(start + 8, batch.clip.time))
