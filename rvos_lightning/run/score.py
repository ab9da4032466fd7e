"""Scores masks on disk: `rvos score -c configs/data/mevis.yaml --predictions masks.zip`.

Reads the truth through the data module of a YAML file and the predictions from a folder or zip of PNG files in the
server's layout, made by whatever code, and prints the same numbers with the same rule as `validate`.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader, Dataset

from rvos_lightning import metrics
from rvos_lightning.core.bounds import FromZero
from rvos_lightning.core.types import ClipMeta, SegmentedWindow, Targets
from rvos_lightning.data.clips.sampler import begin_worker
from rvos_lightning.data.reader import Reader, expected_items
from rvos_lightning.data.sources.frames import lazy_targets
from rvos_lightning.metrics.layouts import LayoutName, SubmissionError
from rvos_lightning.metrics.rows import FrameRows
from rvos_lightning.metrics.saved_masks import SavedMasks, Values
from rvos_lightning.metrics.tables import table_path, write_table
from rvos_lightning.run.terminal import tracked

WINDOW_PIXELS = 1 << 22  # of truth, and as many of predictions: 10 frames of 480p with one object


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        workers: processes that score videos beside this one; 0: this one does.
    """

    predictions: Path
    split: Literal["train", "val", "test", "predict"] = "val"
    protocol: str | None = None
    layout: LayoutName | None = None
    missing: Literal["refuse", "empty"] = "refuse"
    table: Path | None = None
    workers: FromZero = 0


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


@dataclass
class Counted:
    """What one video's masks came to.

    Attributes:
        metric: has counted them.
        missing: names of masks that are not there.
        asked: how many should be.
        values: what shared pictures hold.
    """

    metric: FrameRows
    missing: list[str] = field(default_factory=list)
    asked: int = 0
    values: Values = field(default_factory=Values)


class ScoredVideos(Dataset[Counted | ValueError]):
    """The videos of a split that have items, each scored when asked for, in whichever process asks.

    Faults are handed out, not raised: a loader would put pages of its own around them.

    Raises:
        SubmissionError: there is no such protocol, folder or zip.
    """

    def __init__(self, reader: Reader, options: Options) -> None:
        self.reader, self.options = reader, options
        self.metric()
        self.saved = SavedMasks(options.predictions, options.layout or reader.layout)
        self.expected = list(expected_items(reader))
        by_video: dict[int, list[int]] = {}
        for index, video in enumerate(reader.item_videos().tolist()):
            by_video.setdefault(video, []).append(index)
        self.videos = list(by_video.values())

    def metric(self) -> FrameRows:
        """A new metric of the protocol."""
        return metric_of(self.options.protocol) if self.options.protocol else self.reader.protocol()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, video: int) -> Counted | ValueError:
        try:
            return self._count(self.videos[video])
        except ValueError as error:
            return error

    def _count(self, items: list[int]) -> Counted:
        counted = Counted(self.metric())
        self.saved.values = counted.values
        for positions, targets in windows(self.reader, items):
            own = [_window(self.expected[index], positions, targets) for index in items]
            size = None if self.options.missing == "refuse" else own[0].original_size
            missing = self.saved.missing(own)
            counted.missing += missing
            counted.asked += len(own) * len(positions)
            if not missing or size is not None:
                counted.metric.update(SegmentedWindow(self.saved.read_all(own, size), targets, own))
        return counted


def score(reader: Reader, options: Options) -> FrameRows:
    """Score every item of the split by the protocol's metric, video by video, in bounded memory.

    Only annotated frames need a prediction.

    Raises:
        SubmissionError: predictions are missing (unless read as empty, and some are there), misshapen, or without any
            object's number, or truth is hidden.
    """
    videos = ScoredVideos(reader, options)
    workers = min(options.workers, len(videos))
    loader = DataLoader(videos, batch_size=None, num_workers=workers, worker_init_fn=begin_worker)
    whole = Counted(videos.metric())
    for counted in tracked(loader, f"{reader.name} {reader.split}", len(loader)):
        if isinstance(counted, ValueError):
            raise counted
        whole.metric.join(counted.metric)
        whole.values.join(counted.values)
        whole.missing += counted.missing
        whole.asked += counted.asked
    gaps = whole.missing
    if options.missing == "refuse" or len(gaps) == whole.asked:
        videos.saved.refuse(gaps)
    elif gaps:
        print(f"{len(gaps)} of {whole.asked} masks are missing and count as empty, first {gaps[0]}", file=sys.stderr)
    if remark := whole.values.remark(videos.saved.place, videos.saved.layout.note):
        print(remark, file=sys.stderr)
    return whole.metric


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
