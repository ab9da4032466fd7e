"""What the small recipes reach, measured, and written where it is claimed: docs/measured.json, headers, README.

    python tests/claims.py                                  all of them, about two hours on two cores
    python tests/claims.py configs/tiny.yaml --seeds 0 1
    python tests/claims.py configs/tiny.yaml --run runs/tiny/fit/0     a run of it that is there already

Runs lie in runs/claims/RECIPE/SEED; one that has ended is not run again. Remove it to measure anew.
"""

import argparse
import csv
import json
import math
import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rvos_lightning.data.whole import whole
from rvos_lightning.run.card import commit
from rvos_lightning.run.foundation import differences, recipe_hash
from rvos_lightning.run.words import read_yaml

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs" / "measured.json"
SHUFFLED = {"with the sentences of other videos": ["--data.shuffle_expressions", "true"]}
CONTROLS: dict[str, dict[str, list[str]]] = {  # by recipe: what is validated once more, and how
    "sam_i2v": {},
    "sam_i2v_per_frame": {},
    "sa2va": {"with Sa2VA's inference": ["--model.network.inference", "sa2va"], **SHUFFLED},
}
CELLS = {  # the README's last column, by the first one
    "tiny": "J&F {tiny[j_and_f]:.2f}",
    "SAMWISE": "J&F {samwise[j_and_f]:.2f}",
    "SAM-I2V": "J&F {sam_i2v[j_and_f]:.2f} from 3 clicks, {sam_i2v_referring[j_and_f]:.2f} from a sentence",
    "Sa2VA, Sa2VA-i": "J&F {sa2va[j_and_f]:.2f}",
    "SgMg": "J&F {sgmg[j_and_f]:.2f}",
    "SAM + CLIP (DFAM)": "stills: mIoU {clip_sam[m_iou]:.2f}, N-acc {clip_sam[n_acc]:.2f}, T-acc {clip_sam[t_acc]:.2f}",
}
NAMES = {"m_iou": "mIoU", "j_and_f": "J&F", "n_acc": "N-acc", "t_acc": "T-acc", "n_acc_mask": "N-acc by empty masks"}
KEPT = {*NAMES, "j", "f"}
HEADER = re.compile(r"^# Measured: .*\n(?:#  \S.*\n)*", re.MULTILINE)
Entry = dict[str, Any]


def main(words: Sequence[str] | None = None) -> None:
    """Measure the recipes named, or all; write the record, the headers and the README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, default=recipes())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--run", type=Path, help="take this run of the one recipe named")
    parser.add_argument("--commit", default=commit(), help="that --run was made with")
    options = parser.parse_args(words)
    if options.run and len(options.recipes) != 1:
        parser.error("--run is a run of one recipe: name that")
    for recipe in options.recipes:
        for seed in options.seeds:
            run = options.run or ROOT / "runs" / "claims" / recipe.stem / str(seed)
            if options.run is None and not ended(run):
                rvos("fit", "-c", recipe, "--seed_everything", seed, "--trainer.default_root_dir", run)
            record(recipe, run, options.commit)
    write_claims(measured())


def recipes() -> list[Path]:
    """Every small recipe."""
    return sorted((ROOT / "configs").glob("*.yaml"))


def measured() -> dict[str, Entry]:
    """The record, by recipe and seed."""
    return json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}


def ended(run: Path) -> bool:
    """Whether a run was validated after its last step."""
    scores = run / "scores.json"
    steps = read_yaml(run / "config.yaml")["trainer"]["max_steps"] if (run / "config.yaml").is_file() else None
    return scores.is_file() and json.loads(scores.read_text())["val"]["step"] == steps


def rvos(*words: object) -> None:
    """The command line, as a user types it.

    Raises:
        subprocess.CalledProcessError: it ended badly.
    """
    subprocess.run([sys.executable, "-m", "rvos_lightning", *map(str, words)], cwd=ROOT, check=True)


def record(recipe: Path, run: Path, made_with: str) -> None:
    """Put a run's scores, its course and its controls into the record.

    Raises:
        SystemExit: the run has not ended, or was made with other values than the recipe's.
    """
    made = read_yaml(run / "config.yaml")
    other = [name for name in differences(read_yaml(recipe), made) if name != "seed_everything"]
    if other or not ended(run):
        raise SystemExit(f"{run}: {f'{other[0]} is not that of {recipe}' if other else 'has not ended'}; remove it")
    entry: Entry = {
        "recipe_sha256": recipe_hash(recipe),
        "commit": made_with,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "steps": made["trainer"]["max_steps"],
        "minutes": round(((run / "scores.json").stat().st_mtime - (run / "config.yaml").stat().st_mtime) / 60, 1),
        "scores": scores(run),
        "course": course(run),
        "controls": {},
    }
    for name, flags in CONTROLS.get(recipe.stem, SHUFFLED).items():
        folder = run / "controls" / "-".join(name.split())
        if not (folder / "scores.json").is_file():
            rvos("validate", "--run", run, *flags, "--trainer.default_root_dir", folder)
        entry["controls"][name] = scores(folder)
    known = measured()
    known.setdefault(recipe.stem, {})[str(made.get("seed_everything", 0))] = entry
    with whole(MEASURED) as partial:
        partial.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def scores(run: Path) -> dict[str, float]:
    """What its newest validation gave, to four digits."""
    said = json.loads((run / "scores.json").read_text())["val"]
    numbers = {key: value for key, value in said.items() if isinstance(value, float) and math.isfinite(value)}
    return {key: round(value, 4) for key, value in numbers.items() if key.split("/")[0] in KEPT}


def course(run: Path) -> dict[str, float]:
    """The main score of every validation but the last, by step."""
    name = f"val/{main_score(scores(run))}"
    with sorted((run / "csv").glob("version_*/metrics.csv"))[-1].open() as file:
        rows = [(int(row["step"]) + 1, float(row[name])) for row in csv.DictReader(file) if row.get(name)]
    return {str(step): round(value, 4) for step, value in rows[:-1]}


def processor() -> str:
    """What the operating system calls it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def main_score(values: dict[str, float]) -> str:
    """The one that a header names first."""
    return next(name for name in NAMES if name in values)


def header(runs: Entry) -> str:
    """The lines that a recipe's header says of what was measured."""
    seed, entry = next(iter(runs.items()))
    values, name = entry["scores"], main_score(entry["scores"])
    first = f"{NAMES[name]} {values[name]:.2f}"
    kinds = [f"{key.split('/')[1]} {value:.2f}" for key, value in values.items() if key.startswith(f"{name}/")]
    on_the_way = [f"{value:.2f} at {step}" for step, value in entry["course"].items()]
    told = [first + (f" ({', '.join(kinds)})" if kinds else "")]
    told += [f"{title} {values[key]:.2f}" for key, title in NAMES.items() if key in values and key != name]
    told += [f"{control[name]:.2f} {what}" for what, control in entry["controls"].items()]
    told += [f"{run['scores'][name]:.2f} with seed {other}" for other, run in runs.items() if other != seed]
    told += [f"{', '.join(on_the_way)} of {entry['steps']} steps"] if on_the_way else []
    end = (
        f"{entry['minutes']:.0f} minutes, seed {seed}, {entry['machine']}, {entry['commit'][:12]} (docs/measured.json)."
    )
    return "\n".join(textwrap.wrap(f"# Measured: {'; '.join([*told, end])}", 127, subsequent_indent="#  ")) + "\n"


def write_claims(known: dict[str, Entry]) -> None:
    """Headers and README as the record says."""
    for name, runs in known.items():
        path = ROOT / "configs" / f"{name}.yaml"
        path.write_text(with_header(path.read_text(), header(runs)))
    readme = ROOT / "README.md"
    readme.write_text(with_cells(readme.read_text(), known))


def with_header(text: str, said: str) -> str:
    """A recipe with these lines about what was measured, in front of its first command."""
    text = HEADER.sub("", text)
    place = text.index("#   python -m rvos_lightning")
    return text[:place] + said + text[place:]


def with_cells(text: str, known: dict[str, Entry]) -> str:
    """The README with the table's last column as the record says, where it says anything."""
    first = {name: next(iter(runs.values()))["scores"] for name, runs in known.items()}
    for system, cell in CELLS.items():
        if set(re.findall(r"\{(\w+)\[", cell)) <= first.keys():
            row = re.search(rf"^\| {re.escape(system)} \|.*\| ([^|]*) \|$", text, re.MULTILINE)
            assert row is not None, f"README.md: no row {system}"
            text = text[: row.start(1)] + cell.format(**first) + text[row.end(1) :]
    return text


if __name__ == "__main__":
    main()
