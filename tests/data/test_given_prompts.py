"""Clicks, boxes and masks in a JSON file or a flag: what the user says when, through `predict`, and clear refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rvos_lightning.core.types import Clip
from rvos_lightning.data import VideoFiles
from rvos_lightning.data.reader import DataError

CLICK = {"object": "dog", "frame": 0, "clicks": [[8, 6]]}


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Five frames of 16 x 12 pixels."""
    folder = tmp_path / "walk"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(np.full((12, 16, 3), 40 * i, np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def clip_of(frames: Path, prompts: str | list[dict[str, Any]]) -> Clip:
    (batch,) = VideoFiles(str(frames), prompts=prompts, size=64, resize="squash").predict_dataloader()
    assert batch.targets is None
    return batch.clip


def test_each_act_is_told_once_and_in_time(frames: Path, tmp_path: Path) -> None:
    mask = np.zeros((12, 16), np.uint8)
    mask[3:9, 4:12] = 255
    Image.fromarray(mask).save(tmp_path / "cup.png")
    entries = [
        {"object": "dog", "frame": 1, "clicks": [[8, 6], [0, 0]], "labels": [1, 0]},
        {"object": "ball", "frame": 0, "box": [4, 3, 12, 9]},
        {"object": "cup", "frame": 0, "clicks": [[5, 5]]},
        {"object": "cup", "frame": 0, "mask": "cup.png"},
        {"object": "dog", "frame": 3, "clicks": [[4, 6]], "labels": [0]},
        {"object": "ball", "frame": 4, "mask": "cup.png"},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(entries))
    clip = clip_of(frames, str(tmp_path / "prompts.json"))
    assert [meta.item for meta in clip.meta] == ["dog", "ball", "cup"] and clip.expressions is None
    user, logits = clip.user, torch.zeros(12, 16)
    (dog,), ball, (cup,) = (user.first_prompt(i) for i in range(3))
    assert dog.frame == 1 and dog.points.tolist() == [[0.5, 0.5], [0, 0]] and dog.labels.tolist() == [1, 0]
    assert ball[0].points.tolist() == [[0.25, 0.25], [0.75, 0.75]] and ball[0].labels.tolist() == [2, 3]
    assert ball[1].frame == 4 and torch.equal(cup.mask, torch.from_numpy(mask > 0))
    assert user.correct(0, 1, logits) is None
    assert user.correct(0, 3, logits).labels.tolist() == [0] and user.correct(0, 3, logits) is None
    assert user.correct(2, 0, logits).labels.tolist() == [1]  # a click on the frame of a mask corrects it


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("dog", "expected an object with"),
        ({"object": "dog", "frame": 0}, "exactly one of clicks, box, mask"),
        ({**CLICK, "box": [1, 2, 3, 4]}, "exactly one of"),
        ({**CLICK, "frame": -1}, "'frame' must be a number from 0, not -1"),
        ({**CLICK, "frame": "3"}, "'frame' must be a number"),
        ({**CLICK, "frame": 9}, "frame 9, but walk has frames 0 to 4"),
        ({**CLICK, "lables": [1]}, "unknown key 'lables'"),
        ({**CLICK, "labels": [1, 0]}, "1 clicks but 2 labels"),
        ({**CLICK, "labels": [2]}, "'labels' must be a list of 1"),
        ({**CLICK, "clicks": [8, 6]}, r"'clicks' must be a list of \[x, y\]"),
        ({**CLICK, "clicks": [[80, 6]]}, r"\(80, 6\) lies outside walk, 16 x 12 pixels"),
        ({"frame": 0, "clicks": [[8, 6]]}, "no 'object'"),
        ({"object": "dog", "frame": 0, "box": [9, 2, 3, 4]}, "left < right"),
        ({"object": "dog", "frame": 0, "mask": "nowhere.png"}, "nowhere.png cannot be read"),
        ({**CLICK, "video": "run"}, "'video' must be one of walk"),
    ],
)
def test_faults_are_named(frames: Path, entry: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.prompts: entry 1: .*{message}"):
        clip_of(frames, [CLICK, entry])


def test_bad_files_and_doubled_wishes_are_refused(frames: Path, tmp_path: Path) -> None:
    for text, message in (("[{", "not valid JSON"), ("{}", "expected a list"), ("[]", "expected a list")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=rf"bad\.json: {message}"):
            clip_of(frames, str(tmp_path / "bad.json"))
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        clip_of(frames, str(tmp_path / "absent.json"))
    Image.fromarray(np.tri(6, dtype=np.uint8) * np.uint8(255)).save(tmp_path / "six.png")
    with pytest.raises(DataError, match="six.png has 6 x 6 pixels, walk 16 x 12"):
        clip_of(frames, [{"object": "dog", "frame": 0, "mask": str(tmp_path / "six.png")}])
    with pytest.raises(DataError, match="not both"):
        VideoFiles(str(frames), ["the dog"], prompts=[CLICK]).predict_dataloader()


def test_predict_writes_a_mask_for_every_object(frames: Path, run: Any, tmp_path: Path) -> None:
    entries = [
        {"object": "dog", "frame": 0, "clicks": [[8, 6]]},
        {"object": "ball", "frame": 1, "box": [4, 3, 12, 9]},
        {"object": "dog", "frame": 2, "clicks": [[2, 2]], "labels": [0]},
    ]
    run("predict", "-c", "configs/sam_i2v.yaml", "--untrained", "--data", "VideoFiles", "--data.path", frames,
        "--data.prompts", json.dumps(entries), "--data.size", "64", "--data.resize", "squash",
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")  # fmt: skip
    folder = tmp_path / "run" / "predictions" / "walk"
    record = json.loads((folder / "record.json").read_text())
    assert [entry["expression"] for entry in record["expressions"]] == ["dog", "ball"]
    assert len(list((folder / "masks").glob("*.png"))) == 5 and record["frames"] == 5
    assert record["expressions"][1]["area"][0] == 0  # not there before its box


@pytest.mark.parametrize("as_file", [False, True])
def test_names_stay_as_they_are_typed(frames: Path, tmp_path: Path, as_file: bool) -> None:
    """A parser that reads texts again makes "01" the number 1, and one object of "01" and "1"."""
    from rvos_lightning.run.data_config import open_data

    names = ["01", "1", "1e3", "no", "null", "0x10", "a: b", 7]
    entries = [{**CLICK, "object": name} for name in names]
    words = ["--data", "VideoFiles", "--data.path", str(frames), "--data.prompts", json.dumps(entries)]
    if as_file:
        content = {"data": {"class_path": "VideoFiles", "init_args": {"path": str(frames), "prompts": entries}}}
        (tmp_path / "data.yaml").write_text(json.dumps(content))
        words = ["-c", str(tmp_path / "data.yaml")]
    reader = open_data(words, "check", lambda parser: None).data.reader("predict")
    assert [item.id for item in reader.items] == [str(name) for name in names]


def test_a_list_that_is_not_closed_is_no_file(frames: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.prompts: .{1,70} is no list of entries, such as"):
        clip_of(frames, json.dumps([CLICK] * 9)[:-1])
