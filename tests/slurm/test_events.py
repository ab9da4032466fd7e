"""Every event a cluster knows, on a real one: the run is resumed and ends with the weights of an unbroken one.

The drills run side by side, as each mostly waits; one whose event concerns a whole node has that node for itself.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cluster import OVER, Cluster, wait_for
from launch import DRILLS, ROOT, SMALL, checkpoint, differing, run

TINY = ["-c", "configs/tiny.yaml", *SMALL, "--model.scheduler.warmup", "2", "--trainer.max_steps", "16"]
DUAL = ["--trainer.strategy", "ddp"]
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "gone")
SURROUNDINGS = {
    "RVOS_PYTHON": sys.executable, "PYTHONPATH": str(DRILLS), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip
Unbroken = dict[str, Future]


def unbroken_run(folder: Path, *flags: object) -> dict:
    """The last checkpoint of an undisturbed run outside SLURM."""
    run("fit", *TINY, *flags, "--trainer.default_root_dir", folder, limit=900)
    return checkpoint(folder)


class Drill:
    """One submitted run.

    Args:
        cluster: where it runs.
        runs: its folder's parent.
        options: of sbatch.
        seconds: a training batch takes.
        processes: how many on a node.
        flags: of the run.
        surroundings: environment variables besides.
    """

    def __init__(
        self, cluster: Cluster, runs: Path, *options: str, seconds: float = 0.7, processes: int = 1, flags: tuple = (),
        **surroundings: str,
    ):  # fmt: skip
        self.cluster = cluster
        slow = ["--callbacks.slow", "slow.Slow", "--callbacks.slow.seconds", seconds, *flags]
        where = [] if any(option.startswith("--nodelist") for option in options) else ["--nodelist=n0"]
        self.id = cluster.submit(
            f"--ntasks-per-node={processes}", "--cpus-per-task=1", "--time=20", f"--output={runs}/%j.out", *where,
            *options, "slurm/array.sbatch", *TINY, *slow, cwd=ROOT, RVOS_RUNS=str(runs), **SURROUNDINGS,
            **surroundings,
        )  # fmt: skip
        self.folder = runs / self.id

    def log(self) -> str:
        path = self.folder / "job.log"
        return path.read_text() if path.exists() else ""

    def tell(self) -> str:
        return f"{self.cluster.job(self.id)}\n{self.log()[-3000:]}"

    def reaches(self, text: str, limit: float = 400) -> None:
        wait_for(f"{text!r}", lambda: text in self.log() or self.cluster.state(self.id) in FINAL, limit, self.tell)
        assert text in self.log(), self.tell()

    def ends(self, state: str, limit: float = 600) -> None:
        wait_for("the end", lambda: self.cluster.state(self.id) in FINAL, limit, self.tell)
        assert self.cluster.state(self.id) == state, self.tell()

    def equals(self, expected: dict) -> int:
        """Wait for the end, compare all bits; returns how often SLURM started the job again."""
        self.ends("COMPLETED")
        found = checkpoint(self.folder)
        for key in COMPARED:
            assert differing(expected[key], found[key], key) == [], self.tell()
        assert (self.folder / "exit_code").read_text().strip() == "0"
        restarts = int(self.cluster.job(self.id)["Restarts"])
        assert restarts >= 1, self.tell()
        return restarts


def time_limit_signal(cluster: Cluster, unbroken: Unbroken, runs: Path, processes: int = 1) -> int:
    drill = Drill(cluster, runs, processes=processes, flags=DUAL if processes == 2 else ())
    drill.reaches("at step 4.")
    cluster.ask("scancel", "--signal=USR1", drill.id)
    drill.reaches("was RUNNING, requeued")
    return drill.equals(unbroken[f"{processes} processes"].result())


def time_limit_in_a_container(cluster: Cluster, unbroken: Unbroken, runs: Path) -> int:
    """With a stand-in for the runtime, which becomes what it is asked to run, as a runtime does."""
    runtime = runs / "runtime"
    runtime.write_text('#!/bin/bash\n[[ "$1 $2 $3 $5" == "exec --nv --bind rvos.sif" ]] && shift 5 && exec "$@"\n')
    runtime.chmod(0o755)
    drill = Drill(cluster, runs, RVOS_CONTAINER="rvos.sif", RVOS_RUNTIME=str(runtime))
    drill.reaches("at step 4.")
    assert f"{runtime} exec --nv" in drill.log()
    cluster.ask("scancel", "--signal=USR1", drill.id)
    drill.reaches("was RUNNING, requeued")
    return drill.equals(unbroken["1 processes"].result())


def time_limit_on_two_nodes(cluster: Cluster, unbroken: Unbroken, runs: Path) -> int:
    drill = Drill(cluster, runs, "--nodes=2", "--nodelist=n0,n1", flags=DUAL)
    drill.reaches("at step 4.")
    cluster.ask("scancel", "--signal=USR1", drill.id)
    drill.reaches("was RUNNING, requeued")
    return drill.equals(unbroken["2 processes"].result())


def time_limit_itself(cluster: Cluster, unbroken: Unbroken, runs: Path) -> int:
    """SLURM looks every half minute: the warning comes 50 to 80 seconds after the start, in the middle of the run."""
    drill = Drill(cluster, runs, "--time=2", "--signal=USR1@40", seconds=6)
    drill.reaches("was RUNNING, requeued")
    return drill.equals(unbroken["1 processes"].result())


def preemption_with_grace(cluster: Cluster, unbroken: Unbroken, runs: Path, node: str, processes: int = 1) -> int:
    flags = DUAL if processes == 2 else ()
    drill = Drill(cluster, runs, "--partition=patient", f"--nodelist={node}", processes=processes, flags=flags)
    drill.reaches("at step 4.")
    other = urgent(cluster, runs, node)
    drill.reaches("was RUNNING, requeued")
    cluster.ask("scancel", other)
    return drill.equals(unbroken[f"{processes} processes"].result())


def preemption_without_grace(cluster: Cluster, unbroken: Unbroken, runs: Path, node: str) -> int:
    drill = Drill(cluster, runs, "--partition=abrupt", f"--nodelist={node}")
    drill.reaches("at step 5.")
    other = urgent(cluster, runs, node)
    wait_for("preemption", lambda: cluster.state(drill.id) != "RUNNING", 60, drill.tell)
    cluster.ask("scancel", other)
    return drill.equals(unbroken["1 processes"].result())


def urgent(cluster: Cluster, folder: Path, node: str) -> str:
    options = ("--partition=urgent", "--exclusive", f"--nodelist={node}", f"--output={folder}/urgent.out")
    return cluster.submit(*options, "--wrap=sleep 600", cwd=ROOT)


def requeue_by_hand(cluster: Cluster, unbroken: Unbroken, runs: Path) -> int:
    drill = Drill(cluster, runs)
    drill.reaches("at step 5.")
    cluster.ask("scontrol", "requeue", drill.id)
    return drill.equals(unbroken["1 processes"].result())


def lost_node(cluster: Cluster, unbroken: Unbroken, runs: Path, node: str) -> int:
    drill = Drill(cluster, runs, f"--nodelist={node}")
    drill.reaches("at step 5.")
    cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=drill")
    wait_for("the job to leave the node", lambda: cluster.state(drill.id) != "RUNNING", 60, drill.tell)
    time.sleep(12)  # KillWait: nothing of it may be left when the node comes back
    cluster.ask("scontrol", "update", f"nodename={node}", "state=resume")
    return drill.equals(unbroken["1 processes"].result())


def cancelled_stays_cancelled(cluster: Cluster, unbroken: Unbroken, runs: Path) -> int:
    drill = Drill(cluster, runs)
    drill.reaches("at step 4.")
    cluster.ask("scancel", drill.id)
    drill.ends("CANCELLED", 120)
    time.sleep(15)
    assert cluster.state(drill.id) == "CANCELLED" and cluster.job(drill.id)["Restarts"] == "0", drill.tell()
    return 0


def signal_during_imports(cluster: Cluster, unbroken: Unbroken, runs: Path, number: str) -> int:
    drill = Drill(cluster, runs)
    drill.reaches("-m rvos_lightning")
    wait_for("the step", lambda: f"{drill.id}.0" in cluster.ask("squeue", "-s", "-h"), 60, drill.tell)
    time.sleep(1)
    cluster.ask("scancel", f"--signal={number}", drill.id)
    drill.reaches("start 2")
    assert drill.log().split("start 2")[0].count("at step") == 0, "the signal came too late for this drill"
    return drill.equals(unbroken["1 processes"].result())


def signal_in_validation(cluster: Cluster, unbroken: Unbroken, runs: Path) -> int:
    drill = Drill(cluster, runs, seconds=0.1, flags=("--callbacks.slow.validation", 4))
    drill.reaches("validating at step 12.")
    cluster.ask("scancel", "--signal=USR1", drill.id)
    drill.reaches("in validation, which will be repeated")
    restarts = drill.equals(unbroken["1 processes"].result())
    second = drill.log().split("start 2")[1]
    assert second.count("validating at step 12.") == 3, second[-2000:]  # all of it again
    return restarts


def two_array_tasks_at_once(cluster: Cluster, unbroken: Unbroken, folder: Path) -> int:
    """Each goes back to its own checkpoint, and the table says what is there and what is missing."""
    sweep, runs = folder / "sweep.txt", folder / "runs"
    sweep.write_text("# seeds\n--seed_everything 0\n\n--seed_everything 1\n--seed_everything 2\n")
    slow = ["--callbacks.slow", "slow.Slow", "--callbacks.slow.seconds", 0.7]
    job = cluster.submit(
        "--array=0-1", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=20", f"--output={folder}/%A_%a.out",
        "--nodelist=n0", "slurm/array.sbatch", sweep, *TINY, *slow, cwd=ROOT, RVOS_RUNS=str(runs), **SURROUNDINGS,
    )  # fmt: skip
    logs = [runs / f"{job}_{task}" / "job.log" for task in (0, 1)]

    def everywhere(text: str) -> bool:
        return all(log.exists() and text in log.read_text() for log in logs)

    wait_for("both tasks to train", lambda: everywhere("at step 4."), 400)
    for task in (0, 1):
        cluster.ask("scancel", "--signal=USR1", f"{job}_{task}")
    wait_for("both tasks to requeue", lambda: everywhere("was RUNNING, requeued"), 120)
    wait_for("both tasks to end", lambda: all((log.parent / "exit_code").exists() for log in logs), 600,
             lambda: "\n".join(log.read_text()[-1500:] for log in logs))  # fmt: skip
    restarts = [int(cluster.job(f"{job}_{task}")["Restarts"]) for task in (0, 1)]
    assert restarts == [1, 1], "a task was requeued by the other"
    for log, expected in zip(logs, ("1 processes", "seed 1"), strict=True):
        found, whole = checkpoint(log.parent), unbroken[expected].result()
        assert [path for key in COMPARED for path in differing(whole[key], found[key], key)] == []
    table = [sys.executable, "-m", "rvos_lightning", "sweep", "table", str(runs)]
    said = subprocess.run(table, cwd=ROOT, env=cluster.env, capture_output=True, text=True, timeout=120).stdout
    assert "2 finished, 1 missing" in said and "--array=2 " in said, said
    return sum(restarts)


EVENTS: dict[str, Callable[[Cluster, Unbroken, Path], int]] = {  # the longest first
    "time-limit-itself": time_limit_itself,
    "lost-node": partial(lost_node, node="n5"),
    "preemption-with-grace-2-processes": partial(preemption_with_grace, node="n3", processes=2),
    "time-limit-signal-2-nodes": time_limit_on_two_nodes,
    "time-limit-signal-2-processes": partial(time_limit_signal, processes=2),
    "two-array-tasks-at-once": two_array_tasks_at_once,
    "preemption-with-grace": partial(preemption_with_grace, node="n2"),
    "preemption-without-grace": partial(preemption_without_grace, node="n4"),
    "cancelled-stays-cancelled": cancelled_stays_cancelled,
    "signal-in-validation": signal_in_validation,
    "time-limit-signal": time_limit_signal,
    "time-limit-signal-in-a-container": time_limit_in_a_container,
    "requeue-by-hand": requeue_by_hand,
    "USR1-during-imports": partial(signal_during_imports, number="USR1"),
    "TERM-during-imports": partial(signal_during_imports, number="TERM"),
}


@pytest.fixture(scope="module")
def running(cluster, request, tmp_path_factory):
    """Name -> future of every drill that is asked for."""
    wanted = [item.callspec.params["drill"] for item in request.session.items if item.originalname == "test_event"]
    with ThreadPoolExecutor(int(os.environ.get("RVOS_TEST_AT_ONCE", 4))) as pool:
        whole = {"1 processes": (), "2 processes": (*DUAL, "--trainer.devices", 2), "seed 1": ("--seed_everything", 1)}
        unbroken = {
            name: pool.submit(unbroken_run, tmp_path_factory.mktemp("unbroken"), *f) for name, f in whole.items()
        }
        yield {n: pool.submit(EVENTS[n], cluster, unbroken, tmp_path_factory.mktemp(n)) for n in wanted}
        OVER.set()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("drill", EVENTS)
def test_event(running, drill):
    restarts = running[drill].result()
    print(f"{drill}: {restarts} restarts, " + ("weights equal to the last bit" if restarts else "not resumed"))
