"""Every shipped YAML: systems fit, save, reload and validate; overlays parse; paper recipes build on meta."""

from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
SYSTEMS = sorted((ROOT / "configs").glob("*.yaml"))
PAPERS = sorted(path for kind in ("paper", "finetune") for path in (ROOT / "configs" / kind).glob("*.yaml"))
OVERLAYS = sorted(p for kind in ("data", "trainer", "overlays") for p in (ROOT / "configs" / kind).glob("*.yaml"))
TINY_RUN = [
    "--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.check_val_every_n_epoch", "null",
    "--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0", "--trainer.accelerator", "cpu",
    "--data.batch_size", "2", "--data.eval_batch_size", "2", "--data.workers", "0",
    "--trainer.enable_progress_bar", "false",
]  # fmt: skip


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


@pytest.mark.parametrize("path", SYSTEMS, ids=name)
def test_system_fits_saves_reloads_and_validates(path, run, tmp_path):
    fitted = run("fit", "-c", path, *TINY_RUN)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert fitted.trainer.global_step == 2 and last.exists()
    assert (tmp_path / "run" / "scores.json").exists() and list((tmp_path / "run" / "film").glob("*.png"))
    again = run("validate", "-c", path, "--ckpt_path", last, *_without_fit_flags(), folder=tmp_path / "val")
    weights = {key: value for key, value in fitted.model.state_dict().items()}
    for key, value in again.model.state_dict().items():
        assert torch.equal(value, weights[key]), key
    score = float(again.trainer.callback_metrics["val/j_and_f"])
    assert 0 <= score <= 1


def _without_fit_flags() -> list[str]:
    return ["--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu", "--data.eval_batch_size", "2",
            "--data.workers", "0", "--trainer.enable_progress_bar", "false"]  # fmt: skip


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_overlay_parses_on_a_system(path, run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("fit", "-c", "configs/tiny.yaml", "-c", path, "--print_config")
    assert stop.value.code in (0, None), capsys.readouterr().err


@pytest.mark.parametrize("path", PAPERS, ids=name)
def test_paper_recipe_builds_on_the_meta_device(path, run, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run("fit", "-c", path, "--print_config")
    out = capsys.readouterr()
    assert stop.value.code in (0, None), out.err
    config = yaml.safe_load(out.out)
    model = {"network": without_files(config["model"]["network"])}
    from jsonargparse import ArgumentParser

    from rvos_lightning.core.seams import Network

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Network)
    with torch.device("meta"):
        network = parser.instantiate(parser.parse_object(model)).network
    assert sum(p.numel() for p in network.parameters()) > 0


def without_files(config):
    """The same with every path to weights or tokenizers taken out, as no file is there in a test."""
    if not isinstance(config, dict):
        return config
    files = {key for key, value in config.items() if key in ("weights", "tokenizer", "pretrained") and value}
    if config.get("class_path", "").endswith("GroundingDino"):
        words = {"class_path": "rvos_lightning.parts.text.tokenizers.WordTokenizer"}
        return {**config, "init_args": {"weights": None, "tokenizer": words}}
    return {
        key: None if key in files and isinstance(value, str) else without_files(value) for key, value in config.items()
    }


@pytest.mark.parametrize("path", [*SYSTEMS, *PAPERS, *OVERLAYS], ids=name)
def test_yaml_opens_with_what_it_is(path):
    assert path.read_text().startswith("# "), f"{name(path)}: the first line says what this file is, and its source"
