"""Every command the README shows runs: ours in process with few steps, make targets dry."""

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
from launch import python

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
OURS = [line for line in LINES if "-m rvos_lightning" in line]
FIT = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "2",
       "--trainer.check_val_every_n_epoch", "null", "--trainer.accelerator", "cpu", "--data.batch_size", "1",
       "--trainer.num_sanity_val_steps", "0", "--trainer.enable_progress_bar", "false"]  # fmt: skip


def test_every_line_is_of_a_kind_that_is_tested():
    known = ("make ", "python3 -m venv", ".venv/bin/python -m pip install", ".venv/bin/python -m pytest")
    assert [line for line in LINES if line not in OURS and not line.startswith(known)] == []


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line):
    words = shlex.split(line)
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_plain_commands_are_those_of_make():
    install = next(line for line in LINES if " pip install" in line)
    makefile = (ROOT / "Makefile").read_text()
    assert (
        all(word in makefile for word in ("--constraint constraints.txt", "'.[dev]'")) and "constraints.txt" in install
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(system)`: the checkpoint that later commands of the README start from."""
    from rvos_lightning.run.cli import main

    @cache
    def of(system):
        folder = tmp_path_factory.mktemp(system)
        main(["fit", "-c", str(ROOT / f"configs/{system}.yaml"), *FIT, "--trainer.default_root_dir", str(folder)])
        return folder / "checkpoints" / "last.ckpt"

    return of


@pytest.mark.parametrize("line", OURS, ids=lambda line: line.split("-m ")[1][:60])
@pytest.mark.filterwarnings("ignore")
def test_command_runs(line, run, trained, tmp_path, monkeypatch):
    words = shlex.split(line)
    words = words[3:]
    if words[0] not in ("fit", "validate", "test", "predict"):
        run_other(words, tmp_path)
        return
    words = [str(trained(Path(word).parts[1])) if word.endswith("last.ckpt") else word for word in words]
    if "runs/horse" in words and "--run" in words:
        words[words.index("runs/horse")] = str(trained("samwise").parents[1])
    if "--print_config" in words:
        with pytest.raises(SystemExit) as stop:
            run(*words)
        assert stop.value.code in (0, None)
    else:
        cli = run(*words, *(FIT if words[0] == "fit" else ["--trainer.enable_progress_bar", "false"]))
        assert cli.trainer.state.finished
    if words[0] == "predict":
        made = {path.name for path in (tmp_path / "run" / "predictions").rglob("*")}
        assert {"overlay.mp4", "contact_sheet.png", "record.json", "masks"} <= made


def run_other(words, folder):
    words = [str(folder / word) if word.startswith("shapes_as") else word for word in words]
    command = [python(), "-m", "rvos_lightning", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.filterwarnings("ignore")
def test_python_block_runs(trained, tmp_path, monkeypatch, capsys):
    from rvos_lightning.run.cli import main

    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(block.splitlines()) <= 15
    made = tmp_path / "shapes_as_mevis"
    main(["sample", "--layout", "mevis", "--out", str(made), "--videos", "2"])
    code = block.replace("runs/samwise/fit/0", str(trained("samwise").parents[1]))
    code = code.replace("shapes_as_mevis", str(made)).replace("tests/data", str(ROOT / "tests" / "data"))
    exec(compile(code, "README.md", "exec"), {})
    assert "JF(j=" in capsys.readouterr().out
