"""Every layout through its data module to typed batches."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from layouts import make_scene, promptable, recent, refer, referring

import rvos_lightning.data as data
from rvos_lightning.core.types import Batch


def sav(root, scene):
    promptable.sav_train(root, scene)
    return promptable.sav_val(root, scene)


def mevis(root, scene):
    for split in ("train", "valid_u"):
        referring.mevis(root, scene, split)
    return root


def revos(root, scene):
    referring.revos(root, scene, "train")
    return referring.revos(root, scene, "valid")


def davis(root, scene):
    for split in ("train", "val"):
        referring.davis_tree(root, scene, "Annotations", split)
    return root


def a2d(root, scene):
    """Video one is of the training split."""
    referring.a2d(root, scene, prepared=False)
    table = root / "Release" / "videoset.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line[:-1] + "0" if line.startswith("one") else line for line in lines))
    return root


def lvvis(root, scene):
    promptable.lvvis(root, scene, "train")
    return promptable.lvvis(root, scene, "val")


def lvos(root, scene):
    recent.lvos(root, scene, "train")
    return recent.lvos(root, scene, "val")


def long_rvos(root, scene):
    recent.long_rvos(root, scene, "train")
    return recent.long_rvos(root, scene, "valid")


def ref_sav(root, scene):
    recent.ref_sav(root, scene)
    return recent.ref_sav_eval(root, scene)


CASES = {
    "MeViS": (mevis, True, True),
    "RefYouTubeVOS": (referring.ref_youtube_vos, True, False),
    "RefDAVIS": (referring.ref_davis, False, True),
    "ReVOS": (revos, True, True),
    "A2DSentences": (a2d, True, True),
    "JHMDBSentences": (referring.jhmdb, False, True),
    "SAV": (sav, True, True),
    "DAVIS": (davis, True, True),
    "YouTubeVOS": (promptable.youtube_vos, True, False),
    "MOSE": (promptable.mose, True, False),
    "PUMaVOS": (promptable.pumavos, False, True),
    "LVVIS": (lvvis, True, True),
    "ESD": (promptable.esd, True, True),
    "SA1B": (promptable.sa1b, True, False),
    "LVOS": (lvos, True, True),
    "LongRVOS": (long_rvos, True, True),
    "YoURVOS": (recent.yourvos, False, True),
    "RefSAV": (ref_sav, True, True),
}


PROMPTABLE = ("SAV", "DAVIS", "YouTubeVOS", "MOSE", "PUMaVOS", "LVVIS", "ESD", "SA1B", "LVOS")


def build(name, tmp_path):
    options = {"batch_size": 2, "clip_length": 3, "size": 32, "items_per_video_eval": 8}
    if name in PROMPTABLE:
        options["simulate_user"] = data.SimulatedUser()
    return getattr(data, name)(CASES[name][0](tmp_path / "x", make_scene()), **options)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1]])
def test_training_batches(tmp_path, name):
    batch = next(iter(build(name, tmp_path).train_dataloader()))
    assert isinstance(batch, Batch) and batch.clip.frames.shape[1:3] == (3, 3)
    assert batch.targets.masks.shape[:2] == (2, 3) and batch.targets.masks.any()
    assert batch.targets.annotated.any(1).all()
    assert (batch.clip.expressions is None) == (name in PROMPTABLE)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2]])
def test_validation_batches(tmp_path, name):
    module = build(name, tmp_path)
    reader = module.read("val")
    seen = 0
    for batch in module.val_dataloader():
        whole = batch.clip.window(0, batch.clip.time)
        assert whole.frames.shape[1] == batch.clip.time
        targets = batch.targets.window(0, batch.clip.time)
        for meta, mask in zip(batch.clip.meta, targets.masks, strict=True):
            item = next(
                i for i, x in enumerate(reader.items) if x.id == meta.item and reader.videos[x.video].id == meta.video
            )
            expected = reader.read_masks(item, range(batch.clip.time))[0].numpy()
            height, width = meta.original_size
            np.testing.assert_array_equal(mask.numpy()[:, :height, :width], expected)
            seen += 1
    assert seen == len(reader.items)


def test_images_are_clips_of_any_length(tmp_path):
    module = data.RefCOCO(refer.refcoco(tmp_path), batch_size=2, clip_length=4, size=32, items_per_video=2)
    batch = next(iter(module.train_dataloader()))
    assert batch.clip.frames.shape[:3] == (2, 4, 3)
    assert len(batch.clip) == 4 and batch.targets.annotated.all()


def test_hidden_splits_have_no_targets(tmp_path):
    root = referring.mevis(tmp_path, make_scene(), "valid", hidden=True)
    batch = next(iter(data.MeViS(root, size=32).predict_dataloader()))
    assert batch.targets is None and len(batch.clip) == 4


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_data_configuration_says_what_it_is(path):
    text = path.read_text()
    head = text.split("data:")[0]
    assert head.startswith("# ") and yaml.safe_load(text)["data"]["class_path"].startswith("rvos_lightning.data.")
    if "RVOS_DATA" in text:
        assert all(word in head for word in ("Licence", "Layout", "Splits")), "a comment must state these"
