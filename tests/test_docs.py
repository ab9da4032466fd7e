"""The pages: links lead somewhere, Python runs, the site builds without the network (commands: test_commands.py)."""

import re
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_exist(page):
    for link in LINK.findall(page.read_text()):
        assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_navigation_and_every_picture_on_a_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(name for entry in site["nav"] for name in entry.values()) == [page.name for page in PAGES]
    shown = {link for page in PAGES for link in LINK.findall(page.read_text())}
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert f"pictures/{picture.name}" in shown


def test_every_data_set_is_listed():
    text = "".join(page.read_text() for page in PAGES)
    assert [path.name for path in (ROOT / "configs/data").glob("*.yaml") if path.name not in text] == [
        name for name in ("clip_with_masks.yaml",) if name not in text
    ]


@pytest.mark.filterwarnings("ignore")
def test_python_of_the_pages_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    frames = [np.zeros((24, 32, 3), np.uint8)] * 2
    given = {"camera": iter(frames), "prediction": np.ones((2, 8, 8), bool), "truth": np.ones((2, 8, 8), bool)}
    blocks = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert len(blocks) > 1
    for block in blocks:
        code = block.replace("runs/samwise/fit/0", "configs/tiny.yaml").replace("x.mp4", "tests/data/horsejump/frames")
        exec(compile(code, "docs", "exec"), given)


def test_the_site_builds_alone(tmp_path):
    if find_spec("zensical") is None or find_spec("mkdocstrings") is None:
        warnings.warn("THE SITE IS NOT TESTED: no zensical; pip install '.[docs]'", stacklevel=1)
        pytest.skip("no zensical")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text().replace("paths: [.]", f"paths: [{ROOT}]"))
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        html = (tmp_path / "site" / f"{page.stem}.html").read_text()
        assert not re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="https?://[^"]+"', html), page.name
    assert "expressions" in (tmp_path / "site" / "reference.html").read_text()
