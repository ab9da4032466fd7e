"""Before and after a sweep.

    rvos sweep expand 'model.optimizer.lr=[1e-3,2e-3]' 'seed_everything=[0,1]' > sweep.txt
    rvos sweep table runs/slurm/1234

`expand` prints one line of flags per combination. `table` gathers what `slurm/array.sbatch` left in the folder of an
array job: settings that differ and scores, as table.csv, table.md and table.png, and says what must run again.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml


def expand(entries: Sequence[str]) -> list[str]:
    """Every combination of `key=[a, b, ...]` entries, the last key fastest, as lines of flags.

    Args:
        entries: such texts, or names of files with one on each line (# starts a comment).

    Raises:
        ValueError: an entry without a non-empty list.
    """
    axes = [axis for entry in _lines(entries) for axis in [_axis(entry)]]
    combinations = itertools.product(*([(key, value) for value in values] for key, values in axes))
    return [" ".join(f"--{key} {_quoted(value)}" for key, value in combination) for combination in combinations]


def _lines(entries: Sequence[str]) -> Iterator[str]:
    for entry in entries:
        lines = [entry] if "=" in entry else Path(entry).read_text().splitlines()
        yield from (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def _axis(entry: str) -> tuple[str, list[str]]:
    key, _, text = entry.partition("=")
    values = yaml.load(text, yaml.BaseLoader) if text.strip().startswith("[") else None  # 1e-3 stays as it is written
    if not values:
        raise ValueError(f"{entry!r}: write key=[value, value, ...]")
    return key.strip().lstrip("-"), values


def _quoted(value: Any) -> str:
    return shlex.quote(_plain(value))


def _plain(value: Any) -> str:
    return f"[{','.join(map(_plain, value))}]" if isinstance(value, list) else str(value)


def main(args: Sequence[str] | None = None) -> None:
    """Lines of a sweep, and the table after it."""
    parser = argparse.ArgumentParser(prog="rvos sweep", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    lines = commands.add_parser("expand", help="every combination of key=[a,b,...] as lines of flags")
    lines.add_argument("entries", nargs="+", help="key=[a,b,...], or a file with one such entry a line")
    table = commands.add_parser("table", help="scores of all tasks of an array job")
    table.add_argument("runs", type=Path, help="the array job's folder, e.g. runs/slurm/1234")
    table.add_argument("--score", default="val/j_and_f", help="the score that is plotted and sorted by")
    options = parser.parse_args(args)
    try:
        if options.command == "expand":
            found = expand(options.entries)
            print("\n".join(found))
            print(
                f"{len(found)} tasks: sbatch --array=0-{len(found) - 1} slurm/array.sbatch SWEEP.txt -c ...",
                file=sys.stderr,
            )
        else:
            from rvos_lightning.run.sweep_table import report

            print(report(options.runs, options.score))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
