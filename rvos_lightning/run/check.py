"""The data doctor: `rvos check -c configs/data/mevis.yaml [--fast]`.

Opens every split that a data configuration uses, compares counts with the published ones, looks for missing and
unreadable files, masks that do not fit, repeated ids and empty expressions, and says what each gap blocks.
Exit status: 0 nothing is blocked, 1 something is (with --strict: anything at all was found) or no split was named,
2 wrong usage.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import cpu_count
from typing import Any, NamedTuple

from rvos_lightning.data.problems import Problem, Refused
from rvos_lightning.data.reader import DataError, Reader
from rvos_lightning.data.readers.examination import digest, examine, leaks, masks_counted
from rvos_lightning.run.terminal import console, tracked

ROLES = {"train": "train", "val": "validate", "test": "validate", "predict": "submit"}
"""What the trainer's splits are for, in the doctor's words."""

TASKS = tuple(dict.fromkeys(ROLES.values()))


class Finding(NamedTuple):
    """A problem of a split."""

    split: str
    problem: Problem


def main(args: Sequence[str] | None = None) -> int:
    """Examines and prints; returns the exit status."""
    options, data = parse(args)
    findings, facts = diagnose(data, options.fast)
    asked = tasks(data)
    show(findings, facts, options.rows, asked)
    return int(not asked or any(finding.problem.blocks or options.strict for finding in findings))


def parse(args: Sequence[str] | None) -> tuple[Any, Any]:
    """The options and the data module that the files and flags describe."""
    from rvos_lightning.run.data_config import open_data

    def add(parser: Any) -> None:
        parser.add_argument("--fast", action="store_true", help="names and headers only; decode nothing")
        parser.add_argument("--strict", action="store_true", help="fail on anything found, counts included")
        parser.add_argument("--rows", type=int, default=15, help="rows of the table a split")

    options = open_data(args or (), "check", add)
    return options, options.data


def diagnose(data: Any, fast: bool) -> tuple[list[Finding], list[str]]:
    """Everything found in the splits of a data module, and one line of facts a split."""
    findings: list[Finding] = []
    facts: list[str] = []
    for name, source in getattr(data, "sources", {}).items():  # a mixture
        found, lines = diagnose(source, fast)
        findings += [finding._replace(split=f"{name} {finding.split}") for finding in found]
        facts += lines
    if facts:
        return findings, facts
    readers: dict[str, Reader] = {}
    for split, roles in splits(data).items():
        blocks = tuple(dict.fromkeys(ROLES[role] for role in roles))
        try:
            reader = data.reader(roles[0])
        except DataError as error:
            refused = error.problems if isinstance(error, Refused) else (as_problem(error, blocks),)
            findings += [Finding(split, replace(problem, blocks=problem.blocks and blocks)) for problem in refused]
            facts.append(f"{split}: cannot be opened")
            continue
        except Exception as error:  # whatever a damaged file makes a library raise is a finding, not our end
            what = f"cannot be opened: {type(error).__name__}: {str(error)[:200]}"
            findings.append(Finding(split, Problem(type(data).__name__, what, "Report this with the file.", blocks)))
            facts.append(f"{split}: cannot be opened")
            continue
        if reader is None:
            continue
        readers[split] = reader
        facts.append(
            f"{reader.name} {split}: {len(reader.videos)} videos, {len(reader.items)} items"
            f"{masks_counted(reader)}{digest(reader, fast)}"
        )
        for problem in examined(reader, fast):
            findings.append(Finding(split, replace(problem, blocks=problem.blocks and blocks)))
    findings += [Finding(f"{one}, {other}", problem) for one, other, problem in leaks(readers)]
    return findings, facts


def splits(data: Any) -> dict[str, list[str]]:
    """The splits a data module names, each with the tasks it serves."""
    named = getattr(data, "splits", {role: role for role in ROLES})
    out: dict[str, list[str]] = {}
    for role, split in named.items():
        if split is not None:
            out.setdefault(split, []).append(role)
    return out


def tasks(data: Any) -> set[str]:
    """What the splits of a data module, or of any source of a mixture, are for."""
    sources = getattr(data, "sources", {}).values()
    return {ROLES[role] for one in sources or [data] for roles in splits(one).values() for role in roles}


def as_problem(error: DataError, blocks: tuple[str, ...]) -> Problem:
    """An error as a problem; its message already names place and remedy."""
    place, _, rest = str(error).partition(": ")
    return Problem(place, rest or str(error), "", blocks)


def examined(reader: Reader, fast: bool) -> Iterator[Problem]:
    """`examine` with a progress bar on the terminal."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        steps = examine(reader, fast, pool)
        total = len(reader.videos) + 1
        for problems in tracked(steps, f"{reader.name} {reader.split}", total):
            yield from problems


def show(findings: Sequence[Finding], facts: Sequence[str], rows: int, asked: Collection[str]) -> None:
    """The table, what was read, and what can be done with it; `asked`: tasks that have a split."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    for fact in facts:
        out.print(Text(fact))
    if findings:
        table = Table("split", "where", "what", "blocks", "remedy", show_lines=True)
        counts: dict[str, int] = {}
        for finding in sorted(findings, key=lambda finding: not finding.problem.blocks):
            counts[finding.split] = counts.get(finding.split, 0) + 1
            if counts[finding.split] <= rows:
                problem = finding.problem
                cells = (finding.split, problem.place, problem.what, ", ".join(problem.blocks) or "-", problem.remedy)
                table.add_row(*map(Text, cells))
        for split, count in counts.items():
            if count > rows:
                table.add_row(Text(split), f"... and {count - rows} more", "", "", "--rows shows more")
        out.print(table)
    blocked = {block for finding in findings for block in finding.problem.blocks}
    said = {task: "NO" if task in blocked else "yes" if task in asked else "no split" for task in TASKS}
    verdict = [f"{task}: {word}" for task, word in said.items()]
    out.print(Text("   ".join(verdict)))
