"""A real SLURM on this machine: own folder, own ports, daemons ended by their process ids.

Needs the Debian packages slurm-wlm and munge (`make test-slurm` installs them), no systemd, no cgroups, nothing
in /etc.
"""

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
SYSTEM = ("/usr/sbin", "/usr/local/sbin")

CONFIG = """
ClusterName=ci
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool_%n
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmdLogFile={folder}/slurmd_%n.log
SlurmctldPort={controller}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
JobRequeue=1
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={node} CPUs=4 State=UNKNOWN
PartitionName=patient Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=40
PartitionName=abrupt Nodes=ALL State=UP PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10
"""


def missing() -> list[str]:
    """Programs that are not installed."""
    path = os.pathsep.join([os.environ["PATH"], *SYSTEM])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: str, done: Callable[[], object], limit: float = 180, why: Callable[[], str] = str) -> None:
    """Poll until `done` is true.

    Raises:
        AssertionError: not within `limit` seconds.
    """
    end = time.monotonic() + limit
    while not done():
        assert time.monotonic() < end, f"waited {limit} s for {what}\n{why()}"
        time.sleep(0.3)


class Cluster:
    """One node of four pretended CPUs. Partitions: patient (40 s grace when preempted), abrupt (none), urgent.

    Args:
        folder: short path (a socket lies in it), empty.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons: list[subprocess.Popen] = []
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        self.env["PATH"] = os.pathsep.join([os.environ["PATH"], *SYSTEM])
        self.env["SLURM_CONF"] = str(folder / "slurm.conf")
        self.env["MASTER_ADDR"] = "127.0.0.1"  # the node's name does not resolve

    def start(self) -> None:
        """Start the daemons and wait for the node to be idle."""
        self.folder.chmod(0o755)  # munge insists
        for name in ("run", "state"):
            (self.folder / name).mkdir(mode=0o755, parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        ports = {"controller": free_port(), "node": free_port()}
        config = CONFIG.format(user=getpass.getuser(), folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(config)
        place = {"key-file": key, "socket": "run/munge.sock", "pid-file": "run/munged.pid"}
        place |= {"log-file": "munged.log", "seed-file": "munge.seed"}
        self._daemon("munged", "--foreground", *(f"--{k}={self.folder / v}" for k, v in place.items()))
        wait_for("munge", (self.folder / "run/munge.sock").exists, 30, self.logs)
        self._daemon("slurmctld", "-D", "-i", "-f", self.env["SLURM_CONF"])
        self._daemon("slurmd", "-D", "-N", "n0", "-f", self.env["SLURM_CONF"])
        wait_for("an idle node", lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), 90, self.logs)

    def _daemon(self, *words: str) -> None:
        log = (self.folder / f"{words[0]}.out").open("w")
        self.daemons.append(
            subprocess.Popen(words, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        )

    def stop(self) -> None:
        """Cancel what is left and end the daemons, last started first."""
        if len(self.daemons) == 3:
            self._empty()
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _empty(self) -> None:
        self.ask("scancel", "--user", getpass.getuser())
        end = time.monotonic() + 40
        while self.ask("squeue", "-h").strip() and time.monotonic() < end:
            time.sleep(0.5)

    def ask(self, *words: object, cwd: Path | None = None, **env: str) -> str:
        """What a SLURM command prints."""
        command = [str(word) for word in words]
        try:
            done = subprocess.run(command, env=self.env | env, cwd=cwd, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired as error:
            return str(error)
        return done.stdout + done.stderr

    def submit(self, *words: object, cwd: Path, **env: str) -> str:
        """`sbatch`; returns the job's id."""
        printed = self.ask("sbatch", "--parsable", *words, cwd=cwd, **env)
        assert re.fullmatch(r"\d+\s*", printed), printed
        return printed.strip()

    def job(self, number: str) -> dict[str, str]:
        """What SLURM knows of a job: JobState, Restarts, Reason, ..."""
        shown = self.ask("scontrol", "show", "job", "--oneliner", number)
        return dict(pair.split("=", 1) for pair in shown.split() if "=" in pair)

    def state(self, number: str) -> str:
        """The job's state; a requeued job that waits for its next start time is told not to."""
        job = self.job(number)
        if job.get("JobState") == "PENDING" and job.get("Reason") == "BeginTime":
            self.ask("scontrol", "update", f"jobid={number}", "starttime=now")
        return job.get("JobState", "gone")

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in files)
