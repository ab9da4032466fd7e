"""The data doctor on sound and on broken copies of layouts."""

import json

import numpy as np
import pytest
from layouts import make_scene, promptable, referring, write_json, write_palette, write_picture

from rvos_lightning.run.check import main


@pytest.fixture
def check(tmp_path, capsys, monkeypatch):
    """`check(config, "--fast")` returns the exit status and what was printed."""
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks inside a cell

    def call(name, *flags):
        path = write_json(
            tmp_path / "data.yaml",
            {"data": {"class_path": f"rvos_lightning.data.{name}", "init_args": {"root": str(tmp_path / "data")}}},
        )
        status = main(["-c", str(path), *flags])
        return status, " ".join(capsys.readouterr().out.replace("│", " ").split())

    return call


def mevis(tmp_path):
    for split in ("train", "valid_u", "valid"):
        scene = make_scene((f"{split}_1", f"{split}_2"))
        referring.mevis(tmp_path / "data", scene, split, hidden=split == "valid")


def test_a_recipe_and_a_runs_configuration_are_looked_at_for_their_data(tmp_path, root, capsys):
    """Nothing else in them is built or even imported."""
    mevis(tmp_path)
    data = {"class_path": "rvos_lightning.data.MeViS", "init_args": {"root": str(tmp_path / "data")}}
    overlay = write_json(tmp_path / "data.yaml", {"data": data})
    assert main(["-c", str(root / "configs/tiny.yaml"), "-c", str(overlay), "--fast"]) == 0
    whole = {
        "model": {"network": {"class_path": "no.such.Network"}},
        "ckpt_path": None,
        "data": data,
        "untrained": True,
    }
    assert main(["-c", str(write_json(tmp_path / "config.yaml", whole)), "--fast"]) == 0
    assert "train: yes" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--fast"]])
def test_a_sound_data_set(tmp_path, check, flags):
    mevis(tmp_path)
    status, out = check("MeViS", *flags)
    assert status == 0 and "train: yes validate: yes submit: yes" in out
    assert "2 videos; published: 50" in out  # only worth knowing, unless --strict
    assert check("MeViS", "--strict", *flags)[0] == 1


def test_every_gap_says_what_it_blocks(tmp_path, check):
    mevis(tmp_path)
    frames = tmp_path / "data" / "train" / "JPEGImages"
    (frames / "train_1" / "00003.jpg").unlink()
    (frames / "train_2" / "00002.jpg").write_bytes((frames / "train_2" / "00002.jpg").read_bytes()[:200])
    status, out = check("MeViS")
    assert status == 1
    assert "1 of 6 frames missing" in out and "00003.jpg" in out
    assert "train_2, frame 00002" in out and "not a readable image" in out
    assert "train: NO validate: yes submit: yes" in out
    status, out = check("MeViS", "--fast")  # looks at names, and at the first frame only
    assert "1 of 6 frames missing" in out and "frame 00002" not in out


def test_a_reader_refuses_in_the_same_words(tmp_path, check):
    from rvos_lightning.data.problems import Refused
    from rvos_lightning.data.readers.mevis import MeViSReader

    mevis(tmp_path)
    (tmp_path / "data" / "valid_u" / "mask_dict.json").unlink()
    with pytest.raises(Refused) as caught:
        MeViSReader(tmp_path / "data", "valid_u")
    status, out = check("MeViS")
    assert status == 1 and "valid_u: cannot be opened" in out and "train: yes validate: NO submit: yes" in out
    assert caught.value.problems[0].what in out


def test_masks_that_do_not_fit_and_empty_expressions(tmp_path, check):
    mevis(tmp_path)
    folder = tmp_path / "data" / "valid_u"
    for t in range(6):
        write_picture(folder / "JPEGImages" / "valid_u_1" / f"{t:05d}.jpg", np.zeros((30, 40, 3), np.uint8))
    path = folder / "meta_expressions.json"
    content = json.loads(path.read_text())
    content["videos"]["valid_u_2"]["expressions"]["0"]["exp"] = "  "
    write_json(path, content)
    status, out = check("MeViS")
    assert status == 1 and "empty expression" in out and "valid_u_2, item 0" in out
    assert "24x37 pixels (height x width), the frame 30x40" in out


def test_training_videos_that_are_scored_too(tmp_path, check):
    for split in ("train", "valid_u", "valid"):
        referring.mevis(tmp_path / "data", make_scene(), split, hidden=split == "valid")
    assert "2 videos are in both" in check("MeViS", "--fast")[1]


def test_palette_masks(tmp_path, check):
    promptable.mose(tmp_path / "data", make_scene(("a", "b")))
    assert check("MOSE")[0] == 0
    masks = tmp_path / "data" / "train" / "Annotations"
    (masks / "a" / "00002.png").unlink()
    write_palette(masks / "b" / "00001.png", np.ones((5, 5), np.uint8))
    status, out = check("MOSE")
    assert status == 1 and "1 of 6 masks missing, the first: a/00002.png" in out
    assert "b/00001.png: the mask has 5x5 pixels" in out


def test_wrong_usage(tmp_path, check):
    mevis(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["-c", str(tmp_path / "none.yaml")])
    assert caught.value.code == 2


def test_every_disk_configuration_parses_and_names_its_missing_files(tmp_path, monkeypatch, capsys, root):
    monkeypatch.setenv("RVOS_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "1000")
    for path in sorted((root / "configs" / "data").glob("*.yaml")):
        if "RVOS_DATA" in path.read_text():
            assert main(["-c", str(path), "--fast"]) == 1, path
            out = capsys.readouterr().out
            assert "missing" in out and "NO" in out, path


def test_a_mixture_is_examined_source_by_source(tmp_path, monkeypatch, capsys, root):
    from layouts import refer

    for name, partition in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        refer.refcoco(tmp_path / "coco", name, partition, rename={"testA": "val", "testB": "test"})
    monkeypatch.setenv("RVOS_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")  # a long path must not wrap the words sought below
    configuration = str(root / "configs" / "data" / "refcoco_mix.yaml")
    assert main(["-c", configuration]) == 0
    assert "refcocog_umd train: 1 videos, 2 items" in capsys.readouterr().out
    refer.refcoco(tmp_path / "coco", "refcoco+", rename={"testA": "val"})  # its test is left, half of it
    assert main(["-c", configuration]) == 0
    refer.refcoco(tmp_path / "coco", "refcoco+")  # no val
    assert main(["-c", configuration]) == 1
    assert "nothing in it" in capsys.readouterr().out
