"""One's own videos: what is read, what an annotator may leave out, and what is refused with the remedy."""

import json
import shutil

import numpy as np
import pytest
import torch
from films import write_film
from layouts import make_scene, referring
from PIL import Image

import rvos_lightning.data as data
from rvos_lightning.data.labels.own import read_annotations, write_annotations
from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.own import OwnReader
from rvos_lightning.run.check import main


@pytest.fixture
def root(tmp_path):
    return referring.own(tmp_path / "own", make_scene(), ("train", "val"))


def change(root, edit, split="val", video="one"):
    path = root / split / "annotations.json"
    content = json.loads(path.read_text())
    edit(content["videos"][video])
    path.write_text(json.dumps(content))
    return root


def test_overlapping_objects_and_frames_without_truth(root):
    scene, reader = make_scene(), OwnReader(root, "val")
    assert [video.id for video in reader.videos] == ["one", "two"] and reader.videos[0].size == (24, 37)
    a, b = scene.masks["one"][1], scene.masks["one"][2]
    assert (a & b).any()
    masks, annotated = reader.read_masks(0, range(6))
    assert annotated.all() and np.array_equal(masks.numpy(), a)
    masks, annotated = reader.read_masks(1, [4, 0, 1])
    assert annotated.tolist() == [True, True, False] and not masks[0].any() and not masks[2].any()
    assert np.array_equal(masks[1].numpy(), b[0])
    both, annotated = reader.read_masks(2, range(6))
    assert annotated.tolist() == [True, False] * 3  # known only where both were looked for
    assert np.array_equal(both[::2].numpy(), (a | b)[::2])
    assert np.array_equal(reader.read_instances(2, [0, 2]).numpy(), np.stack([a[[0, 2]], b[[0, 2]]]))
    nothing, annotated = reader.read_masks(3, range(6))
    assert annotated.all() and not nothing.any() and reader.items[3].no_target
    assert [reader.visible(i).tolist() for i in (1, 2)] == [[True, False, True, False, False, False]] + [
        [True, False] * 3
    ]
    assert reader.items[0].subsets == ("by_anna",) and reader.items[2].subsets == ("by_anna", "multi")
    assert reader.items[1].facts.category == "box" and reader.items[0].facts.fps == 12.5


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("what", ["frames", "masks", "masks/one", "masks/one/a"])
def test_any_folder_may_be_an_archive(root, kind, what):
    plain = OwnReader(root, "val")
    wanted = [plain.read_masks(item, range(6))[0] for item in range(4)]
    seen = [plain.visible(item).tolist() for item in range(4)]
    folder = root / "val" / what
    shutil.make_archive(str(folder), kind, folder.parent, folder.name)
    shutil.rmtree(folder)
    packed = OwnReader(root, "val")
    assert all(torch.equal(packed.read_masks(item, range(6))[0], wanted[item]) for item in range(4))
    assert [packed.visible(item).tolist() for item in range(4)] == seen and any(seen[0])


def test_objects_for_promptable_systems(root):
    reader = OwnReader(root, "val", items="objects", name="mine")
    assert [(item.video, item.id, item.expression) for item in reader.items] == [
        (0, "a", None), (0, "b", None), (1, "a", None), (1, "b", None),
    ]  # fmt: skip
    assert reader.name == "mine" and reader.items[0].subsets == ()


def test_a_film_and_png_frames(tmp_path):
    scene = make_scene(("one", "two"))
    root = referring.own(tmp_path, scene, ("val",))
    frames = root / "val" / "frames"
    shutil.rmtree(frames / "one")
    write_film(frames / "one.mp4", range(6), scene.size, pix_fmt="yuv444p")
    for path in (frames / "two").iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()

    def edit(entry):
        del entry["frames"]
        entry["film"] = "one.mp4"

    reader = OwnReader(change(root, edit), "val")
    assert reader.videos[0].frames == tuple(f"{n:05d}" for n in range(6)) and reader.videos[0].size == scene.size
    assert reader.read_frames(0, [5, 0]).shape == reader.read_frames(1, [0, 5]).shape
    assert np.array_equal(reader.read_frames(1, [3])[0].permute(1, 2, 0), Image.open(frames / "two" / "00003.png"))


def test_hidden_truth(tmp_path):
    root = referring.own(tmp_path, make_scene(), ("test",), hidden=("test",))
    reader = OwnReader(root, "test")
    assert reader.read_masks(0, [0]) is None and reader.items[0].objects is None


def test_a_changed_list_is_another_index(root):
    before = OwnReader(root, "val")
    change(root, lambda entry: entry.update(objects=dict(reversed(entry["objects"].items()))))
    after = OwnReader(root, "val")
    assert before.visible(1).tolist() == after.visible(1).tolist() == [True, False, True, False, False, False]


def save(root, values, name="one/a/00001.png"):
    Image.fromarray(np.asarray(values, np.uint8)).save(root / "val" / "masks" / name)


FAULTS = {
    "soft edges": (lambda r: save(r, np.arange(24 * 37).reshape(24, 37) % 3), "one/a: frame 00001: holds more"),
    "other size": (lambda r: save(r, np.ones((24, 36))), r"the mask has 24x36 pixels .*, the frame 24x37"),
    "numbered from 1": (
        lambda r: (r / "val/masks/one/a/00000.png").rename(r / "val/masks/one/a/00006.png"),
        "numbered from 1, the frames from 0: rename them to 00000.png to 00005.png",
    ),
    "unknown object": (lambda r: shutil.copytree(r / "val/masks/one/a", r / "val/masks/one/c"), "one/c: neither an"),
    "unknown video": (lambda r: (r / "val/masks/three").mkdir(), "three: no video of annotations.json"),
    "no masks": (lambda r: shutil.rmtree(r / "val/masks/two/b"), "two/b: no mask on any frame, but an expression"),
    "no folder": (lambda r: shutil.rmtree(r / "val/masks"), "missing: the masks of its objects"),
    "no frames": (lambda r: shutil.rmtree(r / "val/frames/one"), "no picture 00000.jpg .* annotations.json lists"),
    "no file": (lambda r: (r / "val/annotations.json").unlink(), "rvos sample --layout own"),
    "two kinds": (
        lambda r: shutil.copy(r / "val/frames/one/00003.jpg", r / "val/frames/one/00003.png"),
        "frame 00003 is there as .jpg and .png",
    ),
    "typing error": (lambda r: change(r, lambda e: e.update(expresions={})), "unknown field 'expresions'"),
    "object that is none": (
        lambda r: change(r, lambda e: e["expressions"]["0"].update(objects=["dog"])),
        "names 'dog', but the video has the objects: 'a', 'b'",
    ),
    "no sentence": (
        lambda r: [change(r, lambda e: e.update(expressions={}), video=video) for video in ("one", "two")],
        "no expression in any of its 2 videos.*--data.items objects",
    ),
    "empty words": (lambda r: change(r, lambda e: e["expressions"]["0"].update(exp=" ")), "'exp' is empty"),
    "climbing": (lambda r: change(r, lambda e: e["objects"].update({"../x": {}})), "would leave the data root"),
    "slash": (lambda r: change(r, lambda e: e["objects"].update({"x/y": {}})), "no plain name"),
    "neither": (lambda r: change(r, lambda e: e.pop("frames")), "give either `frames` .* or `film`"),
    "no such film": (
        lambda r: change(r, lambda e: (e.pop("frames"), e.update(film="x.mp4"))), "missing: the film of video one"
    ),
    "frame twice": (lambda r: change(r, lambda e: e["frames"].append("00000")), "lists a frame twice"),
    "frames per second": (lambda r: change(r, lambda e: e.update(fps=0)), "'fps' must be a number above 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_meant_is_refused(root, name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    damage, words = FAULTS[name]
    damage(root)
    with pytest.raises((DataError, Refused), match=words):
        reader = OwnReader(root, "val")
        reader.read_masks(0, range(6))
    status = main(["-c", "configs/data/own.yaml", "--data.root", str(root), "--data.test_split", "null",
                   "--data.predict_split", "null"])  # fmt: skip
    out = capsys.readouterr().out
    assert status == 1 and "validate: NO" in out and "Traceback" not in out


def test_a_missing_split_names_the_flag(root):
    with pytest.raises(
        Refused, match=r"missing: split test .*--data.test_split NAME, null for none.*holds: train, val"
    ):
        OwnReader(root, "test")


def test_a_lost_mask_and_pictures_not_listed_are_said(root, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    (root / "val/masks/one/a/00003.png").unlink()
    shutil.copy(root / "val/frames/one/00000.jpg", root / "val/frames/one/00009.jpg")
    words = ["--data.train_split", "null", "--data.test_split", "null", "--data.predict_split", "null"]
    assert main(["-c", "configs/data/own.yaml", "--data.root", str(root), *words]) == 0
    out = capsys.readouterr().out
    assert "masks 1 frame apart, but none after 00002" in out and "1 pictures are not in `frames`" in out


def test_the_file_is_written_as_it_is_read(root, tmp_path):
    videos = read_annotations(root / "val" / "annotations.json")
    write_annotations(tmp_path / "again.json", iter(videos))
    assert read_annotations(tmp_path / "again.json") == videos


def test_the_example_is_sound(tmp_path, capsys):
    from rvos_lightning.run.cli import main as rvos

    assert rvos(["sample", "--layout", "own", "--out", str(tmp_path / "x"), "--videos", "2", "--size", "48"]) in (
        0,
        None,
    )
    assert rvos(["check", "-c", "configs/data/own.yaml", "--data.root", str(tmp_path / "x")]) == 0
    out = capsys.readouterr().out
    assert "train: yes" in out and "remedy" not in out  # no table: nothing was found
    reader = data.OwnVideos(tmp_path / "x").open("train")
    planes = [reader.truth.read(reader.videos[0], item, range(8), (48, 48))[0] for item in reader.items]
    assert len(planes) == 4 and {item.subsets[0] for item in reader.items} == {"by_anna", "by_ben"}


def test_the_doctor_says_yes_to_no_split_that_nobody_named(root, capsys):
    null = [word for split in ("train", "test", "predict") for word in (f"--data.{split}_split", "null")]
    words = ["-c", "configs/data/own.yaml", "--data.root", str(root), *null]
    assert main(words) == 0
    assert "train: no split   validate: yes   submit: no split" in capsys.readouterr().out
    assert main([*words, "--data.val_split", "null"]) == 1
    assert "train: no split   validate: no split   submit: no split" in capsys.readouterr().out


def test_a_wrong_value_of_a_data_set_is_named_in_full(root, capsys):
    with pytest.raises(SystemExit):
        main(["-c", "configs/data/own.yaml", "--data.root", str(root), "--data.items", "sentences"])
    said = capsys.readouterr().err
    assert "wrong value for data.items\n  value     sentences\n  expected  one of: expressions, objects" in said


@pytest.mark.parametrize("name", ["00003.PNG", "00003.tif"])
def test_a_mask_of_another_suffix_is_not_taken_for_another_number(root, name):
    (root / "val/masks/one/a/00003.png").rename(root / "val/masks/one/a" / name)
    with pytest.raises(Refused, match=rf"the first: {name}.*its name ends with \.png in small letters"):
        OwnReader(root, "val")
