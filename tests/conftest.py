"""Shared fixtures: the command line in process, offline, in a temporary folder."""

import logging
import os
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


def pytest_sessionfinish() -> None:
    """End the fork server, if a test has started it."""
    import sys

    if "launch" in sys.modules:
        sys.modules["launch"].SERVER.close()
