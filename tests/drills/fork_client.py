"""`python`, by way of the fork server: the same words, and the same end. Runs without site packages.

Below a first line that names the interpreter and a second that sets SERVER and PYTHON (see `fork_server.forked`).
What the server cannot give runs in the real Python: other options, another session (a process can join a process
group of its own session only), or when the server has left.
"""

import json
import os
import signal
import socket
import sys


def main(server: str, python: str) -> None:
    """Ask for a process, hand signals on to it, and end as it ends."""
    words, environment = sys.argv[1:], dict(os.environ)
    if environment.pop("FORK_OWN_GROUP", ""):
        os.setpgrp()
    plain = words[2:] if words[:2] == ["-W", "ignore"] else words
    known = bool(plain) and (plain[0] in ("-m", "-c") or not plain[0].startswith("-"))
    connection = socket.socket(socket.AF_UNIX)
    try:
        if not known:
            raise ConnectionError
        connection.connect(server)
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if os.getsid(int.from_bytes(peer[:4], sys.byteorder)) != os.getsid(0):
            raise ConnectionError
    except OSError:
        os.execve(python, [python, *words], environment)
    asked = {
        "words": words,
        "environment": environment,
        "folder": os.getcwd(),
        "group": os.getpgrp(),
        "executable": os.path.abspath(sys.argv[0]),
    }
    message = json.dumps(asked).encode() + b"\0"
    sent = socket.send_fds(connection, [message], [0, 1, 2])
    connection.sendall(message[sent:])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    status = int.from_bytes(connection.recv(4), "little")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


main(SERVER, PYTHON)  # noqa: F821
