"""A forked process is what `python` would have started: words, surroundings, streams, group, and every way to end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from launch import ROOT, SMALL, checkpoint, differing, environment, python
from launch import run as run_forked

TOLD = """
import json, os, sys, random
print(json.dumps([sys.argv, os.getcwd(), os.environ["COLOUR"], os.getpgrp(), sys.path[0], random.random()]))
print("aside", file=sys.stderr)
"""


def ask(*words, **options):
    return subprocess.run([python(), *map(str, words)], capture_output=True, text=True, timeout=60, **options)


def test_process_has_its_own_words_and_surroundings(tmp_path):
    (tmp_path / "told.py").write_text(TOLD)
    env = environment(COLOUR="red", PYTHONPATH=str(tmp_path))
    drawn = set()
    for words in (["-c", TOLD], ["-m", "told"], ["told.py"]):
        done = ask(*words, "a b", cwd=tmp_path, env=env)
        argv, folder, colour, group, first, number = json.loads(done.stdout)
        assert argv[1:] == ["a b"] and folder == str(tmp_path) and colour == "red" and group == os.getpgrp()
        assert first == str(tmp_path) and done.stderr == "aside\n" and done.returncode == 0
        drawn.add(number)
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("import os; os._exit(4)", 4),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.kill(os.getpid(), 15)", -15),
        ("import atexit; atexit.register(print, 'bye')", 0),
    ],
)
def test_it_ends_as_it_ended(code, status):
    done = ask("-c", code)
    assert done.returncode == status and ("bye" in done.stdout) == ("bye" in code)
    assert done.stderr == "" or "1 / 0" in code and "ZeroDivisionError" in done.stderr


WAITING = "import signal, sys, time; signal.signal(10, lambda *_: sys.exit(7)); print(1, flush=True); time.sleep(60)"


def test_signals_are_handed_on():
    process = subprocess.Popen([python(), "-c", WAITING], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 7
    process.stdout.close()


@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_process_is_gone(whole_group):
    """Either by its group, as a time limit does it, or where only the program in front of it was hit."""
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    env = environment(FORK_OWN_GROUP="1")
    process = subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    inner = int(process.stdout.readline())
    assert os.getpgid(inner) == process.pid != inner
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    assert process.wait(20) == -9
    process.stdout.close()
    limit = time.monotonic() + 20
    while os.path.exists(f"/proc/{inner}") and time.monotonic() < limit:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{inner}")


def test_run_equals_one_that_imported_for_itself(tmp_path):
    flags = ["fit", "-c", "configs/tiny.yaml", *SMALL, "--trainer.max_steps", "2", "--trainer.default_root_dir"]
    ours = run_forked(*flags, tmp_path / "forked")
    words = [sys.executable, "-W", "ignore", "-m", "rvos_lightning", *flags, str(tmp_path / "plain")]
    said = subprocess.run(words, cwd=ROOT, env=environment(), stdout=-1, stderr=-2, text=True, timeout=180).stdout
    assert differing(checkpoint(tmp_path / "plain")["state_dict"], checkpoint(tmp_path / "forked")["state_dict"]) == []
    lines = [{line.strip() for line in text.splitlines() if "│" in line} for text in (ours, said)]
    assert lines[0] == lines[1] != set()
