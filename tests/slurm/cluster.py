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
import threading
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
ReturnToService=0
JobRequeue=1
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=patient Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=40
PartitionName=abrupt Nodes=ALL State=UP PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10
"""


NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=16 State=UNKNOWN"


def missing() -> list[str]:
    """Programs that are not installed."""
    path = os.pathsep.join([os.environ["PATH"], *SYSTEM])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


OVER = threading.Event()  # set when the tests end early: nothing is waited for any more


def wait_for(what: str, done: Callable[[], object], limit: float = 180, why: Callable[[], str] = str) -> None:
    """Poll until `done` is true.

    Raises:
        AssertionError: not within `limit` seconds, or the tests are over.
    """
    end = time.monotonic() + limit
    while not done():
        assert not OVER.is_set(), f"given up while waiting for {what}"
        assert time.monotonic() < end, f"waited {limit} s for {what}\n{why()}"
        time.sleep(0.5)


class Cluster:
    """Nodes n0, n1, ... of pretended CPUs. Partitions: patient (40 s grace when preempted), abrupt (none), urgent.

    Args:
        folder: short path (a socket lies in it), empty.
        nodes: how many; an event on one leaves jobs on others alone.
    """

    def __init__(self, folder: Path, nodes: int):
        self.folder, self.nodes = folder, [f"n{i}" for i in range(nodes)]
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
        controller, *ports = free_ports(1 + len(self.nodes))
        nodes = "\n".join(NODE.format(name=n, port=port) for n, port in zip(self.nodes, ports, strict=True))
        config = CONFIG.format(user=getpass.getuser(), folder=self.folder, controller=controller, nodes=nodes)
        (self.folder / "slurm.conf").write_text(config)
        place = {"key-file": key, "socket": "run/munge.sock", "pid-file": "run/munged.pid"}
        place |= {"log-file": "munged.log", "seed-file": "munge.seed"}
        self._daemon("munged", "--foreground", *(f"--{k}={self.folder / v}" for k, v in place.items()))
        wait_for("munge", (self.folder / "run/munge.sock").exists, 30, self.logs)
        self._daemon("slurmctld", "-D", "-i", "-f", self.env["SLURM_CONF"])
        for name in self.nodes:
            self._daemon("slurmd", "-D", "-N", name, "-f", self.env["SLURM_CONF"])
        wait_for("idle nodes", self._idle, 90, self.logs)

    def _daemon(self, *words: str) -> None:
        log = (self.folder / f"{words[0]}{len(self.daemons)}.out").open("w")
        self.daemons.append(
            subprocess.Popen(words, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        )

    def _idle(self) -> bool:
        return self.ask("sinfo", "-h", "-N", "-p", "patient", "-o", "%T").split() == ["idle"] * len(self.nodes)

    def stop(self) -> None:
        """Cancel what is left and end the daemons, last started first."""
        if len(self.daemons) == 2 + len(self.nodes):
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
        """The job's state. One that is requeued waits for `cred_expire` seconds, without which nodes refuse it."""
        return self.job(number).get("JobState", "gone")

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in files)
