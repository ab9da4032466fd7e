"""What watches a run: the score line, film strip, curves, the overlay film that browsers play, the start table."""

import json
import os
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import nn

from callbacks.curves import Curves, draw_curves, read_curves
from callbacks.film import Film, Sheet
from callbacks.film_strip import GAP, LABEL, FilmStrip
from callbacks.overlay import Overlay, VideoOutput, palette
from callbacks.scores import score_line
from callbacks.start_table import enlarged, licences
from callbacks.stuck_rank import StuckRank, alive, machine
from rvos_lightning.core.types import Clip, ClipMeta, Facts, Prediction, SegmentedWindow, Targets
from rvos_lightning.data import MovingShapes
from rvos_lightning.data.reader import Item, Reader, Video
from rvos_lightning.data.whole import WriteError
from rvos_lightning.run.drawing import COLOURS, OFF, ON, font_for, outline, pick_colours, wrapped
from rvos_lightning.run.terminal import console


class Noise(Reader):
    """Six random frames of 30 x 41 pixels."""

    name, split = "noise", "predict"
    videos = [Video("clip", tuple(f"{i:05d}" for i in range(6)), (30, 41))]
    items = [Item(0, "0", "left half"), Item(0, "1", "top half")]
    pixels = torch.randint(0, 255, (6, 3, 30, 41), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def read_frames(self, video, positions):
        return self.pixels[list(positions)]

    def read_masks(self, item, positions):
        return None


def window(start, stop, targets=True):
    names = tuple(f"{i:05d}" for i in range(start, stop))
    metas = [ClipMeta("clip", str(i), names, (30, 41), (30, 41), tuple(range(start, stop)), facts=Facts(fps=12.5))
             for i in range(2)]  # fmt: skip
    clip = Clip(torch.rand(1, stop - start, 3, 30, 41), torch.tensor([0, 0]), ["left half", "top half"], metas)
    masks = torch.zeros(2, stop - start, 30, 41, dtype=torch.bool)
    masks[0, :, :, :20] = True
    masks[1, :, :15] = True
    truth = Targets(masks, torch.ones(2, stop - start, dtype=torch.bool)) if targets else None
    return SegmentedWindow(masks, truth, metas, clip, Prediction(masks.float()))


def test_score_line_is_the_one_people_look_for():
    scores = {"j_and_f": 0.873, "j": 0.861, "f": 0.885, "j_and_f/late": 0.5}
    line = score_line(scores, "moving_shapes val, mean over expressions")
    assert line.splitlines()[0] == "J&F 0.873  J 0.861  F 0.885  (moving_shapes val, mean over expressions)"
    assert "late 0.500" in line.splitlines()[1]


def test_palette_is_the_voc_colour_map():
    assert palette()[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert palette()[255].tolist() == [224, 224, 192]


def test_predictions_are_written_window_by_window(tmp_path):
    output = VideoOutput(tmp_path, 0, Noise(), Noise().items, "key", Overlay(sheet_frames=3))
    for part in (window(0, 4), window(4, 6)):
        output.add(Noise().read_frames(0, part.clip.meta[0].positions), part.masks, part.clip.meta)
    assert output.end_of_pass()
    masks = sorted((tmp_path / "clip" / "masks").glob("*.png"))
    assert [path.name for path in masks] == [f"{i:05d}.png" for i in range(6)]
    image = Image.open(masks[0])
    labels = np.array(image)
    assert image.mode == "P" and image.size == (41, 30)
    assert labels[20, 5] == 1 and labels[5, 5] == 2 and labels[20, 30] == 0
    record = json.loads((tmp_path / "clip" / "record.json").read_text())
    assert record["expressions"][0]["area"] == [600] * 6 and record["expressions"][1]["frames_visible"] == 6
    with av.open(str(tmp_path / "clip" / "overlay.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 12.5 and sum(1 for _ in film.decode(stream)) == 6
    assert Image.open(tmp_path / "clip" / "contact_sheet.png").width > 200


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 64), (20000, 3)])
def test_film_takes_any_size(tmp_path, size):
    film = Film(tmp_path / "x.mp4", size, None)
    film.add(torch.zeros(3, *size, dtype=torch.uint8))
    film.close()
    assert (tmp_path / "x.mp4").stat().st_size > 0


def test_film_says_what_its_colours_mean_and_keeps_them(tmp_path):
    film = Film(tmp_path / "x.mp4", (64, 64), 10)
    sent = torch.tensor([200, 40, 90], dtype=torch.uint8)
    film.add(sent[:, None, None].expand(3, 64, 64))
    film.close()
    with av.open(str(tmp_path / "x.mp4")) as opened:
        coder = opened.streams.video[0].codec_context
        assert (coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range) == (1, 1, 1, 1)
        frame = next(opened.decode(video=0))
    back = frame.to_ndarray(format="rgb24", src_colorspace=1, dst_colorspace=1)  # as a player reads the tag
    assert np.abs(back[32, 32].astype(int) - sent.numpy()).max() <= 4


@pytest.mark.parametrize("ground", [(90, 60, 40), (15, 15, 15), (230, 230, 230), (60, 110, 50), (210, 45, 50)])
def test_outlines_differ_from_what_they_cover(ground):
    picture = np.full((60, 80, 3), ground, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:60] = True
    (colour, other) = pick_colours(picture[None], np.stack([mask, mask])[:, None])
    assert colour != other
    outline(picture, mask, colour)
    border = np.abs(picture[20, 31:59].astype(int) - ground).max(axis=-1)
    assert border.min() > 80, f"{colour} on {ground}"
    assert (picture[19, 31:59] == 0).all() and (picture[:15] == ground).all()


def test_colours_are_told_apart_as_long_as_there_are_enough():
    masks = np.zeros((len(COLOURS) + 1, 1, 8, 8), bool)
    found = pick_colours(np.zeros((1, 8, 8, 3), np.uint8), masks)
    assert len(set(found)) == len(COLOURS) and len(found) == len(COLOURS) + 1


@pytest.mark.parametrize("text", ["one two three four five six seven", "x" * 90, "", "two\nlines"])
def test_words_wrap(text):
    lines = wrapped(text, 100, 12)
    assert all(font_for(line, 12).getlength(line) <= 100 for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(text.split())


def prompts_of(*entries):
    class Pointed(Noise):
        items = [Item(0, "cat", None)]

        def described(self, video):
            return {"source": "x", "prompts": list(entries)}

    return Pointed()


def test_prompts_are_drawn_and_told(tmp_path):
    reader = prompts_of(
        {"object": "cat", "frame": 0, "clicks": [[10, 10], [30, 20]], "labels": [1, 0]},
        {"object": "cat", "frame": 4, "box": [5, 5, 20, 20]},
    )
    output = VideoOutput(tmp_path, 0, reader, reader.items, "key", Overlay(film=False))
    assert output.texts == ["cat (2 clicks, 1 box)"]
    masks, frames = torch.zeros(1, 6, 30, 41, dtype=torch.bool), reader.read_frames(0, range(6))
    meta = ClipMeta("clip", "cat", tuple("012345"), (30, 41), (30, 41), tuple(range(6)))
    plain = output.folder / "contact_sheet.png"
    output.add(frames, masks, [meta])
    assert output.end_of_pass() and plain.exists()
    cells = [picture for picture, _ in output.sheet.cells]
    green, red = ((cells[0] == colour).all(-1).sum() for colour in (ON, OFF))
    assert green > 20 and red > 20 and not (cells[1] == ON).all(-1).any()
    assert (cells[4] == output.colours[0]).all(-1).sum() > 100  # the box


def test_one_picture_gives_one_picture(tmp_path):
    class Photo(Noise):
        videos = [Video("photo", ("photo.jpg",), (30, 41))]

    output = VideoOutput(tmp_path, 0, Photo(), Photo().items, "key", Overlay())
    part = window(0, 1)
    output.add(Photo().read_frames(0, [0]), part.masks, part.clip.meta)
    assert output.end_of_pass()
    assert sorted(path.name for path in (tmp_path / "photo").iterdir()) == ["masks", "overlay.png", "record.json"]
    assert Image.open(tmp_path / "photo" / "overlay.png").width == 41 * 8  # small ones are enlarged


def test_sheet_shows_frames_that_were_pointed_at():
    assert Sheet(50, 4, [7, 7]).shown == {7, 16, 32, 49}
    assert Sheet(2, 8).shown == {0, 1} and len(Sheet(90, 3, range(40, 60)).shown) == 3


def test_film_strip_shows_input_truth_and_prediction(tmp_path):
    strip = FilmStrip(items=2, frames=3, height=32)
    for start in (0, 4):
        part = window(start, start + 2)
        part.masks = part.masks.clone()
        part.masks[0, :, :, 10:] = False  # half of the left half is missing: J 0.5
        strip.write("val", part, last=start == 4)
    shown = strip._videos + strip._others
    assert [s.heading.split(" · ")[1:] for s in shown] == [["left half", "clip"], ["top half", "clip"]]
    assert 0.2 < float(shown[0].heading.split()[1]) < 0.8 and shown[1].heading.startswith("J&F 1.00")
    assert [len(s.scores) for s in shown] == [4, 4]
    wide = 2 * (44 + GAP) + LABEL
    assert all(s.picture.shape[1] == wide and s.picture.shape[0] > 3 * 32 for s in shown)
    first = slice(LABEL + GAP, LABEL + GAP + 44)
    rows = [shown[0].picture[k * (32 + GAP) : k * (32 + GAP) + 32, first].astype(int) for k in range(3)]
    assert np.abs(rows[1] - rows[0]).sum() > np.abs(rows[2] - rows[0]).sum() > 0  # truth covers more


def test_film_strip_takes_different_videos_first():
    strip = FilmStrip(items=2, frames=2, height=32)
    for number in range(3):
        part = window(0, 2)
        part.meta = part.clip.meta[:] = [replace(meta, video=f"v{number}") for meta in part.meta]
        strip.write("val", part, last=True)
    assert [(s.video, s.words) for s in strip._videos] == [("v0", "left half"), ("v1", "top half")]


def test_tables_are_wide_where_nobody_says_how_wide(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == 160  # names of classes are whole in a log file
    monkeypatch.setenv("COLUMNS", "60")
    assert console().width == 60


def test_curves_of_a_run_and_of_its_continuation(tmp_path):
    for version, rows in enumerate(["9,2.0,\n19,1.0,0.5\n", "19,1.5,0.5\n29,0.5,0.75\n"]):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,train/loss,val/j_and_f\n" + rows)
    curves = read_curves(tmp_path / "csv")
    assert curves == {"train/loss": {9: 2.0, 19: 1.5, 29: 0.5}, "val/j_and_f": {19: 0.5, 29: 0.75}}
    draw_curves(curves, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 1000


def test_a_full_disk_costs_the_curves_alone(tmp_path):
    (tmp_path / "curves.png").mkdir()  # nothing can take its place
    with pytest.raises(WriteError):
        draw_curves({"train/loss": {0: 2.0, 1: 1.0}}, tmp_path / "curves.png")
    (tmp_path / "csv" / "version_0").mkdir(parents=True)
    (tmp_path / "csv" / "version_0" / "metrics.csv").write_text("step,train/loss\n0,2.0\n1,1.0\n")
    with pytest.warns(UserWarning, match=r"no curves\.png"):
        Curves().on_train_end(
            SimpleNamespace(
                fast_dev_run=False, state=SimpleNamespace(fn="fit"), loggers=[], default_root_dir=str(tmp_path)
            ),
            None,
        )


def test_process_numbers_of_another_machine_or_container_say_nothing():
    own = StuckRank()._note()
    assert own["pid"] == os.getpid() and own["machine"] == machine() and alive(own)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    ended = {**own, "pid": child}
    assert not alive(ended) and alive({**ended, "machine": "of the same name"})


def test_quiet_of_zero_prints_nothing_and_does_not_spin(capsys):
    class Table:
        written = 0

        def set(self, key, value):
            self.written += 1

        def check(self, keys):
            return False

    rank, table = StuckRank(quiet=0, gone=0), Table()
    watch = threading.Thread(target=rank._watch, args=(table,))
    watch.start()
    time.sleep(0.3)
    rank._stop.set()
    watch.join(5)
    assert not watch.is_alive() and table.written <= 1 and not capsys.readouterr().out


def test_licences_of_parts_and_of_every_set_of_a_mixture():
    from rvos_lightning.data import MeViS, Mixture
    from rvos_lightning.parts.segmenters.sam2 import Sam2

    module = LightningModule()
    module.network = nn.ModuleList([Sam2("narrow", image_size=64), Sam2("narrow", image_size=64)])
    data = Mixture({"a": MovingShapes(size=64), "b": MeViS("nowhere")})
    assert licences(module, data) == [Sam2.licence, MovingShapes.licence, MeViS.licence]


def test_the_start_says_what_each_source_gives(run, tmp_path, capsys, monkeypatch):
    import json

    monkeypatch.setenv("COLUMNS", "200")
    shapes = {
        "class_path": "rvos_lightning.data.MovingShapes",
        "init_args": {"size": 32, "train_clips": 4, "val_clips": 1},
    }
    sources = {"plain": shapes, "hard": {**shapes, "init_args": {**shapes["init_args"], "difficulty": "hard"}}}
    run("fit", "-c", "configs/tiny.yaml", "--data", "Mixture", "--data.sources", json.dumps(sources),
        "--data.weights", '{"plain": 1, "hard": 3}', "--trainer.max_steps", "1", "--trainer.accelerator", "cpu",
        "--data.batch_size", "2", "--trainer.enable_progress_bar", "false", "--callbacks.film", "null")  # fmt: skip
    out = capsys.readouterr().out
    assert "75.0%" in out and "25.0%" in out and "validated on" in out
    given = json.loads((tmp_path / "run" / "start.json").read_text())["sources"]
    assert given["hard"]["share"] == 0.75 and given["plain"]["videos"] == 4
    assert given["hard"]["validated on"].endswith("as hard")


def test_a_segmenter_that_blows_frames_up_is_named():
    network = SimpleNamespace(segmenter=SimpleNamespace(image_size=1024))
    said = enlarged(network, MovingShapes(size=64))
    assert "256 times" in said and "image_size 64" in said
    assert enlarged(network, MovingShapes(size=512)) == "" and enlarged(network, None) == ""
    assert enlarged(SimpleNamespace(), MovingShapes(size=64)) == ""
