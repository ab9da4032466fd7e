"""The card of a pushed system: what it is, how good, made of what, under which terms, how to use and repeat it."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from rvos_lightning.run.words import network_of

SHOWN = {"j_and_f": "J&F", "j": "J", "f": "F", "miou": "mIoU", "n_acc": "N-acc", "t_acc": "T-acc"}


def card(folder: Path, config: dict[str, Any], name: str, licence: str) -> str:
    """README.md with the hub's metadata on top.

    Args:
        folder: with `scores.json`, `start.json` and pictures, as far as there are any.
        config: as it lies in the folder.
        name: of the folder or on the hub.
        licence: of the weights.
    """
    start, scores = _json(folder / "start.json"), _json(folder / "scores.json")
    network = (network_of(folder / "config.yaml") or "").rsplit(".", 1)[-1]
    top = {
        "license": licence,
        "library_name": "rvos_lightning",
        "pipeline_tag": "mask-generation",
        "tags": ["video-object-segmentation", "referring-video-object-segmentation", network],
        "datasets": [],
        "model-index": [_result(name, scores)] if scores else None,
    }
    parts = [
        f"---\n{yaml.safe_dump({k: v for k, v in top.items() if v}, sort_keys=False)}---\n",
        f"# {name}\n\n{network}, trained with rvos_lightning on {start.get('data', config['data']['class_path'])}.\n",
        _scores(scores),
        _parts(start),
        _terms(start, licence),
        _use(name, "UserPrompter" in json.dumps(config)),
        _made(config, name),
        *(f"![{words}]({file})\n" for file, words in PICTURES.items() if (folder / file).exists()),
    ]
    return "\n".join(part for part in parts if part)


PICTURES = {"film.png": "Input, truth and prediction", "curves.png": "Losses and scores"}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _numbers(scores: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in scores.items() if isinstance(value, float) and "/" not in key}


def _result(name: str, scores: dict[str, Any]) -> dict[str, Any]:
    """In the hub's form, one entry a stage."""
    results = [
        {
            "task": {"type": "video-object-segmentation"},
            "dataset": {"name": said["data"], "type": said["data"], "split": stage},
            "metrics": [{"type": k, "name": SHOWN.get(k, k), "value": round(v, 4)} for k, v in _numbers(said).items()],
        }
        for stage, said in scores.items()
    ]
    return {"name": name, "results": results}


def _scores(scores: dict[str, Any]) -> str:
    if not scores:
        return "No scores were recorded.\n"
    lines = ["## Scores\n", "| data | split | step | score | value |", "|---|---|---|---|---|"]
    for stage, said in scores.items():
        for key, value in _numbers(said).items():
            lines.append(f"| {said['data']} | {stage} | {said['step']} | {SHOWN.get(key, key)} | {value:.3f} |")
    rules = dict.fromkeys(rule for said in scores.values() for rule in said["rule"])
    tables = "Every video and expression: `scores_*.csv`."
    return "\n".join([*lines, "", *(f"{rule}." for rule in rules), tables, ""])


def _parts(start: dict[str, Any]) -> str:
    if not start:
        return ""
    lines = ["## Parts\n", "| part | class | parameters | trained |", "|---|---|---|---|"]
    lines += [f"| {p['part']} | {p['class']} | {p['parameters']:,} | {p['trainable']:,} |" for p in start["parts"]]
    return "\n".join([*lines, ""])


def _terms(start: dict[str, Any], licence: str) -> str:
    stands_on = [f"* {text}" for text in start.get("licences", [])]
    return "\n".join(
        ["## Terms\n", f"Weights: {licence}. They stand on:\n", *(stands_on or ["* nothing of others"]), ""]
    )


def _use(name: str, clicks: bool) -> str:
    given = json.dumps([{"object": "horse", "frame": 0, "clicks": [[120, 80]]}])
    words = f"--data.prompts '{given}'" if clicks else "--data.expressions 'the brown horse'"
    said = f"prompts={given}" if clicks else 'expressions=["the brown horse"]'
    return f"""## Use

```bash
rvos pull {name} --hub
rvos predict --run {name} --data VideoFiles --data.path x.mp4 {words}
```

```python
model = rvos_lightning.load("{name}")
for window in model.segment("x.mp4", {said}):
    window.masks
```

The configuration names classes of rvos_lightning alone, the numbers are safetensors: loading runs no code from here.
"""


def _made(config: dict[str, Any], name: str) -> str:
    lines = [
        "## Made\n",
        f"* again: `rvos fit -c hub/{name}/config.yaml`, seed {config.get('seed_everything', 0)}",
        f"* rvos_lightning {version('rvos_lightning')}, commit {commit()}",
        f"* torch {version('torch')}, lightning {version('lightning')}, Python {platform.python_version()}",
        f"* pushed from {platform.system()} {platform.machine()}",
        "",
    ]
    return "\n".join(lines)


def commit() -> str:
    """The commit of this package's checkout, with a mark if it was changed; unknown outside one."""
    here = Path(__file__).parent
    try:
        asked = [["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"]]
        name, changes = (
            subprocess.run(words, cwd=here, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
            for words in asked
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{name} with changes" if changes else name
