"""Python processes without the seconds of importing: a server that has imported the libraries forks each of them.

`forked(folder)` gives a program that is used like `python` (see `fork_client.py`). What runs behind it is an ordinary
process with an id of its own: it has the words, environment, folder, standard streams and process group that it would
have had, runs `python -m module`, `python file` or `python -c code` as `__main__`, and may be killed. The ranks that
it starts by `sys.executable` are forked, too. One difference is left: all share the server's hash seed, so tests
that start two real processes stay (`test_ddp.py`).
"""

import atexit
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy

PRELOADED = (
    "lightning.pytorch.cli", "omegaconf", "torchvision.transforms.v2", "torch.utils.tensorboard", "matplotlib.figure",
    "scipy.optimize", "safetensors.torch", "av", "cv2", "pycocotools.mask", "PIL.Image", "rich.table",
    "rvos_lightning.run.lightning_cli", "rvos_lightning.data", "rvos_lightning.metrics", "callbacks",
)  # fmt: skip


@contextmanager
def forked(folder: Path) -> Iterator[str]:
    """Start the server; gives the path of a program used like `python`. The server ends with the context."""
    program, place = folder / "python", Path(tempfile.mkdtemp(prefix="fork")) / "socket"  # a socket's path is short
    client = Path(__file__).with_name("fork_client.py").read_text()
    program.write_text(f"#!{sys.executable} -IS\nSERVER, PYTHON = {str(place)!r}, {sys.executable!r}\n{client}")
    program.chmod(0o755)
    alive, end = os.pipe()
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-W", "ignore", __file__, str(place)]
    server = subprocess.Popen(words, env=surroundings, stdin=alive, stdout=subprocess.PIPE, text=True)
    os.close(alive)
    try:
        said = server.stdout.readline()
        assert said == "ready\n", f"the fork server did not start: {said}"
        yield str(program)
    finally:
        os.close(end)  # at the end of its standard input the server leaves
        server.wait(30)
        server.stdout.close()
        place.unlink(missing_ok=True)
        place.parent.rmdir()


def serve(place: str) -> dict[str, Any] | None:
    """Fork until standard input ends. Returns None in the server, what to run in each forked process."""
    for name in PRELOADED:
        import_module(name)
    sys.path[:] = own_path()
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread, which forks would lack"
    gc.collect()
    gc.freeze()  # what is here now is shared by all: no collection in a fork touches, hence copies, its pages
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    print("ready", flush=True)
    while sys.stdin not in (ready := select.select([sys.stdin, listener], [], [])[0]):
        connection = listener.accept()[0]
        if ready and os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return supervise(connection)
        connection.close()
    return None


def reap() -> None:
    """Forget the supervisors that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def supervise(connection: socket.socket) -> dict[str, Any]:
    """Fork the process that was asked for and stay with it: hand signals on, and its exit status back."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    while not message.endswith(b"\0"):
        message += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return json.loads(message[:-1])
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    while ended not in select.select([connection, ended], [], [])[0]:
        asked = connection.recv(1)  # nothing: the client was killed
        signal.pidfd_send_signal(ended, asked[0] if asked else signal.SIGKILL)
        if not asked:
            select.select([ended], [], [])
    try:
        connection.send(os.waitpid(child, 0)[1].to_bytes(4, "little"))
    except OSError:
        pass
    os._exit(0)


def own_path() -> list[str]:
    """`sys.path` without this file's folder and without PYTHONPATH."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [folder for folder in sys.path[1:] if folder not in given]


def become(asked: dict[str, Any]) -> None:
    """Run `python WORDS` in this process, as far as one can tell from inside.

    Args:
        asked: `words`, `environment`, `folder`, `group` (process group to join) and `executable`.
    """
    os.setpgid(0, asked["group"])
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.executable = asked["executable"]
    status: list[int] = []
    atexit.register(leave, status)  # the first that is registered is the last that is called
    random.seed()  # a process of its own draws numbers of its own; torch's first seed is always the same
    numpy.random.seed()
    words = list(asked["words"])
    if words[:2] == ["-W", "ignore"] or os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
        words = words[2:] if words[0] == "-W" else words
    more = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [os.path.abspath(folder) for folder in more]
    kind, name, rest = (words[0], words[1], words[2:]) if words[0] in ("-m", "-c") else ("", words[0], words[1:])
    sys.path.insert(0, os.getcwd() if kind else str(Path(name).resolve().parent))
    sys.argv[:] = [kind or name, *rest]
    try:
        if kind == "-m":
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(compile(name, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        else:
            runpy.run_path(name, run_name="__main__")
        status.append(0)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            status.append((error.code or 0) & 0xFF)
        raise


def leave(status: list[int]) -> None:
    """End where only the libraries' own modules are left to be taken apart, which takes longer than most tests' work.

    Threads have been waited for, and whatever was registered for the end has been called.

    Args:
        status: what to end with; empty where the interpreter has something to say first, and so ends by itself.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # a reader has left: the interpreter says so by its own status
        return
    for known in status:
        os._exit(known)
    gc.unfreeze()  # so that it ends as others do


if __name__ == "__main__":
    if (request := serve(sys.argv[1])) is None:
        os._exit(0)
    become(request)
