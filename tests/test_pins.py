"""uv.lock is what pyproject.toml asks for, constraints.txt what it says, and the versions there go together."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
EVERY = [Requirement(line) for line in LINES]  # those of Python 3.11 and newer, too, which 3.10 leaves open
PINS = {canonicalize_name(r.name): r for r in EVERY if r.marker is None or r.marker.evaluate()}


def version(pin):
    (one,) = pin.specifier
    return one.version


def wishes_of(name, extras=("",)):
    """The requirements of an installed distribution that hold here."""
    texts = distribution(name).requires or []
    found = [Requirement(text) for text in texts]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


@pytest.mark.parametrize("name", sorted(PINS))
def test_pins_are_what_others_want(name):
    try:
        wishes = wishes_of(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    wrong = [
        f"{name} wants {wish}, pinned is {PINS[canonicalize_name(wish.name)]}"
        for wish in wishes
        if canonicalize_name(wish.name) in PINS
        and not wish.specifier.contains(version(PINS[canonicalize_name(wish.name)]), prereleases=True)
    ]
    assert not wrong


def test_every_extra_of_ours_is_pinned():
    wishes = wishes_of("rvos_lightning", ("demo", "docs", "trackio", "dev", ""))
    names = {canonicalize_name(wish.name) for wish in wishes} - {"rvos-lightning"}
    assert len(names) > 30 and not names - {canonicalize_name(pin.name) for pin in EVERY}
    assert "gradio" in PINS and version(PINS["pillow"]).startswith("12.")  # gradio 6 refuses pillow 13


def uv(*words):
    """What uv prints; it reads no network and writes nothing."""
    if find_spec("uv") is None:
        pytest.skip("no uv: pip install '.[dev]'")
    command = [sys.executable, "-m", "uv", *words, "--offline", "--no-config", "--python", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_lock_is_of_this_project():
    uv("lock", "--check")


def test_the_constraints_are_the_lock_in_the_words_of_pip():
    recipe = (ROOT / "Makefile").read_text().partition("\nlock:")[2].partition("\n\n")[0]
    words = re.search(r"-m uv (export [^)]*)\)", recipe)[1].replace("\\", "").split()
    assert uv(*words).splitlines() == LINES


def test_the_lock_names_public_addresses_only():
    addresses = set(re.findall(r'"https?://[^/"]*/[^/"]*', (ROOT / "uv.lock").read_text()))
    assert addresses == {'"https://pypi.org/simple', '"https://files.pythonhosted.org/packages'}
    assert set(re.findall(r"source = \{ (\w+)", (ROOT / "uv.lock").read_text())) == {"registry", "editable"}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_supported_python_finds_each_pin_once(python):
    """A version that a Python does not have would end `make setup` there; two of one package would, too."""
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    names = [pin.name for pin in EVERY if pin.marker is None or pin.marker.evaluate(here)]
    assert len(names) == len(set(names)) and {"torch", "lightning", "gradio", "trackio"} <= set(names)
