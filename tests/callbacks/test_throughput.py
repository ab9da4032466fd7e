"""Speed is in the log by default, also where epochs are shorter than the interval between log lines."""

import csv

import pytest
from launch import SMALL


@pytest.mark.parametrize(("accumulate", "logged"), [(1, [3, 7]), (2, [3])])
def test_speed_is_logged_every_n_steps(run, tmp_path, accumulate, logged):
    flags = ["--trainer.log_every_n_steps", "4", "--trainer.accumulate_grad_batches", accumulate]
    steps = ["--data.train_clips", "6", "--trainer.max_steps", logged[-1] + 2, "--trainer.limit_val_batches", "0"]
    run("fit", "-c", "configs/tiny.yaml", *SMALL, *steps, *flags)
    with (tmp_path / "run/csv/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["speed/clips_per_second"]]
    assert [int(row["step"]) for row in rows] == logged
    assert all(float(row["speed/clips_per_second"]) > 0 and 0 <= float(row["speed/data_wait"]) <= 1 for row in rows)
