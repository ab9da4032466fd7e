"""What an array job left behind: one row per task, one plot, and what must run again."""

import csv
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SEED = "seed_everything"
IGNORED = ("trainer.default_root_dir", "ckpt_path", "config")


@dataclass
class Task:
    """One array task.

    Attributes:
        number: its index in the sweep file.
        state: finished, running, waiting (requeued), failed (exit status), unfinished (killed) or missing.
        settings: flattened configuration.
        scores: `val/...` and `test/...`.
    """

    number: int
    state: str
    folder: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


def report(runs: Path, score: str) -> str:
    """Write table.csv, table.md and table.png into `runs`; return the table and what is left to do.

    Raises:
        ValueError: no runs in that folder.
    """
    tasks = gather(runs)
    if not tasks:
        raise ValueError(
            f"{runs}: no sweep.txt, no folder named ARRAY_TASK, no run in it; give an array job's folder, or runs/x/fit"
        )
    rows = table(tasks)
    with (runs / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    averaged = means(tasks, score)
    markdown = "\n\n".join(as_markdown(part) for part in (rows, averaged) if part)
    (runs / "table.md").write_text(markdown + "\n")
    plot(tasks, score, runs / "table.png")
    again = [task.number for task in tasks if task.state.split()[0] in ("failed", "unfinished", "missing")]
    return "\n".join([markdown, "", *what_to_do(runs, tasks, again)])


def gather(runs: Path) -> list[Task]:
    """All tasks the sweep file has lines for, and any others with a folder."""
    named = [folder for folder in sorted(runs.glob("*")) if re.fullmatch(r"(\w+_)?\d+", folder.name)]
    folders = {int(folder.name.rpartition("_")[2]): folder for folder in named if folder.is_dir()}
    lines = (runs / "sweep.txt").read_text().splitlines() if (runs / "sweep.txt").exists() else []
    count = sum(1 for line in lines if line.strip() and not line.lstrip().startswith("#"))
    queue = queued({folder.name.rsplit("_", 1)[0] for folder in folders.values()} | {runs.name})
    return [look(number, folders.get(number), queue) for number in sorted(folders.keys() | set(range(count)))]


def queued(jobs: set[str]) -> dict[int, str]:
    """Task -> SLURM's word for its state, for tasks still in the queue; nothing where there is no SLURM."""
    found = {}
    for job in jobs:
        words = ["squeue", "--noheader", "--array", "--jobs", job, "--format", "%K %T"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        found.update({int(k): state for k, state in (line.split() for line in done.stdout.splitlines()) if k.isdigit()})
    return found


def look(number: int, folder: Path | None, queue: Mapping[int, str]) -> Task:
    """One task's state, settings and scores."""
    if number in queue:
        state = "running" if queue[number] in ("RUNNING", "COMPLETING") else "waiting"
    elif folder is None:
        state = "missing"
    elif not (folder / "exit_code").exists():
        by_itself = (folder / "config.yaml").exists() and not (folder / ".lock").exists()  # not a task of a sweep
        state = "finished" if by_itself and folder.name.isdecimal() else "unfinished"
    else:
        code = (folder / "exit_code").read_text().strip()
        state = "finished" if code == "0" else f"failed ({code})"
    task = Task(number, state, folder)
    if folder is not None and (folder / "config.yaml").exists():
        config = yaml.safe_load((folder / "config.yaml").read_text())
        task.settings = {key: str(value) for key, value in flat(config) if not key.startswith(IGNORED)}
    if folder is not None and (folder / "scores.json").exists():
        stages = json.loads((folder / "scores.json").read_text())
        task.scores = {
            f"{stage}/{name}": value
            for stage, scores in stages.items()
            for name, value in scores.items()
            if isinstance(value, int | float)
        }
    return task


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys as on the command line, without YAML's init_args."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from flat(inner, prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key))


def varied(tasks: list[Task]) -> list[str]:
    """Settings that differ between tasks."""
    known = [task.settings for task in tasks if task.settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    return [key for key in keys if len({settings.get(key) for settings in known}) > 1]


def table(tasks: list[Task]) -> list[dict[str, Any]]:
    """Rows of task, state, settings that differ, scores."""
    settings = varied(tasks)
    scores = list(dict.fromkeys(name for task in tasks for name in task.scores))
    return [
        {"task": task.number, "state": task.state}
        | {key: task.settings.get(key, "") for key in settings}
        | {name: task.scores.get(name, "") for name in scores}
        for task in tasks
    ]


def means(tasks: list[Task], score: str) -> list[dict[str, Any]]:
    """Rows of settings that differ, the score's mean over seeds, and its values seed by seed; none for one seed."""
    scored = [task for task in tasks if score in task.scores]
    if len({task.settings.get(SEED) for task in scored}) < 2:
        return []
    keys = [key for key in varied(tasks) if key not in (SEED, "data.seed")]
    groups: dict[tuple[str, ...], list[Task]] = {}
    for task in scored:
        groups.setdefault(tuple(task.settings.get(key, "") for key in keys), []).append(task)
    rows = []
    for values, same in groups.items():
        found = [task.scores[score] for task in same]
        seeds = ", ".join(task.settings.get(SEED, "") for task in same)
        each = ", ".join(f"{value:.4f}" for value in found)
        rows.append(
            dict(zip(keys, values, strict=True)) | {score: sum(found) / len(found), "each": each, "seeds": seeds}
        )
    return rows


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; scores with four digits."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    for row in rows:
        cells = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(tasks: list[Task], score: str, path: Path) -> None:
    """The score over every setting that differs, one panel each."""
    from matplotlib.figure import Figure

    scored = [task for task in tasks if score in task.scores]
    keys = varied(tasks) or ["task"]
    figure = Figure(figsize=(3.5 * len(keys), 3), layout="constrained")
    for axis, key in zip(figure.subplots(1, len(keys), squeeze=False, sharey=True)[0], keys, strict=True):
        values = [task.settings.get(key, str(task.number)) for task in scored]
        order = sorted(set(values), key=_as_number)
        axis.plot([order.index(value) for value in values], [task.scores[score] for task in scored], "o")
        axis.set_xticks(range(len(order)), order, rotation=30, ha="right")
        axis.set_xlabel(key)
    figure.axes[0].set_ylabel(score)
    figure.savefig(path, dpi=120)


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def what_to_do(runs: Path, tasks: list[Task], again: list[int]) -> list[str]:
    """A count of states, and the line that runs again what did not finish."""
    words = [task.state.split()[0] for task in tasks]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    lines = [f"{len(tasks)} tasks: {counts}. Written: {runs / 'table.csv'}, table.md, table.png"]
    for task in tasks:
        if task.number in again and task.folder is not None:
            lines.append(f"  task {task.number} {task.state}: {task.folder / 'job.log'}")
    if again and (runs / "arguments.txt").exists():
        lines.append("give the same `rvos sweep run` again: these go on where each stopped")
    elif again:
        saved = next(
            (t.folder / "arguments.txt" for t in tasks if t.folder and (t.folder / "arguments.txt").exists()), None
        )
        arguments = saved.read_text().strip() if saved else "SWEEP.txt -c ..."
        indices = ",".join(map(str, again))
        lines.append("run again, going on where each stopped:")
        lines.append(f"  RVOS_RUNS={runs} sbatch --array={indices} slurm/array.sbatch {arguments}")
    return lines
