"""Small weights that come with the package: each says what made it, fits it, and is read wherever weights are."""

import json
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rvos_lightning.parts import weights
from rvos_lightning.parts.starting import start_from, starting_from
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.weights import (
    FOUNDATIONS,
    WeightsError,
    load_official,
    metadata,
    reproducible_prefixes,
    save,
    shipped,
)
from rvos_lightning.run.cli import main
from rvos_lightning.run.foundation import recipe_hash
from rvos_lightning.run.model import load
from rvos_lightning.run.words import read_yaml
from rvos_lightning.systems.sgmg.video_swin import SwinSize, VideoSwin

CONFIGS = FOUNDATIONS.parents[1] / "configs"
RECIPES = CONFIGS / "foundations"
FILES = sorted(FOUNDATIONS.glob("*.safetensors"))
SMALL = TextSize(vocabulary=0, width=8, layers=1, heads=1, mlp=8, positions=14)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_what_made_it_and_fits_that(file):
    said = metadata(file)
    assert said.keys() >= {"part", "recipe", "recipe_sha256", "commit", "seed", "figures"}
    recipe = recipe_of(said)
    assert said["recipe_sha256"] == recipe_hash(recipe), f"{recipe.name} has changed: make foundations"
    assert json.loads(said["figures"])
    network = load(recipe).network
    own = network.get_submodule("" if "whole" in said else said["part"]).state_dict()
    elsewhere = () if said["part"] else tuple(reproducible_prefixes(network))
    state = load_file(file)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in own.items() if not k.startswith(elsewhere)}
    assert all(value.dtype == torch.float16 for value in state.values() if value.is_floating_point())


def recipe_of(said):
    return next(found for folder in (RECIPES, CONFIGS) if (found := folder / said["recipe"]).is_file())


@pytest.mark.parametrize("file", [file for file in FILES if "whole" in metadata(file)], ids=lambda file: file.stem)
def test_its_scores_hold_on_a_quarter_of_the_clips(file, run, tmp_path):
    said = metadata(file)
    clips = load_clips(recipe_of(said)) // 4
    run(
        "validate", "-c", recipe_of(said), "--model.weights", f"small/{file.stem}", "--data.val_clips", clips,
        "--trainer.accelerator", "cpu",
    )  # fmt: skip
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["val"]
    few = ("step", "j_and_f/", "j/", "f/", "answers/")  # of a quarter's subsets there are a handful of clips
    for name, value in json.loads(said["figures"]).items():
        assert name.startswith(few) or scores[name] == pytest.approx(value, abs=0.06), name


def load_clips(recipe):
    return read_yaml(recipe)["data"]["init_args"].get("val_clips", 64)


def test_all_together_are_small():
    assert sum(file.stat().st_size for file in FILES) <= 15e6


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_trains_and_scores(recipe, run, tmp_path):
    flags = {
        "trainer.max_steps": 1, "trainer.val_check_interval": 1, "trainer.num_sanity_val_steps": 0,
        "trainer.accelerator": "cpu", "data.batch_size": 2, "data.val_clips": 2,
    }  # fmt: skip
    run("fit", "-c", recipe, *(word for key, value in flags.items() for word in (f"--{key}", str(value))))
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["val"]["step"] == 1


def test_make_trains_every_recipe():
    root = FOUNDATIONS.parents[1]
    files = [f"rvos_lightning/foundations/{file.name}" for file in FILES]
    said = subprocess.run(["make", "-n", "-B", *files], cwd=root, capture_output=True, text=True, check=True).stdout
    assert all(f"fit -c configs/foundations/{recipe.name}" in said for recipe in RECIPES.glob("*.yaml"))
    there = subprocess.run(["make", "-n", *files], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "rvos_lightning fit" not in there  # nothing that is there is made again


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place for foundations of the test's own."""
    monkeypatch.setattr(weights, "FOUNDATIONS", tmp_path / "foundations")
    return tmp_path / "foundations"


def test_a_name_that_is_not_there_lists_those_that_are(folder):
    for name in ("words", "swin"):
        save({"x": torch.ones(1)}, folder / f"{name}.safetensors")
    with pytest.raises(WeightsError, match="small/swim: no such small foundation; there are: small/swin, small/words"):
        load_official("small/swim")
    with pytest.raises(WeightsError, match="no such small foundation"):
        load_official("small/../words")
    assert load_official("small/words")["x"] == 1
    assert shipped("smaller/words") is None and shipped(None) is None and shipped("small") is None


def test_a_folder_of_the_users_comes_first(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save({"x": torch.zeros(1)}, tmp_path / "small" / "words")
    save({"x": torch.ones(1)}, folder / "words.safetensors")
    assert not load_official("small/words")["x"]


def test_a_backbone_starts_from_one(folder):
    size = SwinSize(width=4, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=(2, 2, 2), patch=2)
    saved = VideoSwin(size=size)
    save(
        {key: v.half() if v.is_floating_point() else v for key, v in saved.state_dict().items()},
        folder / "s.safetensors",
    )
    read = VideoSwin(size=size, weights="small/s")
    for key, value in saved.state_dict().items():
        torch.testing.assert_close(read.state_dict()[key], value, atol=1e-3, rtol=1e-3)
    assert all(parameter.dtype == torch.float32 for parameter in read.parameters())
    with pytest.raises(WeightsError, match="shapes that differ"):
        VideoSwin(size=SwinSize(4, (1, 1, 1, 1), (1, 1, 1, 1), (2, 2, 2), 4), weights="small/s")


def text_foundation(folder):
    saved = Roberta(size=SMALL)
    save(
        saved.model.state_dict(),
        folder / "words.safetensors",
        {"config": saved.model.config.to_json_string(use_diff=False)},
    )
    return saved


def test_a_text_encoder_takes_sizes_and_numbers_from_one(folder):
    saved = text_foundation(folder)
    read = Roberta(weights="small/words", size=TextSize())
    assert (read.width, read.depth, read.longest) == (8, 1, 14)
    sentence = ["the red circle moving left"]
    assert torch.equal(read.eval()(sentence)[0], saved.eval()(sentence)[0])
    assert read.weights_source == "small/words"  # frozen, checkpoints leave it out
    with pytest.warns(UserWarning, match="small/words has no pooler"):
        assert Roberta(weights="small/words", pooler=True).model.pooler is not None
    save({"x": torch.zeros(1)}, folder / "swin.safetensors")
    with pytest.raises(WeightsError, match="small/swin is no text encoder, where the network has roberta"):
        Roberta(weights="small/swin")


def test_what_a_file_lacks_comes_from_one(folder, tmp_path):
    saved = text_foundation(folder)
    save({"rest.weight": torch.zeros(2, 2)}, tmp_path / "start.safetensors")
    with starting_from(tmp_path / "start.safetensors"):
        net = torch.nn.ModuleDict({"text": Roberta(weights="small/words"), "rest": torch.nn.Linear(2, 2, bias=False)})
        start_from(net, tmp_path / "start.safetensors")
    key = "model.embeddings.word_embeddings.weight"
    assert torch.equal(net["text"].state_dict()[key], saved.state_dict()[key])


def test_a_part_of_a_run_becomes_one(run, folder, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        (FOUNDATIONS.parents[1] / "configs" / "tiny.yaml").read_text()
        .replace("max_steps: 900", "max_steps: 1").replace("val_check_interval: 300", "val_check_interval: 1")
        .replace("size: 64, clip_length: 6", "size: 32, val_clips: 2, clip_length: 2")
    )  # fmt: skip
    run("fit", "-c", recipe, "--trainer.num_sanity_val_steps", "0", "--trainer.accelerator", "cpu")
    words = ["convert", "part", str(tmp_path / "run"), str(tmp_path / "out.safetensors"), "--part", "segmenter"]
    assert main([*words, "--recipe", str(recipe)]) == 0
    said = metadata(tmp_path / "out.safetensors")
    assert (said["part"], said["recipe"]) == ("segmenter", "recipe.yaml") and "j_and_f" in json.loads(said["figures"])
    trained = load(tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt").network.segmenter.state_dict()
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert set(file.keys()) == set(trained)
        assert all(torch.equal(file.get_tensor(key), trained[key].half()) for key in file.keys())
    words[3] = str(folder / "whole.safetensors")
    assert main([*words, "--recipe", str(recipe), "--whole"]) == 0
    assert {key: value.dtype for key, value in load_official("small/whole").items()} == dict.fromkeys(
        trained, torch.float16
    )
    scored = load(recipe, "small/whole").network.state_dict()  # all that was trained
    assert torch.equal(scored["segmenter." + next(iter(trained))], next(iter(trained.values())).half().float())
    words[3] = str(folder / "all.safetensors")
    assert main([*words[:4], "--recipe", str(recipe), "--whole"]) == 0
    assert load(recipe, "small/all").network.state_dict().keys() == scored.keys()
    with pytest.raises(WeightsError, match="small/all is a whole network: --model.weights small/all"):
        load_official("small/all")
    recipe.write_text(recipe.read_text().replace("2.0e-3", "3.0e-3"))
    capsys.readouterr()
    words[3] = str(tmp_path / "more.safetensors")
    assert main([*words, "--recipe", str(recipe)]) == 2
    assert "model.optimizer.init_args.lr differs" in capsys.readouterr().err
    assert main([*words[:-1], "segmentor", "--recipe", str(tmp_path / "run" / "config.yaml")]) == 2
    assert "no part 'segmentor'; e.g. segmenter, adapter, prompter" in capsys.readouterr().err
    assert main(words) == 2 and "--recipe" in capsys.readouterr().err
