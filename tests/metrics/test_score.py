"""Scoring files equals scoring tensors."""

import csv
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import yaml
from made_masks import cut
from made_reader import PROTOCOLS, MadeReader

from rvos_lightning.data.reader import expected_items
from rvos_lightning.metrics.layouts import SubmissionError
from rvos_lightning.metrics.submission import MaskFolder
from rvos_lightning.run import score as scoring
from rvos_lightning.run.score import Options, main, score


def write(root, name, **kwargs):
    reader = MadeReader(name, **kwargs)
    folder = MaskFolder(root / name, name)
    for metas, masks in reader.windows(4):
        folder.write_all(metas, masks)
    return reader, folder


@pytest.mark.parametrize("name", ["mevis", "ref_youtube_vos", "ref_davis", "revos", "sav", "long_rvos"])
def test_files_score_like_tensors(name, tmp_path):
    reader, folder = write(tmp_path, name, annotated_every=2)
    direct = PROTOCOLS[name]()
    for number, part in enumerate(reader.parts):
        own = [meta for meta in expected_items(reader) if meta.video == reader.videos[number].id]
        for start in (0, 3):
            direct.update(cut(replace(part, meta=own), start, start + 3))
    expected = {key: float(value) for key, value in direct.compute().items()}
    for place in (folder.root, folder.finish(expected_items(reader))):
        got = score(reader, Options(place))
        assert {key: float(value) for key, value in got.compute().items()} == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("name", ["ref_davis", "mevis"])
def test_every_picture_is_decoded_once(name, tmp_path, monkeypatch):
    from PIL import Image

    reader, folder = write(tmp_path, name)
    whole = score(reader, Options(folder.root)).compute()
    opened, open_picture = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **how: opened.append(1) or open_picture(*args, **how))
    monkeypatch.setattr(scoring, "WINDOW_PIXELS", 1)  # a frame at a time: the same digits
    assert score(reader, Options(folder.root)).compute() == whole
    assert len(opened) == len(list(folder.root.rglob("*.png")))


@pytest.mark.parametrize("name", ["ref_davis", "mevis"])
def test_workers_change_nothing(name, tmp_path, capsys):
    """Scores to the last bit, rows, and what is said: of a folder, and of a zip, which every process opens itself."""
    from PIL import Image

    reader, folder = write(tmp_path, name)
    packed = folder.finish(expected_items(reader))
    first, *_, last = sorted(folder.root.rglob("*.png"))
    if name == "ref_davis":
        Image.fromarray(np.full(np.asarray(Image.open(first)).shape, 99, np.uint8)).save(first)
    last.unlink()
    for place in (folder.root, packed):
        alone = score(reader, Options(place, missing="empty"))
        said = capsys.readouterr().err
        together = score(reader, Options(place, missing="empty", workers=2))
        assert together.compute() == alone.compute() and together.table() == alone.table()
        assert capsys.readouterr().err == said
        assert place == packed or ("1 of " in said and ("99, the first in" in said) is (name == "ref_davis"))


def test_a_fault_in_a_worker_is_one_line(tmp_path, config, capsys):
    reader, folder = write(tmp_path, "mevis")
    sorted(folder.root.rglob("*.png"))[-1].write_bytes(b"no picture")
    command = ["-c", config(name="mevis"), "--predictions", str(folder.root)]
    assert main([*command, "--workers", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("refused: ") and "cannot be read" in line
    with pytest.raises(SystemExit):
        main([*command, "--workers", "-1"])
    assert "wrong value for workers" in capsys.readouterr().err


def test_missing_files_are_refused_or_empty(tmp_path):
    reader, folder = write(tmp_path, "mevis", annotated_every=2)
    (folder.root / "u/0/00005.png").unlink()  # not annotated, not needed
    assert score(reader, Options(folder.root)).compute()["j"] > 0
    (folder.root / "u/0/00010.png").unlink()
    with pytest.raises(SubmissionError, match=r"1 faults\n  missing u/0/00010.png"):
        score(reader, Options(folder.root))
    assert score(reader, Options(folder.root, missing="empty")).compute()["j"] > 0
    with pytest.raises(SubmissionError, match="no such folder or zip"):
        score(reader, Options(tmp_path / "nowhere"))


def test_masks_that_are_missing_are_counted_and_none_at_all_is_refused(tmp_path, capsys):
    reader, folder = write(tmp_path, "mevis")
    (folder.root / "u/0/00010.png").unlink()
    score(reader, Options(folder.root, missing="empty"))
    said = capsys.readouterr().err
    assert said.startswith("1 of ") and "missing and count as empty, first u/0/00010.png" in said
    (tmp_path / "other").mkdir()
    with pytest.raises(SubmissionError, match="missing u/0/00000.png"):
        score(reader, Options(tmp_path / "other", missing="empty"))


def test_a_zip_of_windows_is_read_and_other_capitals_are_named(tmp_path):
    reader, folder = write(tmp_path, "mevis")
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for path in folder.root.rglob("*.png"):
            member = zipfile.ZipInfo("x")
            member.filename, member.create_system = str(path.relative_to(folder.root)).replace("/", "\\"), 0
            archive.writestr(member, path.read_bytes())
    expected = score(reader, Options(folder.root)).compute()
    assert score(reader, Options(tmp_path / "windows.zip")).compute() == expected
    for path in folder.root.rglob("*.png"):
        path.rename(path.with_suffix(".PNG"))
    with pytest.raises(SubmissionError, match="names differ in capitals: it has u/0/00000.PNG"):
        score(reader, Options(folder.root))


@pytest.fixture
def config(tmp_path):
    def write_config(**init_args):
        data = {"class_path": "made_reader.MadeData", "init_args": init_args}
        path = tmp_path / "data.yaml"
        path.write_text(yaml.safe_dump({"data": data}))
        return str(path)

    return write_config


def test_command_line(tmp_path, config, capsys):
    _, folder = write(tmp_path, "mevis")
    table = tmp_path / "table.csv"
    command = ["-c", config(name="mevis"), "--predictions", str(folder.root)]
    assert main([*command, "--table", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "j_and_f " in printed and "(MeViS: mean over expressions" in printed
    assert len(list(csv.DictReader(table.open()))) == 9
    assert main([*command, "--protocol", "LongRVOS"]) == 0
    assert "t_iou" in capsys.readouterr().out
    assert main([*command, "--layout", "ref_youtube_vos"]) == 1
    assert "missing Annotations/u/0/00000.png" in capsys.readouterr().err
    assert main([*command, "--split", "test"]) == 1
    assert "MadeData has no test split" in capsys.readouterr().err


def test_hidden_truth_is_said(tmp_path, config, capsys):
    _, folder = write(tmp_path, "mevis")
    assert main(["-c", config(hidden=True), "--predictions", str(folder.root)]) == 1
    assert "truth is hidden" in capsys.readouterr().err


def test_values_that_are_no_objects_number_are_said_or_refused(tmp_path, capsys):
    """Where objects share a picture, masks of 0 and 255 would score 0 without a word."""
    from PIL import Image

    reader, folder = write(tmp_path, "ref_davis")
    pictures = sorted(folder.root.rglob("*.png"))
    drawn = next(path for path in pictures if np.asarray(Image.open(path)).any())

    def mark(path):
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255).save(path)

    mark(drawn)
    score(reader, Options(folder.root))
    assert "count as background: 255, the first in" in capsys.readouterr().err
    for path in pictures:
        mark(path)
    with pytest.raises(SubmissionError, match="holds 255, and no picture holds the number of an object"):
        score(reader, Options(folder.root))


def test_a_table_is_not_overwritten(tmp_path, monkeypatch, capsys):
    reader, folder = write(tmp_path, "mevis")
    options = Options(folder.root, table=tmp_path / "t.csv")
    monkeypatch.setattr(scoring, "parse", lambda args: (options, Data(reader)))
    assert main() == 0
    before = (tmp_path / "t.csv").read_bytes()
    assert main() == 1 and "t.csv: is there already" in capsys.readouterr().err
    assert (tmp_path / "t.csv").read_bytes() == before


class Data:
    def __init__(self, reader):
        self.reader = reader

    def read(self, split):
        return self.reader
