"""What watches a run: the score line, the film strip, the overlay film that browsers play, the start table."""

import json

import av
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import nn

from callbacks.film_strip import FilmStrip, caption_line, tint
from callbacks.overlay import Film, Overlay, VideoOutput, palette
from callbacks.scores import score_line
from callbacks.start_table import licences
from rvos_lightning.core.types import Clip, ClipMeta, Facts, Prediction, SegmentedWindow, Targets
from rvos_lightning.data.reader import Item, Reader, Video


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


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 64)])
def test_film_takes_any_size(tmp_path, size):
    film = Film(tmp_path / "x.mp4", size, None)
    film.add(torch.zeros(3, *size, dtype=torch.uint8))
    film.close()
    assert (tmp_path / "x.mp4").stat().st_size > 0


def test_film_strip_shows_input_truth_and_prediction():
    strip = FilmStrip(items=2, frames=3, height=32)
    strip.write("val", window(0, 4), last=False)
    strip.write("val", window(4, 6), last=True)
    assert [tuple(s.shape) for s in strip._strips] == [(3, 96, 132)] * 2
    assert strip._captions == ["left half", "top half"]


def test_tint_colours_only_the_mask():
    frames = torch.full((1, 3, 2, 2), 0.5)
    painted = tint(frames, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), (1.0, 0.0, 0.0))
    assert painted[0, 0, 0, 0] > 0.5 and torch.equal(painted[..., 1, :], frames[..., 1, :])


def test_captions_can_be_read():
    assert caption_line("the red circle", 100).max() > 200


def test_licences_of_parts_and_of_every_set_of_a_mixture():
    from rvos_lightning.data import MeViS, Mixture, MovingShapes
    from rvos_lightning.parts.segmenters.sam2 import Sam2

    module = LightningModule()
    module.network = nn.ModuleList([Sam2("small", image_size=64), Sam2("small", image_size=64)])
    data = Mixture({"a": MovingShapes(size=64), "b": MeViS("nowhere")})
    assert licences(module, data) == [Sam2.licence, MovingShapes.licence, MeViS.licence]
