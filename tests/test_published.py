"""Every recipe of configs/paper/, printed alone, holds what its paper states (see published_values.py)."""

import re
from pathlib import Path

import pytest
import yaml
from published_values import BATCH_IN_ALL, TABLE

from rvos_lightning.systems.sa2va.sizes import RELEASED

PAPER = Path(__file__).parents[1] / "configs" / "paper"
RECIPES = sorted(path.stem for path in PAPER.glob("*.yaml"))


@pytest.fixture
def printed(run, capsys):
    """`printed(recipe, *flags)`: the configuration that `fit -c configs/paper/RECIPE.yaml --print_config` prints."""

    def of(recipe: str, *flags: str) -> dict:
        with pytest.raises(SystemExit) as stop:
            run("fit", "-c", f"configs/paper/{recipe}.yaml", *flags, "--print_config")
        out = capsys.readouterr()
        assert stop.value.code in (0, None), out.err
        return yaml.safe_load(out.out)

    return of


def found(config, key):
    """The value at a dotted key; `init_args` is stepped over, numbers are places in a list."""
    for part in key.split("."):
        if isinstance(config, dict) and part not in config and "init_args" in config:
            config = config["init_args"]
        config = config[int(part)] if isinstance(config, list) else config[part]
    return config


def test_every_recipe_has_its_table():
    assert sorted(TABLE) == RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_printed_recipe_holds_the_published_values(recipe, printed):
    config = printed(recipe)
    wrong = []
    for key, value, source in TABLE[recipe]:
        got = found(config, key)
        if (sorted(got) if key == "objectives" else got) != value:
            wrong.append(f"{key} is {got}, published {value} ({source})")
    assert not wrong, "\n".join(wrong)
    if recipe in BATCH_IN_ALL:
        gpus, total = BATCH_IN_ALL[recipe]
        assert found(config, "data.batch_size") * config["trainer"]["accumulate_grad_batches"] * gpus == total


@pytest.mark.parametrize(
    ("size", "template", "head"),
    [("1b", "qwen_chat", False), ("4b", "phi3_chat", False), ("8b", "internlm2_chat", True),
     ("26b", "internlm2_chat", True)],
)  # fmt: skip
def test_sa2va_size_says_template_and_adapted_head(size, template, head):
    """Released training configurations; InternLM2 calls its head `output`, which is not spared from adapters."""
    assert RELEASED[size].template == template
    assert (RELEASED[size].language.family == "internlm2") == head


def test_questions_are_the_published_sixteen(printed):
    questions = found(printed("sa2va_1b"), "model.network.prompter.questions")
    assert len(questions) == 16 and len({question.rstrip(".?") for question in questions}) == 8


@pytest.mark.parametrize("overlay", ["mevis", "ref_davis", "revos", "refcoco"])
def test_a_data_overlay_lies_on_a_recipe(overlay, printed):
    data = printed("sa2va_4b", "-c", f"configs/data/{overlay}.yaml")["data"]["init_args"]
    assert data["size"] == 1024 and data["resize"] == "squash" and data["items_per_video"] == 5


@pytest.mark.parametrize("recipe", RECIPES)
def test_header_says_paper_hardware_and_command(recipe):
    header = re.match(r"(#.*\n)+", (PAPER / f"{recipe}.yaml").read_text())[0]
    assert re.search(r"arXiv \d{4}\.\d{5}|supplement", header), "which paper"
    assert re.search(r"[Hh]ardware|GPU", header) and "Published" in header or recipe.startswith("grounded_sam2")
    assert f"-c configs/paper/{recipe}.yaml" in header
    assert not re.search(r"-c configs/(?:samwise|sam_i2v|sa2va)\.yaml", header), "lies on another recipe"
