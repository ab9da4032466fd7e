"""Shared fixtures: the command line in process, offline, in a temporary folder."""

import gc
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches the network
os.environ.setdefault("OMP_NUM_THREADS", "1")

logging.raiseExceptions = False  # Lightning's handlers keep the stream of the test that imported it

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run("fit", "-c", "configs/tiny.yaml", ...)` calls the command line in process, writing into tmp_path."""

    def call(*args: object, folder: Path | None = None):
        from rvos_lightning.run.cli import main

        words = [str(arg) for arg in args]
        target = folder or tmp_path / "run"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return main([*words, "--trainer.default_root_dir", str(target)])

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["rvos_lightning"])
    return call


@pytest.fixture(autouse=True)
def folder_of_one_test():
    """The processes of a launch agree on a run folder through the environment: the next test starts its own."""
    yield
    os.environ.pop("RVOS_RUN_DIR", None)


def pytest_configure(config) -> None:
    """One folder for all processes of the session (see `once.py`)."""
    if not hasattr(config, "workerinput"):
        os.environ["RVOS_TEST_SESSION"] = tempfile.mkdtemp(prefix="rvos_tests_")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What the imports leave is not looked through for garbage, now or between tests (a tenth of their time)."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_sessionfinish(session) -> None:
    """End the fork server, if a test of this process has started it, and remove the session's folder."""
    gc.unfreeze()
    if "launch" in sys.modules:
        sys.modules["launch"].SERVER.close()
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(os.environ.pop("RVOS_TEST_SESSION"), ignore_errors=True)


# Files that take longest, longest first: started last, one of them would keep a single process busy at the end.
LONG = (
    "parity/test_sa2va_masks", "parity/test_sam_i2v", "test_resume", "test_strategies", "parity/test_samwise",
    "parity/test_sam_encoders", "test_configs", "test_ddp", "test_readme", "test_sweep", "systems/",
    "data/test_sampler", "test_choosing",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """`--dist loadgroup`: tests of one network share a process (`xdist_group`), else those of one file."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT / "tests"))))
    items.sort(key=lambda item: rank(str(item.path.relative_to(ROOT / "tests"))))


def rank(file: str) -> int:
    """The place of a file in LONG; the others follow in the order they have."""
    return next((place for place, start in enumerate(LONG) if file.startswith(start)), len(LONG))
