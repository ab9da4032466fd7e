"""`rvos parts`: what there is to choose from, one line each, without importing any of it."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module

from rvos_lightning.run import catalogue
from rvos_lightning.run.catalogue import KINDS, Part
from rvos_lightning.run.words import typed

WIDTH = 120


def main(words: Sequence[str]) -> int:
    """Print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="rvos parts", description=__doc__)
    parser.add_argument("what", nargs="*", help="kinds or class names; everything if left out")
    parser.add_argument(
        "--sizes", choices=("samwise", "sam_i2v", "clip_sam", "sgmg"), help="published counts beside ours"
    )
    options = parser.parse_args(list(words))
    if options.sizes:
        report = import_module(f"rvos_lightning.systems.{options.sizes}.report")
        print(report.table(report.rows()))
        return 0
    kinds = [*dict.fromkeys(KINDS.values()), "recipes", "overlays"]
    for asked in options.what or kinds:
        kind = next((kind for kind in kinds if asked in (kind, kind.split()[0], kind.rstrip("s"))), None)
        if kind is None and asked not in catalogue.parts():
            near = get_close_matches(asked, [*kinds, *catalogue.parts()], n=3, cutoff=0.4)
            print(
                f"error: no part or kind {asked!r}\n  nearest   {', '.join(near) or ', '.join(kinds)}", file=sys.stderr
            )
            return 2
        print(*(alone(asked) if kind is None else lines_of(kind)), sep="\n")
    return 0


def lines_of(kind: str) -> Iterator[str]:
    """A heading, then a line for each."""
    yield f"\n{kind}"
    if kind in ("recipes", "overlays"):
        yield from (clipped(f"  {path:43s} {summary}") for path, summary in catalogue.files()[kind].items())
        return
    found = [part for some in catalogue.parts().values() for part in some if part.kind == kind]
    for part in sorted(found, key=lambda part: part.name):
        variants = f" [{', '.join(part.variants)}]" if part.variants else ""
        yield clipped(f"  {part.name:26s} {part.summary}") + variants


def clipped(line: str) -> str:
    """One line of the terminal."""
    return line if len(line) <= WIDTH else line[: WIDTH - 4].rstrip() + " ..."


def alone(name: str) -> Iterator[str]:
    """A class in full."""
    for part in catalogue.parts()[name]:
        yield f"{part.module}.{part.name}   ({part.kind}: {shared_flag(part)})"
        yield f"  {part.summary}"
        yield from (f"    {argument}" for argument in part.arguments)
        if part.variants:
            yield f"  variants: {', '.join(part.variants)}"


def shared_flag(part: Part) -> str:
    """The flag that takes such a class."""
    flags = {
        "networks": "--model.network", "segmenters": "--model.network.segmenter", "adapters": "--model.network.adapter",
        "prompters": "--model.network.prompter", "memories": "--model.network.memory", "losses": "--objectives.NAME",
        "callbacks": "--callbacks.NAME", "data sets": "--data", "samplings": "--data.sampling",
        "augmentations": "--data.augment", "users": "--data.simulate_user", "metrics": "--model.metrics.NAME",
        "schedules": "--model.scheduler", "text encoders": "--model.network.adapter.text",
        "loggers": "--trainer.logger",
    }  # fmt: skip
    return f"{flags[part.kind or '']} {part.name}"


def help_of(flag: str, words: Sequence[str]) -> bool:
    """Print the options of the part that `--KEY.help [CLASS]` asks for, under the flags one would type.

    Returns:
        False where the class is not ours, so that the usual parser must answer.
    """
    key = flag.strip("-").removesuffix(".help").removesuffix(".init_args")
    after = words[words.index(flag) + 1 :]
    said = dict(typed(words))
    named = after[0] if after and not after[0].startswith("-") else said.get(f"{key}.class_path", said.get(key))
    if not isinstance(named, str):
        return False
    some = catalogue.parts().get(named.rpartition(".")[2], ())
    for part in some:
        print(f"--{key} {part.name}", f"  {part.summary}", *(f"  --{key}.{a}" for a in part.arguments), sep="\n")
        if part.variants:
            print(f"  variants: {', '.join(part.variants)}")
    return bool(some)
