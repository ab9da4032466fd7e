"""Before, during and after a sweep.

    rvos sweep expand 'model.optimizer.lr=[1e-3,2e-3]' 'seed_everything=[0,1]' > sweep.txt
    rvos sweep run sweep.txt -c configs/tiny.yaml
    rvos sweep table runs/slurm/1234

`expand` prints one line of flags per combination, `run` runs them on this machine. `table` gathers what that or
`slurm/array.sbatch` left in a folder: settings that differ and scores, the mean over seeds, as table.csv, table.md and
table.png, and says what must run again.
"""

import argparse
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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


def run_here(sweep: Path, words: Sequence[str], at_once: int, gpus: Sequence[str], seeds: Sequence[int] = ()) -> int:
    """Fit every line of a sweep file on this machine, each in `runs/sweep/<file>/<file>_<line>`; again goes on.

    Args:
        sweep: the file.
        words: what all runs share, e.g. `-c configs/tiny.yaml`.
        at_once: runs at the same time.
        gpus: dealt to the runs in turn.
        seeds: all lines with the first, then all with the next; none: the lines as they are.

    Returns:
        Exit status: 1 if a run failed.

    Raises:
        ValueError: a line that holds no flags, or a folder with runs of other lines or words.
    """
    lines = [line for line in sweep.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if wrong := next((line for line in lines if not line.lstrip().startswith("--")), None):
        raise ValueError(f"{sweep}: {wrong!r} is no line of flags: it should begin with --")
    lines = [f"{line} --seed_everything {seed}" for seed in seeds for line in lines] or lines
    root = Path("runs/sweep") / sweep.stem
    root.mkdir(parents=True, exist_ok=True)
    _go_on(root, lines, words)

    def one(number: int) -> int:
        folder = root / f"{sweep.stem}_{number}"
        done = folder / "exit_code"
        if done.exists() and done.read_text().strip() == "0":
            return 0
        folder.mkdir(exist_ok=True)
        where = ["--trainer.default_root_dir", str(folder), "--ckpt_path", "last"]
        command = [sys.executable, "-m", "rvos_lightning", "fit", *words, *shlex.split(lines[number]), *where]
        seen = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        with (folder / "job.log").open("a") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | seen).returncode
        done.write_text(f"{code}\n")
        print(f"{folder}: {'finished' if code == 0 else f'failed ({code}), see {folder}/job.log'}", flush=True)
        return code

    with ThreadPoolExecutor(max(1, at_once)) as pool:
        codes = list(pool.map(one, range(len(lines))))
    print(f"rvos sweep table {root}")
    return int(any(codes))


def _go_on(root: Path, lines: Sequence[str], words: Sequence[str]) -> None:
    """Note what a folder's runs are; refuse one with others, which would be taken for these."""
    listed, shared = root / "sweep.txt", root / "arguments.txt"
    known = listed.read_text().splitlines() if listed.exists() else []
    said = shlex.join(words) + "\n"
    other = any(old != new for old, new in zip(known, lines, strict=False))
    if other or (shared.exists() and shared.read_text() != said):
        raise ValueError(f"{root} holds runs of other {'lines' if other else 'flags'}: remove or rename it")
    listed.write_text("\n".join(max(known, list(lines), key=len)) + "\n")
    shared.write_text(said)


def main(args: Sequence[str] | None = None) -> int:
    """Lines of a sweep, and the table after it."""
    parser = argparse.ArgumentParser(prog="rvos sweep", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    lines = commands.add_parser("expand", help="every combination of key=[a,b,...] as lines of flags")
    lines.add_argument("entries", nargs="+", help="key=[a,b,...], or a file with one such entry a line")
    here = commands.add_parser("run", help="all lines on this machine; what has finished is left out")
    here.add_argument("sweep", type=Path, help="a file with a line of flags per run, as `expand` prints")
    here.add_argument("--at-once", type=int, default=1, help="runs at the same time")
    here.add_argument("--seeds", type=int, nargs="+", default=[], help="every line with each of these seeds")
    here.add_argument("--gpus", default="", help="GPUs to deal the runs to, e.g. 0,1; all see all if left out")
    table = commands.add_parser("table", help="scores of all runs of a folder")
    table.add_argument("runs", type=Path, help="of an array job or of runs, e.g. runs/slurm/1234 or runs/samwise/fit")
    table.add_argument("--score", default="val/j_and_f", help="the score that is plotted and sorted by")
    options, rest = parser.parse_known_args(args)
    if rest and options.command != "run":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.command == "run":
            gpus = [gpu for gpu in options.gpus.split(",") if gpu]
            return run_here(options.sweep, rest, options.at_once, gpus, options.seeds)
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
    return 0
