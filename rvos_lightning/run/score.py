"""Scores masks on disk: `rvos score -c configs/data/mevis.yaml --predictions masks.zip`.

Reads the truth through the data module of a YAML file and the predictions from a folder or zip of PNG files in the
server's layout, made by whatever code, and prints the same numbers with the same rule as `validate`.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from rvos_lightning import metrics
from rvos_lightning.core.types import ClipMeta, SegmentedWindow, Targets
from rvos_lightning.data.reader import Reader, expected_items
from rvos_lightning.data.sources.frames import lazy_targets
from rvos_lightning.metrics.layouts import LayoutName, SubmissionError
from rvos_lightning.metrics.rows import FrameRows
from rvos_lightning.metrics.submission import SavedMasks
from rvos_lightning.metrics.tables import table_path, write_table

WINDOW_PIXELS = 1 << 22  # of truth, and as many of predictions: 10 frames of 480p with one object


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    predictions: Path
    split: Literal["train", "val", "test", "predict"] = "val"
    protocol: str | None = None
    layout: LayoutName | None = None
    missing: Literal["refuse", "empty"] = "refuse"
    table: Path | None = None


def metric_of(protocol: str) -> FrameRows:
    """The metric class of that name, built.

    Raises:
        SubmissionError: there is none.
    """
    names = [name for name in dir(metrics) if name[0].isupper()]
    if protocol not in names:
        nearest = get_close_matches(protocol, names, 1, 0.3)
        raise SubmissionError(f"no protocol {protocol!r}; {f'nearest {nearest[0]}; ' if nearest else ''}all: {names}")
    return getattr(metrics, protocol)()


def score(reader: Reader, options: Options) -> FrameRows:
    """Feed every item of the split to the protocol's metric, video by video, in bounded memory.

    Only annotated frames need a prediction.

    Raises:
        SubmissionError: predictions are missing (unless read as empty, and some are there), misshapen, or without any
            object's number, or truth is hidden.
    """
    metric = metric_of(options.protocol) if options.protocol else reader.protocol()
    saved = SavedMasks(options.predictions, options.layout or reader.layout)
    expected = list(expected_items(reader))
    by_video: dict[int, list[int]] = {}
    for index, video in enumerate(reader.item_videos().tolist()):
        by_video.setdefault(video, []).append(index)
    gaps, asked = list[str](), 0
    for items in by_video.values():
        for positions, targets in windows(reader, items):
            own = [_window(expected[index], positions, targets) for index in items]
            size = None if options.missing == "refuse" else own[0].original_size
            missing = saved.missing(own)
            gaps += missing
            asked += len(own) * len(positions)
            if not missing or size is not None:
                metric.update(SegmentedWindow(saved.read_all(own, size), targets, own))
    if options.missing == "refuse" or len(gaps) == asked:
        saved.refuse(gaps)
    elif gaps:
        print(f"{len(gaps)} of {asked} masks are missing and count as empty, first {gaps[0]}", file=sys.stderr)
    if remark := saved.strangers():
        print(remark, file=sys.stderr)
    return metric


def windows(reader: Reader, items: Sequence[int]) -> Iterator[tuple[list[int], Targets]]:
    """Annotated frames of a video and their truth, in pieces that fit memory.

    Raises:
        SubmissionError: the truth of an item is hidden.
    """
    first = reader.read_masks(items[0], [0])
    if first is None or any(reader.items[item].objects is None for item in items):
        raise SubmissionError(
            f"{reader.name} {reader.split}: truth is hidden, only the server scores it; try --split val"
        )
    size = first[0].shape[-2], first[0].shape[-1]
    lazy = lazy_targets(reader, items, size)
    count, step = lazy.masks.shape[1], max(1, WINDOW_PIXELS // (first[0].numel() * len(items)))
    for start in range(0, count, step):
        targets = lazy.window(start, min(start + step, count))
        used = targets.annotated.any(0)
        if used.all():
            yield list(range(start, start + len(used))), targets
        elif used.any():
            kept = {name: None if value is None else value[:, used] for name, value in vars(targets).items()}
            yield (used.nonzero()[:, 0] + start).tolist(), Targets(**kept)


def _window(meta: ClipMeta, positions: list[int], targets: Targets) -> ClipMeta:
    size = targets.masks.shape[-2], targets.masks.shape[-1]
    return replace(
        meta, frames=tuple(meta.frames[p] for p in positions), positions=tuple(positions), size=size, original_size=size
    )


def report(metric: FrameRows) -> str:
    """Scores a line each, subsets after the whole, and the rule they were averaged by."""
    lines = [f"{name:28s} {float(value):.4f}" for name, value in metric.compute().items()]
    return "\n".join([*lines, f"({metric.said})"])


def main(args: Sequence[str] | None = None) -> int:
    """Parse, score, print; returns the exit status (1: refused)."""
    options, data = parse(args)
    try:
        if options.table is not None:
            if table_path(options.table).exists():
                raise SubmissionError(f"{options.table}: is there already, and nothing is overwritten; name another")
        reader = data.read(options.split)
        if reader is None:
            raise SubmissionError(f"{type(data).__name__} has no {options.split} split; choose another with --split")
        metric = score(reader, options)
        scores = report(metric)
        if metric.nothing:
            raise SubmissionError(f"{reader.name} {reader.split}: no frame is annotated, so there is nothing to score")
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(f"{reader.name} {reader.split}, {options.predictions}\n{scores}")
    if options.table is not None:
        print(f"wrote {write_table(metric.table(), options.table)}")
    return 0


def parse(args: Sequence[str] | None) -> tuple[Options, Any]:
    """Options and the data module that the files and flags describe."""
    from rvos_lightning.run.data_config import open_data

    options = open_data(args or (), "score", lambda parser: parser.add_class_arguments(Options))
    own = {name: options[name] for name in Options.__dataclass_fields__}
    return Options(**own), options.data
