"""Scores masks on disk: `rvos score -c configs/data/mevis.yaml --predictions masks.zip`.

Reads the truth through the data module of a YAML file and the predictions from a folder or zip of PNG files in the
server's layout, made by whatever code, and prints the same numbers with the same rule as `validate`.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from rvos_lightning.core.types import ClipMeta, SegmentedWindow, Targets
from rvos_lightning.data.reader import Reader
from rvos_lightning.metrics.layouts import LAYOUTS, LayoutName, SubmissionError, expected_items
from rvos_lightning.metrics.rows import FrameRows
from rvos_lightning.metrics.submission import SavedMasks
from rvos_lightning.metrics.tables import write_table

Protocol = Literal[
    "JAndF", "MeViS", "RefYouTubeVOS", "RefDAVISA", "RefDAVISB", "ReVOS", "LongRVOS",
    "DAVISSemi", "DAVISUnsupervised", "SAV", "YouTubeVOS", "MOSEv2", "A2D", "RefCOCO", "GRefCOCO", "RefZOM",
]  # fmt: skip

USUAL: dict[str, Protocol] = {
    "mevis": "MeViS",
    "ref_youtube_vos": "RefYouTubeVOS",
    "ref_davis": "RefDAVISA",
    "revos": "ReVOS",
    "long_rvos": "LongRVOS",
    "davis": "DAVISSemi",
    "sav": "SAV",
    "youtube_vos": "YouTubeVOS",
    "mose": "DAVISSemi",
    "pumavos": "SAV",
    "lvvis": "SAV",
    "esd": "SAV",
    "a2d_sentences": "A2D",
    "jhmdb_sentences": "A2D",
    "refcoco": "RefCOCO",
    "refcoco+": "RefCOCO",
    "refcocog": "RefCOCO",
    "grefcoco": "GRefCOCO",
    "ref_zom": "RefZOM",
}
"""Data set -> protocol, unless `--protocol` says otherwise."""

WINDOW_PIXELS = 1 << 26


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    predictions: Path
    split: Literal["train", "val", "test", "predict"] = "val"
    protocol: Protocol | None = None
    layout: LayoutName | None = None
    missing: Literal["refuse", "empty"] = "refuse"
    table: Path | None = None


def metric_of(protocol: str) -> FrameRows:
    """The metric class of that name, built."""
    return getattr(import_module("rvos_lightning.metrics"), protocol)()


def score(reader: Reader, options: Options) -> FrameRows:
    """Feed every item of the split to the protocol's metric, video by video, in bounded memory.

    Only annotated frames need a prediction.

    Raises:
        SubmissionError: predictions are missing (unless read as empty) or misshapen, or truth is hidden.
    """
    metric = metric_of(options.protocol or USUAL.get(reader.name, "JAndF"))
    saved = SavedMasks(options.predictions, options.layout or _layout(reader.name))
    expected = list(expected_items(reader))
    by_video: dict[int, list[int]] = {}
    for index, video in enumerate(reader.item_videos().tolist()):
        by_video.setdefault(video, []).append(index)
    gaps: list[str] = []
    for items in by_video.values():
        for positions, targets in windows(reader, items):
            own = [_window(expected[index], positions, targets) for index in items]
            size = None if options.missing == "refuse" else own[0].original_size
            missing = saved.missing(own) if options.missing == "refuse" else []
            gaps += missing
            if not missing:
                metric.update(SegmentedWindow(torch.stack([saved.read(meta, size) for meta in own]), targets, own))
    saved.refuse(gaps)
    return metric


def windows(reader: Reader, items: Sequence[int]) -> Iterator[tuple[list[int], Targets]]:
    """Annotated frames of a video and their truth, in pieces that fit memory."""
    count = len(reader.videos[reader.items[items[0]].video].frames)
    step = max(1, WINDOW_PIXELS // (_read(reader, items[0], [0])[0].numel() * len(items)))
    for start in range(0, count, step):
        positions = list(range(start, min(start + step, count)))
        masks, annotated = (
            torch.stack(part) for part in zip(*(_read(reader, i, positions) for i in items), strict=True)
        )
        used = annotated.any(0)
        if used.any():
            kept = [position for position, use in zip(positions, used.tolist(), strict=True) if use]
            yield kept, Targets(masks[:, used], annotated[:, used], **_besides(reader, items, kept))


def _besides(reader: Reader, items: Sequence[int], positions: list[int]) -> dict[str, torch.Tensor]:
    """Void pixels and foreground, where the reader can read them (`read_void`, `read_foreground`)."""
    found = {}
    for name in ("void", "foreground"):
        read: Any = getattr(reader, f"read_{name}", None)
        if read is not None:
            found[name] = read(reader.items[items[0]].video, positions)[None].expand(len(items), -1, -1, -1)
    return found


def _read(reader: Reader, item: int, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    read = reader.read_masks(item, positions)
    if read is None:
        raise SubmissionError(
            f"{reader.name} {reader.split}: truth is hidden, only the server scores it; try --split val"
        )
    return read


def _window(meta: ClipMeta, positions: list[int], targets: Targets) -> ClipMeta:
    size = targets.masks.shape[-2], targets.masks.shape[-1]
    return replace(
        meta, frames=tuple(meta.frames[p] for p in positions), positions=tuple(positions), size=size, original_size=size
    )


def _layout(name: str) -> str:
    """Data sets without a server: id maps for objects, one folder a sentence otherwise."""
    if name in ("pumavos", "lvvis", "esd"):
        return "davis"
    return name if name in LAYOUTS else "mevis"


def report(metric: FrameRows) -> str:
    """Scores a line each, subsets after the whole, and the rule they were averaged by."""
    lines = [f"{name:28s} {float(value):.4f}" for name, value in metric.compute().items()]
    return "\n".join([*lines, f"({metric.rule})"])


def main(args: Sequence[str] | None = None) -> int:
    """Parse, score, print; returns the exit status (1: refused)."""
    options, data = parse(args)
    try:
        reader = data.read(options.split)
        if reader is None:
            raise SubmissionError(f"{type(data).__name__} has no {options.split} split; choose another with --split")
        metric = score(reader, options)
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(f"{reader.name} {reader.split}, {options.predictions}\n{report(metric)}")
    if options.table is not None:
        print(f"wrote {write_table(metric.table(), options.table)}")
    return 0


def parse(args: Sequence[str] | None) -> tuple[Options, Any]:
    """Options and the data module that the files and flags describe."""
    from jsonargparse import ArgumentParser, set_parsing_settings
    from lightning.pytorch import LightningDataModule

    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = ArgumentParser(prog="rvos score", description=__doc__, parser_mode="omegaconf+")
    parser.add_argument("-c", "--config", action="config", help="a file of configs/data/")
    parser.add_argument("--data", type=LightningDataModule, required=True, help="data module, flags as in `fit`")
    parser.add_class_arguments(Options)
    options = parser.instantiate(parser.parse_args(args))
    own = {name: options[name] for name in Options.__dataclass_fields__}
    return Options(**own), options.data
