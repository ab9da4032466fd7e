"""`rvos labels`: one's own videos from what annotation tools export, and back."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rvos_lightning.data.errors import DataError, in_words
from rvos_lightning.data.labels.own_folder import read_split, shares, write_split
from rvos_lightning.data.labels.sentences import with_categories, with_sentences
from rvos_lightning.data.labels.video import LabelledVideo, Losses

FORMATS = ("coco", "youtube_vis", "cvat", "label_studio", "labelme", "masks")
"""Modules of `rvos_lightning.data.labels` with a `read` and a `write`."""


def main(words: Sequence[str]) -> int:
    """Convert; returns the exit status."""
    options = parser().parse_args(list(words))
    losses = Losses()
    try:
        done = bring(options, losses) if options.way == "import" else take(options, losses)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in losses.lines():
        print(f"not kept: {line}")
    print(done)
    return 0


def parser() -> argparse.ArgumentParser:
    """What the verb takes."""
    raw = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser("rvos labels", description=__doc__, allow_abbrev=False, formatter_class=raw)
    ways = whole.add_subparsers(dest="way", required=True, metavar="{import,export}")
    for way, what in (("import", "from a tool"), ("export", "to a tool")):
        one = ways.add_parser(way, help=what, allow_abbrev=False)
        one.add_argument("format", choices=FORMATS)
        one.add_argument("source", type=Path, help="what the tool exported, or the folder of a split of ours")
        one.add_argument("--out", type=Path, required=True, help="where to write; nothing is overwritten")
        if way == "import":
            one.add_argument("--frames", type=Path, required=True, help="pictures or films that were annotated")
            one.add_argument("--split", default="train", help="name, or shares: train=8,val=1,test=1")
            one.add_argument("--sentences", type=Path, help="CSV file of sentences")
            one.add_argument("--say_categories", action="store_true", help="categories as sentences")
        whole.epilog = f"{whole.epilog or ''}\n{one.format_help()}"
    return whole


def bring(options: argparse.Namespace, losses: Losses) -> str:
    """From a tool: read everything, then write splits."""
    for path in (options.source, options.frames):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder.")
    what = f"{options.source}: holds something of another kind than {options.format} has"
    with in_words(what, "Export it again, or report this with the file."):
        videos = list(_module(options.format).read(options.source, options.frames, losses))
    if not videos:
        raise DataError(f"{options.source}: no video in it.")
    if options.sentences is not None:
        videos = list(with_sentences(videos, options.sentences))
    if options.say_categories:
        if not any(one.category for video in videos for one in video.objects.values()):
            losses.say(f"{options.format} says no object's category, so --say_categories made no sentence")
        videos = list(with_categories(videos))
    parts = shares(videos, options.split)
    for split, own in parts.items():
        write_split(options.out / split, own)
    if not any(video.sentences for video in videos):
        losses.say("no sentence was given: use `--data.items objects`, or --sentences, or --say_categories")
    return "\n".join([f"wrote {options.out / split}: {_counted(own)}" for split, own in parts.items()])


def take(options: argparse.Namespace, losses: Losses) -> str:
    """To a tool."""
    if options.out.exists():
        raise DataError(f"{options.out}: is there already, and nothing is overwritten. Give a new --out.")
    if not options.source.is_dir():
        raise DataError(f"{options.source}: no folder; give that of a split, e.g. my_videos/train.")
    videos = list(read_split(options.source))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _module(options.format).write(videos, options.out, losses)
    except BaseException:  # half of an export would be taken for all of it
        shutil.rmtree(options.out) if options.out.is_dir() else options.out.unlink(missing_ok=True)
        raise
    return f"wrote {options.out}: {_counted(videos)}"


def _module(name: str) -> object:
    return import_module(f"rvos_lightning.data.labels.{name}")


def _counted(videos: Sequence[LabelledVideo]) -> str:
    objects, said = sum(len(video.objects) for video in videos), sum(len(video.sentences) for video in videos)
    masks = sum(len(one.masks) for video in videos for one in video.objects.values())
    return f"{len(videos)} videos, {objects} objects, {masks} masks, {said} sentences"
