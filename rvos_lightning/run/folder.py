"""Where a run writes. A folder that holds a run is never overwritten, and one in use is locked."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rvos_lightning.run.words import config_files

RUN_DIR = "RVOS_RUN_DIR"  # how the processes that Lightning starts learn their parent's folder
VERBS = ("fit", "validate", "test", "predict")
RUN_ID = "run_id"  # what servers know the run by
BEFORE_THE_START = (".lock", "config.yaml", "hparams.yaml", RUN_ID)  # all that a failed start leaves
PATIENCE = 120.0  # seconds that other SLURM processes wait for the first one's choice


class FolderError(ValueError):
    """A folder that must not be written to; names the remedy."""


class RunFolder:
    """One run's folder, held until `release`.

    Args:
        path: the folder; made if it is not there.
        words: the command line, which an unfinished prediction and a requeued job are recognised by.
        ours: this process decides; False in processes that another one started.

    Raises:
        FolderError: another process is writing there.
    """

    def __init__(self, path: Path, words: Sequence[str], ours: bool = True):
        self.path, self.ours = path, ours
        if not ours:
            return
        made = [parent for parent in (path, *path.parents) if not parent.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self.made = made
        self.lock = (path / ".lock").open("a+")
        try:
            # POSIX locks end with the process and are not inherited by loader workers.
            fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.seek(0)
            who = holder(self.lock.read())
            raise FolderError(
                f"{path} is in use by {who}: wait for it, or give another --trainer.default_root_dir"
            ) from None
        self.lock.seek(0)
        self.lock.truncate()
        json.dump(mark(words), self.lock)
        self.lock.flush()

    def release(self, finished: bool) -> bool:
        """Unlock; take the mark of an unfinished run away if it has finished, and the folder if nothing is in it.

        Returns:
            Whether something was written, for this process to tell.
        """
        if not self.ours:
            return False
        files = [path for path in self.path.rglob("*") if path.is_file()]
        started = [path for path in files if path.name in BEFORE_THE_START or path.name.startswith("events.out.")]
        written = len(files) > (1 if finished or not self.made else len(started))
        if finished or not written:
            (self.path / ".lock").unlink(missing_ok=True)
        for path in () if written else started:
            if self.made:
                path.unlink(missing_ok=True)
        self.lock.close()
        if not written and self.made:
            inside = sorted((path for path in self.path.rglob("*") if path.is_dir()), reverse=True)
            with suppress(OSError):  # another run has begun beside
                for folder in (*inside, *self.made):
                    folder.rmdir()
        return written


def mark(words: Sequence[str]) -> dict[str, object]:
    """What a lock file says."""
    job = {key: os.environ[key] for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT") if key in os.environ}
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime(), "words": list(words), **job}


def holder(text: str) -> str:
    """The process that a lock file names."""
    try:
        said = json.loads(text)
        return f"process {said['pid']} on {said['host']} since {said['since']}"
    except (ValueError, KeyError):
        return "another process"


def claim(configured: str | None, subcommand: str, words: Sequence[str], goes_on: bool) -> RunFolder:
    """The run's folder: the configured one, or a new number under `runs/<configuration>/<subcommand>`.

    A run under SLURM without a configured folder is named after its job, and a requeued job finds its own again. An
    unfinished prediction of the same words goes on in its folder.

    Args:
        configured: `trainer.default_root_dir`, if the user gave one.
        subcommand: fit, validate, test or predict.
        words: the command line.
        goes_on: the run continues what is in its folder.

    Raises:
        FolderError: in use, or it holds another run.
    """
    if RUN_DIR in os.environ:
        return RunFolder(Path(os.environ[RUN_DIR]), words, ours=False)
    if configured is not None:
        if first_process():  # the others come when it may have begun to write
            refuse_overwriting(Path(configured), subcommand, goes_on)
        found = RunFolder(Path(configured), words, first_process())
    else:
        found = _new(parent_of(words) / subcommand, subcommand, words)
    os.environ[RUN_DIR] = str(found.path)
    return found


def refuse_overwriting(folder: Path, subcommand: str, goes_on: bool) -> None:
    """A folder in which a run is may be written to by that run alone.

    Raises:
        FolderError: says whose it is, and how to go on or elsewhere.
    """
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"trainer.default_root_dir {folder} is a file: give a folder")
    saved = folder / "config.yaml"
    if not saved.exists() or goes_on or restarted():
        return
    whose = written_by(saved)
    if whose == subcommand == "predict":
        return
    remedy = "continue it with --ckpt_path last, or " if subcommand == "fit" and whose == "fit" else ""
    raise FolderError(f"{folder} holds a run of `{whose}`: {remedy}give another --trainer.default_root_dir, or none")


def written_by(saved: Path) -> str:
    """The verb that a saved configuration's first line names."""
    first = saved.read_text().partition("\n")[0].split()
    return next((word for word in first if word in VERBS), "fit")


def parent_of(words: Sequence[str]) -> Path:
    """`runs/<configuration>`; a saved configuration's new runs lie beside the old one, whatever its file is called."""
    files = config_files(words)
    if not files:
        return Path("runs/run")
    first = Path(files[0])
    if first.name != "config.yaml" or not first.parent.name:
        return Path("runs") / first.stem
    run = first.parent
    return run.parent.parent if run.parent.name in VERBS else Path("runs") / run.name


def first_process() -> bool:
    """Whether this is the process that speaks for all: none of those that SLURM or torchrun started beside it."""
    return int(os.environ.get("SLURM_PROCID" if _step() else "RANK") or 0) == 0


def restarted() -> bool:
    """Whether SLURM has started this job before, so that it must go on where it was and not begin anew."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _new(parent: Path, subcommand: str, words: Sequence[str]) -> RunFolder:
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    if job is not None and "SLURM_NTASKS" in os.environ:
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return _of_job(parent, job if task is None else f"{job}_{task}", words)
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise FolderError("several processes from outside must agree on a folder: give --trainer.default_root_dir")
    if subcommand == "predict" and (unfinished := _unfinished(parent, words)):
        return unfinished
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return _made(parent, map(str, range(max(numbers, default=-1) + 1, 1 << 30)), words)


def _made(parent: Path, names: Iterator[str], words: Sequence[str]) -> RunFolder:
    for name in names:
        above = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        try:
            (parent / name).mkdir()  # making it is what claims it: two starts never share a folder
        except FileExistsError:
            continue
        found = RunFolder(parent / name, words)
        found.made = [parent / name, *above]
        return found
    raise FolderError(f"{parent}: no free name")


def _unfinished(parent: Path, words: Sequence[str]) -> RunFolder | None:
    """The newest folder that was left by the same command before its end."""
    for lock in sorted(parent.glob("*/.lock"), key=lambda path: path.stat().st_mtime, reverse=True):
        if _said(lock).get("words") == list(words):
            try:
                return RunFolder(lock.parent, words)
            except FolderError:  # still at work: this is a second one
                continue
    return None


def _said(lock: Path) -> dict:
    try:
        return json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}


def _step() -> str:
    """The job step that srun made, which is what has several processes; empty in a batch script or a shell."""
    return "" if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive") else os.environ.get("SLURM_STEP_ID", "")


def _of_job(parent: Path, job: str, words: Sequence[str]) -> RunFolder:
    """`<job>`, or `<job>-1`, ... for further runs of one job; after a requeue each finds its own by its words."""
    start = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    chosen = parent / f".{job}.{start}.{_step()}"
    if not first_process():
        return RunFolder(_told(chosen), words, ours=False)
    found = _own_of_job(parent, job, start, words) or _made(
        parent, (job if number == 0 else f"{job}-{number}" for number in range(1 << 20)), words
    )
    (found.path / ".job").write_text(json.dumps({"start": start, "words": list(words)}))
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ["SLURM_NTASKS"])) > 1 and _step():
        partial = chosen.with_name(chosen.name + ".partial")
        partial.write_text(str(found.path))
        partial.replace(chosen)
    return found


def _own_of_job(parent: Path, job: str, start: int, words: Sequence[str]) -> RunFolder | None:
    for path in sorted([*parent.glob(job), *parent.glob(f"{job}-*")], key=lambda path: (len(path.name), path.name)):
        said = _said(path / ".job")
        if said.get("words") == list(words) and said.get("start", start) < start:
            return RunFolder(path, words)
    return None


def _told(chosen: Path) -> Path:
    """What the first process of a step has chosen."""
    end = time.monotonic() + PATIENCE
    while not chosen.exists():
        if time.monotonic() > end:
            raise FolderError(f"the first process did not choose a folder within {PATIENCE:.0f} s ({chosen})")
        time.sleep(0.2)
    return Path(chosen.read_text())
