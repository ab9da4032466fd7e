"""Pictures that one set trains on and another is scored with: refused, left out, or allowed and said, at every verb."""

import json

import pytest
import torch
import yaml
from layouts import refer as layouts

from rvos_lightning.data.mixture import Mixture
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.grefcoco import GRefCOCO
from rvos_lightning.data.readers.ref_zom import RefZOM
from rvos_lightning.data.readers.refcoco import RefCOCO
from rvos_lightning.data.shared_pictures import Pictures
from rvos_lightning.run.cli import main

SAID = "1 of the 1 pictures of refcocog_umd val are in refcoco_unc train, e.g. COCO 1"


@pytest.fixture
def root(tmp_path):
    """RefCOCO trains on picture 1 and validates on 2, RefCOCOg the other way round."""
    layouts.refcoco(tmp_path, rename={"testB": "val"})
    return layouts.refcoco(tmp_path, "refcocog", "umd", rename={"train": "val", "testA": "train", "testB": "train"})


def overlay(root, name, **data):
    path = root / f"{name}.yaml"
    path.write_text("# made data\n" + yaml.safe_dump({"data": data}))
    return path


def one(root, name="refcoco", partition="unc", **options):
    shared = {"clip_length": 1, "size": 96, "batch_size": 1, "predict_split": None}
    return {"class_path": "rvos_lightning.data.RefCOCO",
            "init_args": {"root": str(root), "name": name, "partition": partition, **shared, **options}}  # fmt: skip


def mixed(root, **options):
    sources = {"a": one(root), "b": one(root, "refcocog", "umd", test_split="val")}
    return {"class_path": "rvos_lightning.data.Mixture",
            "init_args": {"sources": sources, "batch_size": 1, **options}}  # fmt: skip


def run(verb, root, config, *words):
    """What a small run on made data is refused with; None where it is not."""
    folder = root / "runs" / str(len(list(root.glob("runs/*"))))
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
    words = (
        "-c",
        "configs/clip_sam.yaml",
        "-c",
        str(config),
        *words,
        *quiet,
        "--trainer.default_root_dir",
        str(folder),
    )
    try:
        main([verb, *words])
    except SystemExit as stop:
        return str(stop.code)
    return None


def test_training_on_what_another_set_is_scored_with_is_refused_and_validation_remembers(root, capsys):
    steps = ("--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "1",
             "--objectives.queries.points", "16")  # fmt: skip
    config = overlay(root, "mix", **mixed(root))
    said = run("fit", root, config, *steps)
    assert SAID in said and "are in refcocog_umd train, e.g. COCO 2" in said
    assert "--data.shared_pictures leave_out" in said and len(said.splitlines()) == 1
    assert not list(root.glob("runs/*/checkpoints/*.ckpt"))

    alone = overlay(root, "alone", **one(root))
    assert run("fit", root, alone, *steps) is None
    checkpoint = next(root.glob("runs/*/checkpoints/last.ckpt"))
    kept = torch.load(checkpoint, weights_only=True)["trained_pictures"]
    assert {name: ids.tolist() for name, ids in kept.items()} == {"refcoco_unc train": [1]}

    other = overlay(root, "other", **one(root, "refcocog", "umd", test_split="val"))
    for verb in ("validate", "test"):
        for words in (("--ckpt_path", str(checkpoint)), ("--model.weights", str(checkpoint))):
            assert SAID in run(verb, root, other, *words)
        assert run(verb, root, alone, "--ckpt_path", str(checkpoint)) is None  # its own val and test are clean
    assert SAID in run("fit", root, other, "--model.weights", str(checkpoint), *steps)  # what it starts from counts

    allowed = ("--data.shared_pictures", "allow")
    capsys.readouterr()
    assert run("validate", root, other, "--model.weights", str(checkpoint), *allowed) is None
    assert SAID in capsys.readouterr().out
    newest = max(root.glob("runs/*/scores.json"), key=lambda path: path.stat().st_mtime_ns)
    assert SAID in json.loads(newest.read_text())["val"]["rule"][-1]
    assert run("fit", root, config, *steps, *allowed) is None
    assert SAID in capsys.readouterr().out


def test_left_out_pictures_are_never_trained_on(tmp_path):
    layouts.refcoco(tmp_path, "refcocog", "google", rename={"testA": "train", "testB": "val"})  # objects are divided
    options = {"name": "refcocog", "partition": "google", "test_split": "val", "clip_length": 1, "size": 32}
    whole = RefCOCO(tmp_path, **options)
    assert {m.video for batch in whole.train_dataloader() for m in batch.clip.meta} == {"1", "2"}
    data = RefCOCO(tmp_path, shared_pictures="leave_out", **options)
    assert {m.video for batch in data.train_dataloader() for m in batch.clip.meta} == {"1"}
    assert data.pictures("train") == [Pictures("refcocog_google train", frozenset({1}))]


def test_a_mixture_leaves_out_what_any_source_is_scored_with(root):
    options = {"clip_length": 1, "size": 32}
    sources = {
        "a": RefCOCO(root, val_split=None, **options),
        "b": RefCOCO(root, "refcocog", "umd", val_split=None, test_split="val", **options),
    }
    assert [each.name for each in Mixture(sources).pictures("train")] == ["refcoco_unc train", "refcocog_umd train"]
    with pytest.raises(DataError, match="every picture of refcoco_unc train is left out"):
        Mixture(sources, shared_pictures="leave_out").train_clips()


def test_splits_of_every_layout_are_known_without_opening_them(tmp_path):
    layouts.grefcoco(tmp_path)
    layouts.ref_zom(tmp_path)
    layouts.refcoco_coco(tmp_path, "testA", "refcoco+")
    assert GRefCOCO(tmp_path).judged_pictures() == [Pictures("grefcoco val", frozenset({1, 2}))]
    assert RefZOM(tmp_path).judged_pictures() == [Pictures("ref_zom test", frozenset({1, 2}))]
    plus = RefCOCO(tmp_path, "refcoco+", layout="coco")
    assert plus.judged_pictures() == [Pictures("refcoco+_unc testA", frozenset({2}))]  # COCO's number, not the record's
    assert RefCOCO(tmp_path / "nowhere").judged_pictures() == []
