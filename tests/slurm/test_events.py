"""Every event a cluster knows, on a real one: the run is resumed and ends with the weights of an unbroken one."""

import os
import sys
import time

import pytest
from cluster import wait_for

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "drills"))
from launch import DRILLS, ROOT, SMALL, checkpoint, differing, run

TINY = ["-c", "configs/tiny.yaml", *SMALL, "--model.scheduler.warmup", "2", "--trainer.max_steps", "16"]
DUAL = ["--trainer.strategy", "ddp"]
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The last checkpoint of an undisturbed run outside SLURM, once for each number of processes."""
    done: dict[int, dict] = {}

    def get(processes: int) -> dict:
        if processes not in done:
            folder = tmp_path_factory.mktemp("unbroken")
            many = [*DUAL, "--trainer.devices", "2"] if processes == 2 else []
            run("fit", *TINY, *many, "--trainer.default_root_dir", folder, limit=900)
            done[processes] = checkpoint(folder)
        return done[processes]

    return get


class Drill:
    """One submitted run.

    Args:
        cluster: where it runs.
        runs: its folder's parent.
        options: of sbatch.
        seconds: a training batch takes.
    """

    def __init__(self, cluster, runs, *options, seconds=0.7, processes=1, flags=()):
        self.cluster, self.processes = cluster, processes
        slow = ["--callbacks.slow", "slow.Slow", "--callbacks.slow.seconds", seconds, *flags]
        many = DUAL if processes == 2 else []
        self.id = cluster.submit(
            f"--ntasks-per-node={processes}", "--cpus-per-task=1", "--time=20", f"--output={runs}/%j.out", *options,
            "slurm/array.sbatch", *TINY, *many, *slow, cwd=ROOT, RVOS_RUNS=str(runs), RVOS_PYTHON=sys.executable,
            PYTHONPATH=str(DRILLS), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore",
        )  # fmt: skip
        self.folder = runs / self.id

    def log(self) -> str:
        path = self.folder / "job.log"
        return path.read_text() if path.exists() else ""

    def tell(self) -> str:
        return f"{self.cluster.job(self.id)}\n{self.log()[-3000:]}"

    def reaches(self, text: str, limit: float = 300):
        wait_for(f"{text!r} in the log", lambda: self.cluster.state(self.id) and text in self.log(), limit, self.tell)

    def ends(self, state: str, limit: float = 600):
        final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "gone")
        wait_for("the end", lambda: self.cluster.state(self.id) in final, limit, self.tell)
        assert self.cluster.state(self.id) == state, self.tell()

    def equals(self, expected: dict, restarts: int):
        self.ends("COMPLETED")
        found = checkpoint(self.folder)
        for key in COMPARED:
            assert differing(expected[key], found[key], key) == [], self.tell()
        assert int(self.cluster.job(self.id)["Restarts"]) >= restarts, self.tell()
        assert (self.folder / "exit_code").read_text().strip() == "0"


@pytest.mark.parametrize("processes", [1, 2])
def test_time_limit_signal(cluster, unbroken, tmp_path, processes):
    drill = Drill(cluster, tmp_path, processes=processes)
    drill.reaches("at step 4.")
    cluster.ask("scancel", "--signal=USR1", drill.id)
    drill.reaches("was RUNNING, requeued")
    drill.equals(unbroken(processes), restarts=1)


def test_time_limit_itself(cluster, unbroken, tmp_path):
    drill = Drill(cluster, tmp_path, "--time=2", "--signal=USR1@70", seconds=6)
    drill.reaches("was RUNNING, requeued")
    drill.equals(unbroken(1), restarts=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_preemption_with_grace(cluster, unbroken, tmp_path, processes):
    drill = Drill(cluster, tmp_path, "--partition=patient", processes=processes)
    drill.reaches("at step 4.")
    other = urgent(cluster, tmp_path)
    drill.reaches("was RUNNING, requeued")
    cluster.ask("scancel", other)
    drill.equals(unbroken(processes), restarts=1)


def test_preemption_without_grace(cluster, unbroken, tmp_path):
    drill = Drill(cluster, tmp_path, "--partition=abrupt")
    drill.reaches("at step 5.")
    other = urgent(cluster, tmp_path)
    wait_for("preemption", lambda: cluster.state(drill.id) != "RUNNING", 60, drill.tell)
    cluster.ask("scancel", other)
    drill.equals(unbroken(1), restarts=1)


def urgent(cluster, folder) -> str:
    return cluster.submit(
        "--partition=urgent", "--exclusive", f"--output={folder}/urgent.out", "--wrap=sleep 600", cwd=ROOT
    )


def test_requeue_by_hand(cluster, unbroken, tmp_path):
    drill = Drill(cluster, tmp_path)
    drill.reaches("at step 5.")
    cluster.ask("scontrol", "requeue", drill.id)
    drill.equals(unbroken(1), restarts=1)


def test_lost_node(cluster, unbroken, tmp_path):
    drill = Drill(cluster, tmp_path)
    drill.reaches("at step 5.")
    cluster.ask("scontrol", "update", "nodename=n0", "state=down", "reason=drill")
    wait_for("the job to leave the node", lambda: cluster.state(drill.id) != "RUNNING", 60, drill.tell)
    time.sleep(12)  # KillWait: nothing of it may be left when the node comes back
    cluster.ask("scontrol", "update", "nodename=n0", "state=resume")
    drill.equals(unbroken(1), restarts=1)


def test_cancelled_stays_cancelled(cluster, tmp_path):
    drill = Drill(cluster, tmp_path)
    drill.reaches("at step 4.")
    cluster.ask("scancel", drill.id)
    drill.ends("CANCELLED", 120)
    time.sleep(15)
    assert cluster.state(drill.id) == "CANCELLED" and cluster.job(drill.id)["Restarts"] == "0", drill.tell()


@pytest.mark.parametrize("number", ["USR1", "TERM"])
def test_signal_during_imports(cluster, unbroken, tmp_path, number):
    drill = Drill(cluster, tmp_path)
    drill.reaches("-m rvos_lightning")
    wait_for("the step", lambda: f"{drill.id}.0" in cluster.ask("squeue", "-s", "-h"), 60, drill.tell)
    time.sleep(1)
    cluster.ask("scancel", f"--signal={number}", drill.id)
    drill.reaches("start 2")
    assert drill.log().split("start 2")[0].count("at step") == 0, "the signal came too late for this drill"
    drill.equals(unbroken(1), restarts=1)


def test_signal_in_validation(cluster, unbroken, tmp_path):
    flags = ["--callbacks.slow.validation", 4]
    drill = Drill(cluster, tmp_path, seconds=0.1, flags=flags)
    drill.reaches("validating at step 12.")
    cluster.ask("scancel", "--signal=USR1", drill.id)
    drill.reaches("in validation, which will be repeated")
    drill.equals(unbroken(1), restarts=1)
    second = drill.log().split("start 2")[1]
    assert second.count("validating at step 12.") == 3, second[-2000:]  # all of it again


def test_two_array_tasks_at_once(cluster, tmp_path, monkeypatch):
    """Each goes back to its own checkpoint, and the table says what is there and what is missing."""
    from rvos_lightning.sweep_table import report

    sweep = tmp_path / "sweep.txt"
    sweep.write_text("# seeds\n--seed_everything 1\n\n--seed_everything 2\n--seed_everything 3\n")
    expected = []
    for seed in (1, 2):
        run("fit", *TINY, "--seed_everything", seed, "--trainer.default_root_dir", tmp_path / f"seed{seed}", limit=900)
        expected.append(checkpoint(tmp_path / f"seed{seed}"))
    runs = tmp_path / "runs"
    slow = ["--callbacks.slow", "slow.Slow", "--callbacks.slow.seconds", 0.7]
    job = cluster.submit(
        "--array=0-1", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=20", f"--output={tmp_path}/%A_%a.out",
        "slurm/array.sbatch", sweep, *TINY, *slow, cwd=ROOT, RVOS_RUNS=str(runs), RVOS_PYTHON=sys.executable,
        PYTHONPATH=str(DRILLS), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore",
    )  # fmt: skip
    logs = [runs / f"{job}_{task}" / "job.log" for task in (0, 1)]

    def everywhere(text: str) -> bool:
        for task in (0, 1):
            cluster.state(f"{job}_{task}")
        return all(log.exists() and text in log.read_text() for log in logs)

    wait_for("both tasks to train", lambda: everywhere("at step 4."), 400)
    for task in (0, 1):
        cluster.ask("scancel", "--signal=USR1", f"{job}_{task}")
    wait_for("both tasks to requeue", lambda: everywhere("was RUNNING, requeued"), 120)
    wait_for("both tasks to end", lambda: all((log.parent / "exit_code").exists() for log in logs), 600,
             lambda: everywhere("") or "\n".join(log.read_text()[-1500:] for log in logs))  # fmt: skip
    for log, unbroken in zip(logs, expected, strict=True):
        found = checkpoint(log.parent)
        assert [path for key in COMPARED for path in differing(unbroken[key], found[key], key)] == []
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.env[name])
    said = report(runs, "val/j_and_f")
    assert "2 finished, 1 missing" in said and "--array=2 " in said
