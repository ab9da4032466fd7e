"""The package as a library: load a run, segment films, streams and arrays; masks are those of the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from noise import noisy
from PIL import Image

import rvos_lightning
from rvos_lightning.data.reader import DataError

ROOT = Path(__file__).parents[1]
HORSE = ROOT / "tests" / "data" / "horsejump" / "frames"
FIT = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "1",
       "--trainer.accelerator", "cpu", "--data.batch_size", "1", "--trainer.num_sanity_val_steps", "0"]  # fmt: skip


def fitted(name, folder):
    from rvos_lightning.run.cli import main

    main(["fit", "-c", str(ROOT / f"configs/{name}.yaml"), *FIT, "--trainer.default_root_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return noisy(fitted("tiny", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def clicked(tmp_path_factory):
    return fitted("sam_i2v", tmp_path_factory.mktemp("sam_i2v"))


def joined(windows):
    return np.concatenate([window.masks for window in windows], 1)


def test_importing_the_package_is_light():
    code = "import sys, rvos_lightning; dir(rvos_lightning); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"
    assert {"load", "Model", "Clip", "j_and_f"} <= set(dir(rvos_lightning))


def test_masks_are_those_of_predict(tiny, tmp_path):
    from rvos_lightning.run.cli import main

    said = ["the brown horse", "the rider"]
    main(["predict", "-c", str(ROOT / "configs/tiny.yaml"), "--model.weights", str(tiny / "checkpoints/best.ckpt"),
          "--data", "rvos_lightning.data.VideoFiles", "--data.path", str(HORSE), "--data.expressions",
          json.dumps(said), "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"])  # fmt: skip
    model = rvos_lightning.load(tiny)
    windows = list(model.segment(HORSE, said))
    masks = joined(windows)
    names = [name for window in windows for name in window.frames]
    for position, name in enumerate(names):
        palette = np.array(Image.open(next(tmp_path.rglob(f"masks/{name}.png"))))
        assert (palette > 0).tolist() == masks[:, position].any(0).tolist()
    assert 0.02 < masks.mean() < 0.98


def test_a_stream_an_array_and_a_folder_give_the_same_masks(tiny):
    model = rvos_lightning.load(tiny)
    pixels = np.stack([np.array(Image.open(path)) for path in sorted(HORSE.glob("*.jpg"))])
    folder = joined(model.segment(HORSE, "the horse", window=4))
    assert (joined(model.segment(pixels, "the horse", window=4)) == folder).all()
    assert (joined(model.stream(iter(pixels), "the horse", window=4)) == folder).all()
    assert folder.shape == (1, len(pixels), *pixels.shape[1:3])


def test_a_camera_that_changes_its_size_is_named_in_any_window(tiny):
    pictures = [np.zeros((48, 64, 3), np.uint8), np.zeros((24, 64, 3), np.uint8)]
    stream = rvos_lightning.load(tiny).stream(pictures, "the rider")
    assert next(stream).masks.shape == (1, 1, 48, 64)
    with pytest.raises(DataError, match=r"got uint8 \[24, 64, 3\] after \[48, 64, 3\]"):
        next(stream)


def test_clicks_and_a_correction_in_mid_stream_change_what_follows(clicked):
    model = rvos_lightning.load(clicked)
    pixels = [np.array(Image.open(path)) for path in sorted(HORSE.glob("*.jpg"))]
    start = [{"object": "horse", "frame": 0, "clicks": [[35, 45]]}]
    more = {"object": "horse", "frame": 4, "clicks": [[60, 15]], "labels": [0]}
    plain = joined(model.stream(iter(pixels), prompts=start, window=2))
    beforehand = joined(model.stream(iter(pixels), prompts=[*start, more], window=2))
    stream = model.stream(iter(pixels), prompts=start, window=2)
    first = [next(stream)]
    stream.correct(more)
    with pytest.raises(DataError, match="frame 1 was segmented already; frames from 2 on"):
        stream.correct({**more, "frame": 1})
    late = joined([*first, *stream])
    assert (late == beforehand).all() and (late[:, :2] == plain[:, :2]).all()
    state = model.network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.network.state_dict().items())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.segment(HORSE), "either expressions"),
        (lambda m: m.segment(HORSE, [" "]), "expression is empty"),
        (lambda m: m.segment("nothing.mp4", "a horse"), "nothing.mp4: no such file"),
        (lambda m: list(m.stream([], "a horse")), "no frames came"),
        (lambda m: list(m.stream([np.zeros((8, 8), np.uint8)], "a horse")), r"uint8 \[height, width, 3\]"),
        (lambda m: m.segment(HORSE, "a horse", window=-1), "at least 1 frame"),
    ],
)
def test_bad_input_is_one_clear_error(tiny, call, says):
    with pytest.raises(DataError, match=says):
        call(rvos_lightning.load(tiny))


@pytest.mark.parametrize("recipe", ["tiny", "samwise", "sgmg", "sa2va", "clip_sam", "clip_sam_video"])
def test_clicks_for_a_network_that_reads_are_one_clear_error(recipe):
    model = rvos_lightning.load(ROOT / f"configs/{recipe}.yaml", overrides=["--data.size", "96"])
    pictures = np.zeros((2, 96, 96, 3), np.uint8)
    with pytest.raises(ValueError, match=r"segments by sentences.*give --data.expressions"):
        list(model.segment(pictures, prompts=[{"object": "horse", "frame": 0, "clicks": [[35, 45]]}]))


def test_loading_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="a recipe such as"):
        rvos_lightning.load(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("model: {}\n")
    with pytest.raises(FileNotFoundError, match="neither best.ckpt nor last.ckpt"):
        rvos_lightning.load(tmp_path)
