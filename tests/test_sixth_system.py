"""CONTRIBUTING's promise: a sixth system is one folder and one YAML, and no existing file changes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_system_copied_from_the_template_runs_from_its_own_folder(tmp_path):
    source = ROOT / "rvos_lightning" / "systems" / "tiny"
    package = tmp_path / "new_system"
    package.mkdir()
    for file in source.glob("*.py"):
        text = file.read_text().replace("rvos_lightning.systems.tiny", "new_system")
        text = text.replace("class FiLMAdapter", "class NewAdapter")
        (package / file.name).write_text(text)
    config = (ROOT / "configs" / "tiny.yaml").read_text()
    config = config.replace("rvos_lightning.systems.tiny", "new_system").replace("FiLMAdapter", "NewAdapter")
    (tmp_path / "new.yaml").write_text(config)
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "rvos_lightning").rglob("*.py")}
    words = ["fit", "-c", "new.yaml", "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1",
             "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu", "--data.batch_size", "2",
             "--data.size", "32", "--trainer.enable_progress_bar", "false"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "rvos_lightning", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "J&F" in done.stdout and "NewAdapter" in done.stdout
    assert (tmp_path / "runs" / "new" / "fit" / "0" / "scores.json").exists()
    assert before == {path: path.stat().st_mtime_ns for path in (ROOT / "rvos_lightning").rglob("*.py")}
