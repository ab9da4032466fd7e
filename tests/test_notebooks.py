"""The notebooks run from top to bottom, with few steps; in a process of their own, as they change its folder."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from launch import environment, python

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(path):
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_there_are_four_and_none_keeps_outputs():
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        content = json.loads(path.read_text())
        assert content["nbformat"] == 4
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content["cells"]), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    for name in ("configs", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    own = {"RVOS_CHECKOUT": str(tmp_path), "STEPS": "2", "PLACE": str(tmp_path / "made")}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(tmp_path / "made")])
    words = [python(), "-W", "ignore", "-c", code_of(path)]
    surroundings = {**environment(), **own}
    done = subprocess.run(words, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
