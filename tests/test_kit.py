"""What comes with the package for other machines: containers, clouds, continuous integration, citation."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from launch import environment, python

from callbacks.film import Film

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
PROJECT = (ROOT / "pyproject.toml").read_text()


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_there_is(path):
    content = yaml.safe_load(path.read_text())
    steps = [step for job in content["jobs"].values() for step in job["steps"]]
    makefile = (ROOT / "Makefile").read_text()
    for words in (step["run"] for step in steps if step.get("run", "").startswith("make ")):
        assert re.search(rf"^{words.split()[1]}:", makefile, re.MULTILINE), words
    assert all("timeout-minutes" in job and "runs-on" in job for job in content["jobs"].values())
    assert all(re.search(r"@v\d", step["uses"]) for step in steps if "uses" in step)
    assert content["permissions"] == {"contents": "read"}


def test_workflows_cover_the_pythons_and_the_newest_versions():
    tests, nightly = read(".github/workflows/tests.yml"), read(".github/workflows/nightly.yml")
    pythons = tests["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert pythons[0] == re.search(r'requires-python = ">=([\d.]+)"', PROJECT)[1] and len(pythons) == 4
    commands = [step.get("run", "") for step in nightly["jobs"]["newest"]["steps"]]
    assert any("--upgrade" in command for command in commands) and not any("constraint" in c for c in commands)
    assert any("pip_audit" in step.get("run", "") for step in nightly["jobs"]["audit"]["steps"])


def test_pre_commit_lints_with_the_pinned_version():
    hooks = {repo["repo"].rsplit("/", 1)[1]: repo["rev"] for repo in read(".pre-commit-config.yaml")["repos"]}
    assert hooks["ruff-pre-commit"] == f"v{PINS['ruff']}"


def test_citation_is_of_this_version():
    said = read("CITATION.cff")
    assert said["version"] == re.search(r'^version = "([^"]+)"', PROJECT, re.MULTILINE)[1]
    assert said["license"] == "Apache-2.0" and said["cff-version"] == "1.2.0" and said["authors"]
    assert {"title", "message", "type"} <= said.keys()


def copied(text, start):
    """Sources that a container file copies out of the checkout."""
    lines = [line.split() for line in text.splitlines() if line.startswith(start)]
    return [word for line in lines for word in (line[1:-1] if start == "COPY" else line[:1])]


def test_containers_hold_what_is_packaged_and_pinned():
    docker, apptainer = (ROOT / "Dockerfile").read_text(), (ROOT / "apptainer.def").read_text()
    files = re.search(r"%files\n(.*?)\n\n", apptainer, re.DOTALL)[1]
    for sources in (copied(docker, "COPY"), copied(files, "    ")):
        assert set(sources) == {"uv.lock", "constraints.txt", "pyproject.toml", "README.md", "LICENSE",
                                "rvos_lightning", "callbacks", "configs", "slurm"}  # fmt: skip
        assert all((ROOT / source).exists() for source in sources)
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert set(kept) == set(copied(docker, "COPY"))
    for text in (docker, apptainer):
        assert "--constraint constraints.txt uv" in text and "uv sync --frozen --no-cache --extra demo" in text
    base = re.search(r"^FROM (.*)", docker, re.MULTILINE)[1]
    assert f"From: {base}" in apptainer


@pytest.mark.parametrize("part", ["%post", "%environment", "%runscript", "RUN"])
def test_shell_in_the_containers_is_shell(part):
    if part == "RUN":
        text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
        script = "\n".join(line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN "))
    else:
        script = re.search(rf"{part}\n((?:    .*\n?)+)", (ROOT / "apptainer.def").read_text())[1]
    assert script.strip()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)


def test_examples_for_clouds_parse_and_run_our_verbs():
    job = read("examples/kubernetes.yaml")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][0] == "fit" and (ROOT / container["args"][2]).exists()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    task = read("examples/skypilot.yaml")
    for command in task["run"].splitlines():
        words = shlex.split(command)
        assert words[1:3] == ["-m", "rvos_lightning"] and (ROOT / words[words.index("-c") + 1]).exists()
        assert words[words.index("--ckpt_path") + 1] == "last"


def test_array_script_runs_in_a_container(tmp_path):
    """With a stand-in for the runtime, which gets its words and runs what comes after the image."""
    runtime = tmp_path / "apptainer"
    runtime.write_text('#!/bin/bash\necho "$1 $2 $3 ${4##*/} $5" > "$WORDS"\nshift 5\nexec "$@"\n')
    runtime.chmod(0o755)
    environment = {
        **os.environ, "RVOS_CONTAINER": "rvos.sif", "RVOS_PYTHON": sys.executable, "WORDS": str(tmp_path / "words"),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    environment = {key: value for key, value in environment.items() if not key.startswith("SLURM_")}
    shown = ["bash", "slurm/array.sbatch", "-c", "configs/tiny.yaml", "--print_config"]
    done = subprocess.run(shown, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("srun --kill-on-bad-exit=1 apptainer exec --nv --bind "), done
    command = shlex.split(done.stdout)[2:]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and yaml.safe_load(ran.stdout)["ckpt_path"] == "last", ran.stderr
    assert (tmp_path / "words").read_text() == f"exec --nv --bind {ROOT.name} rvos.sif\n"


def test_the_live_example_tells_the_latency_of_every_frame(tmp_path):
    film = Film(tmp_path / "x.mp4", (48, 64), 10)
    for _ in range(6):
        film.add(torch.full((3, 48, 64), 90, dtype=torch.uint8))
    film.close()
    words = [python(), "examples/live.py", "configs/tiny.yaml", tmp_path / "x.mp4", "the square", "the disc"]
    done = subprocess.run(
        [*map(str, words), "--frames", "4"], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[1] for line in lines if line.startswith("frame")] == ["0", "1", "2", "3"]
    assert re.match(r"latency per frame: median [\d.]+ ms", lines[-1])
