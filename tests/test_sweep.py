"""A sweep without SLURM: its lines, the command each task runs, and the table of what came out."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launch import SMALL, environment, python

from rvos_lightning.run.sweep import expand, main

TINY = ["-c", "configs/tiny.yaml", *SMALL, "--model.scheduler.warmup", "1", "--trainer.max_steps", "2"]
ONE_EPOCH = ["--data.train_clips", "2"]  # a validation at its end
SHOWN = ["--callbacks.scores", "callbacks.Scores"]


def script(root: Path, *words: object, **env: str) -> subprocess.CompletedProcess:
    """`bash slurm/array.sbatch WORDS`, this Python in it."""
    command = ["bash", "slurm/array.sbatch", *map(str, words)]
    surroundings = environment(RVOS_PYTHON=python(), PYTHONWARNINGS="ignore") | env
    return subprocess.run(command, cwd=root, env=surroundings, capture_output=True, text=True, timeout=120)


def test_product_has_every_combination_last_key_fastest(capsys):
    main(["expand", "model.optimizer.lr=[1e-3, 2e-3]", "data.size=[[32,64], 64]"])
    out, err = capsys.readouterr()
    first = "--model.optimizer.lr 1e-3 --data.size '[32,64]'"
    assert out.splitlines()[:2] == [first, "--model.optimizer.lr 1e-3 --data.size 64"] and len(out.splitlines()) == 4
    assert "4 tasks: sbatch --array=0-3 " in err


def test_product_comes_from_files_too(root):
    lines = expand([str(root / "slurm/sweeps/product.keys")])
    assert (root / "slurm/sweeps/product.txt").read_text().splitlines() == lines and len(lines) == 12


@pytest.mark.parametrize("entry", ["seed_everything=0", "seed_everything=[]", "seed_everything"])
def test_entry_without_a_list_is_refused(entry, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["expand", entry])
    assert stop.value.code == 2 and entry in capsys.readouterr().err


def test_dry_run_prints_the_command_of_the_line_that_the_index_picks(root, tmp_path):
    sweep = tmp_path / "sweep.txt"
    sweep.write_text("# comment\n--seed_everything 1\n\n--seed_everything 2 --data.path 'a b/*.mp4'\n")
    done = script(root, sweep, "-c", "configs/tiny.yaml", SLURM_ARRAY_TASK_ID="1")
    words = shlex.split(done.stdout)
    assert words[:2] == ["srun", "--kill-on-bad-exit=1"] and "--trainer.default_root_dir" in words
    assert words[2:10] == [python(), "-m", "rvos_lightning", "fit", "-c", "configs/tiny.yaml",
                           "--seed_everything", "2"] and words[10:12] == ["--data.path", "a b/*.mp4"]  # fmt: skip
    beyond = script(root, sweep, "-c", "configs/tiny.yaml", SLURM_ARRAY_TASK_ID="2")
    assert beyond.returncode == 2 and "has 2 lines" in beyond.stderr and "--array=0-1" in beyond.stderr


@pytest.fixture
def as_if_in_a_job(tmp_path) -> dict[str, str]:
    """SLURM's variables, `srun` that only starts its words, `scontrol` for which every job is running."""
    programs = {"srun": 'shift; exec "$@"', "scontrol": 'echo "JobId=77 JobState=RUNNING Reason=None"', "squeue": ""}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    return {"PATH": path, "SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "77", "RVOS_RUNS": str(tmp_path / "runs")}


def test_table_of_a_finished_a_failed_and_a_missing_task(root, tmp_path, as_if_in_a_job, capsys, monkeypatch):
    monkeypatch.setenv("PATH", as_if_in_a_job["PATH"])
    sweep, runs = tmp_path / "sweep.txt", tmp_path / "runs"
    sweep.write_text("--seed_everything 1\n--no.such.flag 2\n--seed_everything 3\n--seed_everything 4\n")
    for task in (0, 1, 2):
        script(root, sweep, *TINY, *ONE_EPOCH, *SHOWN, SLURM_ARRAY_TASK_ID=str(task), **as_if_in_a_job)
    main(["table", str(runs)])
    said = capsys.readouterr().out
    assert "4 tasks: 2 finished, 1 failed, 1 missing" in said, said
    assert f"RVOS_RUNS={runs} sbatch --array=1,3 slurm/array.sbatch {sweep} -c configs/tiny.yaml" in said
    with (runs / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished", "failed (2)", "finished", "missing"]
    assert [row["seed_everything"] for row in rows] == ["1", "", "3", ""]
    assert 0 <= float(rows[0]["val/j_and_f"]) <= 1 and rows[3]["val/j_and_f"] == ""
    assert (runs / "table.md").read_text().strip() in said and (runs / "table.png").stat().st_size > 1000


def test_a_sweep_on_this_machine_leaves_out_what_has_finished(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", python())
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    Path("lr.txt").write_text("# two\n--seed_everything 1\n--no.such.flag 2\n")
    words = [
        str(root / "configs/tiny.yaml") if word == "configs/tiny.yaml" else word for word in (*TINY, *ONE_EPOCH, *SHOWN)
    ]
    assert main(["run", "lr.txt", *words]) == 1
    said = capsys.readouterr().out
    assert "lr_0: finished" in said and "lr_1: failed (2)" in said
    assert main(["run", "lr.txt", *words]) == 1 and "lr_0" not in capsys.readouterr().out
    main(["table", "runs/sweep/lr"])
    assert "2 tasks: 1 finished, 1 failed" in capsys.readouterr().out
    Path("bad.txt").write_text("[rc=0 in 3 s]\n")
    with pytest.raises(SystemExit):
        main(["run", "bad.txt"])


def test_every_line_runs_with_every_seed_and_the_table_has_means(tmp_path, capsys, monkeypatch):
    """A stand-in for `fit` scores ten times the learning rate plus a hundredth of the seed."""

    where = "--trainer.default_root_dir"

    def fit(command, **_):
        if command[0] == "squeue":
            raise FileNotFoundError
        lr, seed, root = (command[command.index(flag) + 1] for flag in ("--lr", "--seed_everything", where))
        (Path(root) / "config.yaml").write_text(f"seed_everything: {seed}\ndata: {{seed: {seed}}}\nlr: {lr}\n")
        score = 10 * float(lr) + int(seed) / 100
        (Path(root) / "scores.json").write_text(json.dumps({"val": {"j_and_f": score}}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rvos_lightning.run.sweep.subprocess.run", fit)
    Path("lr.txt").write_text("--lr 0.01\n--lr 0.02\n")
    assert main(["run", "lr.txt", "--seeds", "0", "-c", "x.yaml"]) == 0
    assert "lr_0: finished" in capsys.readouterr().out
    assert main(["run", "lr.txt", "--seeds", "0", "2", "-c", "x.yaml"]) == 0
    said = capsys.readouterr().out
    assert "lr_0" not in said and "lr_2: finished" in said  # what has finished is left out
    main(["table", "runs/sweep/lr"])
    said = capsys.readouterr().out
    assert "| 0.01 | 0.1100 | 0.1000, 0.1200 | 0, 2 |" in said and "| 0.02 | 0.2100 | 0.2000, 0.2200 | 0, 2 |" in said
    for words in (["--seeds", "1", "-c", "x.yaml"], ["--seeds", "0", "2", "-c", "y.yaml"]):
        with pytest.raises(SystemExit):
            main(["run", "lr.txt", *words])
        assert "runs of other" in capsys.readouterr().err
