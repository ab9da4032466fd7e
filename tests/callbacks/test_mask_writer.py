"""The writer as the trainer and the module use it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks import MaskWriter
from rvos_lightning.core.types import Clip, Prediction, SegmentedWindow
from rvos_lightning.data.lightning_module import VideoDataModule
from rvos_lightning.data.reader import expected_items
from rvos_lightning.metrics.layouts import SubmissionError
from rvos_lightning.metrics.submission import check_zip

sys.path.insert(0, str(Path(__file__).parents[1] / "metrics"))

from made_reader import MadeData  # noqa: E402


def trainer_of(data, folder):
    strategy = SimpleNamespace(barrier=lambda: None)
    return SimpleNamespace(
        datamodule=VideoDataModule(data), default_root_dir=str(folder), strategy=strategy, is_global_zero=True,
        fast_dev_run=False,
    )  # fmt: skip


def play(writer, trainer, reader, windows):
    writer.setup(trainer, None, "predict")
    for metas, masks in windows:
        clip = Clip(torch.zeros(1, masks.shape[1], 3, 8, 8), torch.zeros(len(metas), dtype=torch.long), None, metas)
        prediction = Prediction(torch.zeros(*masks.shape[:2], 8, 8))
        writer.write("predict", SegmentedWindow(masks, None, metas, clip, prediction), last=False)
    writer.on_predict_end(trainer, None)


def test_writes_a_checked_zip(tmp_path, capsys):
    data = MadeData("ref_youtube_vos")
    trainer = trainer_of(data, tmp_path)
    play(MaskWriter(), trainer, data.own, data.own.windows(4))
    done = tmp_path / "submission_ref_youtube_vos.zip"
    check_zip(done, expected_items(data.own), "ref_youtube_vos")
    assert "is complete: Ref-YouTube-VOS server" in capsys.readouterr().out


def test_refuses_half_a_split(tmp_path):
    data = MadeData("mevis")
    with pytest.raises(SubmissionError, match="missing u/0/00020.png"):
        play(MaskWriter(), trainer_of(data, tmp_path), data.own, list(data.own.windows(4))[::2])
    folder = tmp_path / "here"
    play(MaskWriter(folder, zip=False), trainer_of(data, tmp_path), data.own, list(data.own.windows(4))[::2])
    assert (folder / "u/0/00000.png").is_file() and not folder.with_name("here.zip").exists()


def test_a_data_set_without_server_gets_a_folder_an_item(tmp_path):
    data = MadeData("holiday")
    play(MaskWriter(), trainer_of(data, tmp_path), data.own, data.own.windows(4))
    assert (tmp_path / "submission_holiday" / "u" / "0" / "00000.png").is_file()
