"""What a file declares is compared with a limit before memory is taken; every guard tried with harmless input."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as library

from rvos_lightning.data import limits
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources import rle
from rvos_lightning.data.sources.image_files import decode_ids, decode_rgb, image_size


def test_a_limit_is_raised_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    limits.within("json_depth", 64, "a.json")
    with pytest.raises(DataError, match=r"a\.json: declares 65 levels.*export RVOS_JSON_DEPTH=65"):
        limits.within("json_depth", 65, "a.json")
    monkeypatch.setenv("RVOS_JSON_DEPTH", "65")
    limits.within("json_depth", 65, "a.json")
    monkeypatch.setenv("RVOS_JSON_DEPTH", "many")
    with pytest.raises(DataError, match="RVOS_JSON_DEPTH=many: expected a number"):
        limits.limit("json_depth")


@pytest.mark.parametrize("verb", ["check", "convert"])
def test_a_limit_is_raised_by_a_flag(verb: str, tmp_path, monkeypatch, capfd) -> None:
    """For one command, in verbs with a configuration and without; afterwards it is what it was."""
    from rvos_lightning.run.cli import main

    monkeypatch.setenv("RVOS_PICTURE_PIXELS", "100")
    words = {
        "check": ["--data", "ClipWithMasks", "--data.root", str(tmp_path / "nothing")],
        "convert": ["samwise", str(tmp_path / "nothing.pth"), str(tmp_path / "o.safetensors")],
    }[verb]
    seen = []

    def note(words) -> None:
        seen.append((limits.limit("picture_pixels"), any("limits" in word for word in words)))

    monkeypatch.setattr("rvos_lightning.run.cli.import_module", lambda name: SimpleNamespace(main=note))
    main([verb, *words, "--limits.picture_pixels", "5e3"])
    assert seen == [(5000, verb == "check")] and limits.limit("picture_pixels") == 100
    for flag, said in (("picture_pixel=5", "nearest   picture_pixels"), ("picture_pixels=none", "a number from 1")):
        with pytest.raises(SystemExit) as caught:
            main([verb, *words, f"--limits.{flag}"])
        assert caught.value.code == 2 and said in capfd.readouterr().err


def test_a_limit_in_a_file_and_its_message(tmp_path, root, monkeypatch, capfd) -> None:
    from rvos_lightning.run.cli import main

    (tmp_path / "small.yaml").write_text("limits: {picture_pixels: 99}\n")
    monkeypatch.chdir(root)
    data = ["--data", "ClipWithMasks", "--data.root", "tests/data/horsejump"]
    monkeypatch.setenv("COLUMNS", "2000")
    assert main(["check", "-c", str(tmp_path / "small.yaml"), *data]) == 1
    said = capfd.readouterr().out
    assert "more than 99. The file is damaged; if it is meant: --limits.picture_pixels" in said
    assert main(["check", "-c", str(tmp_path / "small.yaml"), *data, "--limits.picture_pixels", "100000"]) == 0


@pytest.mark.parametrize("read", [decode_rgb, decode_ids, image_size])
@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_pictures_beyond_the_limit(read, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(data, suffix)
    monkeypatch.setenv("RVOS_PICTURE_PIXELS", "599")
    with pytest.raises(DataError, match=r"big: declares 600 pixels of one picture or mask, more than 599"):
        read(data.getvalue(), "big")
    monkeypatch.setenv("RVOS_PICTURE_PIXELS", "600")
    if (read, suffix) != (decode_ids, "jpeg"):
        assert read(data.getvalue(), "big") is not None


def test_runs_lie_within_the_picture() -> None:
    """Of changed strings, those that measure as filling the picture decode to what the library's own runs say."""
    random.seed(0)
    wrong = 0
    for round_ in range(300):
        height, width = random.randint(1, 9), random.randint(1, 9)
        mask = np.asfortranarray(np.random.default_rng(round_).random((height, width)) < 0.5, dtype=np.uint8)
        counts = bytearray(library.encode(mask)["counts"])
        for _ in range(random.randint(0, 2)):
            counts[random.randrange(len(counts))] = random.randint(40, 120)
        data = bytes(counts[: random.randint(1, len(counts))]) if round_ % 3 == 0 else bytes(counts)
        (pixels,), (area,) = rle.measure([data])
        out = np.full((height, width), 7, np.uint8)
        if pixels == height * width:
            rle.union_into([{"size": [height, width], "counts": data}], out)
            assert out.max() <= 1 and out.sum() == area and sum(rle.runs(data)) == pixels
        else:
            wrong += 1
            with pytest.raises(DataError):
                rle.union_into([{"size": [height, width], "counts": data}], out)
    assert 100 < wrong < 290
    several = [library.encode(np.asfortranarray(np.eye(n, dtype=np.uint8)))["counts"] for n in (1, 4, 7)]
    assert rle.measure([several[0], b"", several[1], several[2]])[0].tolist() == [1, 0, 16, 49]


@pytest.mark.parametrize(
    "value",
    [
        {"size": [4, 4], "counts": [16, 1.5]},
        {"size": [4, 4], "counts": [-3, 19]},
        {"size": [4, 4], "counts": [True, 15]},
        {"size": [4.0, 4], "counts": "0"},
        {"size": ["4", 4], "counts": "0"},
        {"size": [4, 4], "counts": 16},
        {"size": [4], "counts": "0"},
        {"size": [4, 4], "counts": {"a": 1}},
        [["0", 1, 2, 3, 4, 5]],
        [[None, 1, 2, 3, 4, 5]],
        [[[0], 1, 2, 3, 4, 5]],
        [[float("nan"), 1, 2, 3, 4, 5]],
        [[100.0, 1, 2, 3, 4, 5]],
        [[0, 1, 2, 3, 4, 10**30]],
    ],
)
def test_segmentations_that_are_none(value) -> None:
    with pytest.raises(DataError, match=r"^a\.json: annotation 1: "):
        rle.segmentation(value, (4, 4), "a.json: annotation 1")


def test_polygons_at_the_edge_are_read() -> None:
    found = rle.segmentation([[-1, -1, 3, -1, 3, 5.5, -1, 5]], (4, 4), "a")
    out = np.zeros((4, 4), np.uint8)
    rle.union_into([found], out)
    assert torch.equal(torch.from_numpy(out[:, :3]), torch.ones(4, 3, dtype=torch.uint8))
