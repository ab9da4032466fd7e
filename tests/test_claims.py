"""What README and headers claim is what was measured, and what was measured is the recipe as it is."""

import json
import re

import claims
import pytest

from rvos_lightning.run.foundation import recipe_hash

KNOWN = claims.measured()
RECIPES = {path.stem: path for path in claims.recipes()}


@pytest.mark.parametrize("name", KNOWN)
def test_a_header_says_what_was_measured(name):
    text = RECIPES[name].read_text()
    assert claims.HEADER.findall(text) == [claims.header(KNOWN[name])], f"python tests/claims.py configs/{name}.yaml"
    beside = [line for line in claims.HEADER.sub("", text).splitlines() if line.startswith("#")]
    typed = [line for line in beside if re.search(r"\b(reaches|measured)\b.*0\.\d", line, re.IGNORECASE)]
    assert not typed, "a figure of this recipe that no run wrote"


@pytest.mark.parametrize("name", KNOWN)
def test_what_was_measured_is_the_recipe_as_it_is(name):
    for seed, run in KNOWN[name].items():
        assert run["recipe_sha256"] == recipe_hash(RECIPES[name]), f"{name} has changed since seed {seed} was measured"
        assert {"commit", "machine", "minutes", "steps", "scores", "course", "controls"} <= run.keys()


def test_the_readme_says_what_was_measured():
    text = (claims.ROOT / "README.md").read_text()
    assert claims.with_cells(text, KNOWN) == text, "python tests/claims.py"


@pytest.mark.parametrize("page", sorted((claims.ROOT / "rvos_lightning" / "systems").glob("*/README.md")), ids=str)
def test_a_systems_page_says_what_was_measured(page):
    for row in re.findall(r"^\| `configs/\w+\.yaml`.*$", page.read_text(), re.MULTILINE):
        name = re.search(r"configs/(\w+)\.yaml", row)[1]
        runs = KNOWN.get(name, {})
        numbers = {f"{value:.2f}" for value in [*flat(runs), *(run["minutes"] / 60 for run in runs.values())]}
        assert name not in KNOWN or set(re.findall(r"\b[01]\.\d\d\b", row)) <= numbers, row


def flat(value):
    """Every score, in however many mappings."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in flat(inner)]
    return [value] if isinstance(value, float) else []


def test_a_run_is_recorded_and_claimed(run, tmp_path, monkeypatch, capfd):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        (claims.ROOT / "configs" / "tiny.yaml").read_text()
        .replace("max_steps: 900", "max_steps: 2").replace("val_check_interval: 300", "val_check_interval: 1")
        .replace("size: 64, clip_length: 6", "size: 32, val_clips: 2, clip_length: 2")
    )  # fmt: skip
    run("fit", "-c", recipe, "--trainer.num_sanity_val_steps", "0", "--trainer.accelerator", "cpu")
    monkeypatch.setattr(claims, "MEASURED", tmp_path / "measured.json")
    claims.record(recipe, tmp_path / "run", "abc")
    made = json.loads((tmp_path / "measured.json").read_text())["tiny"]["0"]
    said = json.loads((tmp_path / "run" / "scores.json").read_text())["val"]
    assert made["scores"]["j_and_f"] == round(said["j_and_f"], 4) and list(made["course"]) == ["1"]
    assert made["controls"].keys() == claims.SHUFFLED.keys()
    told = claims.header({"0": made})
    text = claims.with_header(recipe.read_text(), told)
    assert f"# Measured: J&F {said['j_and_f']:.2f}" in text and claims.with_header(text, told) == text
    readme = claims.with_cells("| tiny | configs | paper | J&F 0.99 |\n", {"tiny": {"0": made}})
    assert readme == f"| tiny | configs | paper | J&F {said['j_and_f']:.2f} |\n"
    recipe.write_text(recipe.read_text().replace("2.0e-3", "3.0e-3"))
    with pytest.raises(SystemExit, match="model.optimizer.init_args.lr is not that of"):
        claims.record(recipe, tmp_path / "run", "abc")
