"""Trackio as the logger of a run: the same curves after a cut, its configuration, pictures, and no network."""

import json
import subprocess
import sys

import pytest
import yaml
from jsonargparse import Namespace
from launch import SMALL, environment, run

from rvos_lightning.run.loggers import with_csv
from rvos_lightning.run.trackio_logger import TrackioLogger

pytest.importorskip("trackio", reason="no trackio: pip install '.[trackio]'")
FIT = ["fit", "-c", "configs/tiny.yaml", *SMALL, "--trainer.max_steps", "8", "--trainer.log_every_n_steps", "1",
       "--trainer.val_check_interval", "6", "--callbacks.film", "callbacks.FilmStrip", "--ckpt_path", "last",
       "--trainer.logger", "TrackioLogger", "--trainer.logger.project", "shapes"]  # fmt: skip


def asked(place, *words):
    """What Trackio's own command line answers."""
    command = [sys.executable, "-m", "trackio.cli", *words, "--project", "shapes", "--json"]
    done = subprocess.run(command, env=environment(TRACKIO_DIR=str(place)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_that_was_cut_goes_on_in_the_same_curves(tmp_path):
    store = str(tmp_path / "trackio")
    where = ["--trainer.default_root_dir", tmp_path / "run"]
    cut = ["--callbacks.kill", "kill_at.KillAt", "--callbacks.kill.step", "3", "--callbacks.kill.by", "SIGTERM"]
    run(*FIT, *where, *cut, code=143, TRACKIO_DIR=store)
    run(*FIT, *where, TRACKIO_DIR=store)
    name = (tmp_path / "run/run_id").read_text()
    assert asked(store, "list", "runs")["runs"] == [name]
    assert not (tmp_path / "run/.lock").exists() and list((tmp_path / "run/csv").glob("*/metrics.csv"))

    logged = asked(store, "get", "metric", "--run", name, "--metric", "train/loss")["values"]
    assert [value["step"] for value in logged] == [0, 1, 2, 4, 5, 6, 7]  # the warned step saves and ends, unlogged
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["trainer"]["logger"][0]["init_args"]["id"] is None  # a new run of it is a new one there, too
    shown = asked(store, "get", "run", "--run", name)
    assert shown["config"]["model"] == saved["model"] and shown["config"]["_Created"]
    assert list((tmp_path / "trackio/media/shapes" / name).rglob("*.png"))


def test_the_run_folder_names_the_run_and_a_given_id_stays(tmp_path):
    def configured(given):
        arguments = Namespace(project="shapes", name=None, id=given)
        with_csv(Namespace(logger=Namespace(class_path="x.TrackioLogger", init_args=arguments)), str(tmp_path))
        return arguments.id

    assert configured(None) == configured(None) == (tmp_path / "run_id").read_text()
    assert configured("mine") == "mine"


def test_a_space_needs_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="me/curves is on the hub.*--hub"):
        TrackioLogger(space_id="me/curves")
