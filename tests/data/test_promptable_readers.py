"""The readers of promptable sets on tiny copies of the official layouts, traps included."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import make_scene, truth, write_frames, write_palette, write_picture
from layouts import promptable as layouts
from layouts.referring import davis_tree
from layouts.scene import Scene

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.davis import DAVISReader
from rvos_lightning.data.readers.esd import ESDReader
from rvos_lightning.data.readers.lvvis import LVVISReader
from rvos_lightning.data.readers.mose import MOSEReader
from rvos_lightning.data.readers.pumavos import PUMaVOSReader
from rvos_lightning.data.readers.sa1b import SA1BReader
from rvos_lightning.data.readers.sav import SAVReader, SAVTrainReader
from rvos_lightning.data.readers.youtube_vos import YouTubeVOSReader

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11
SAMPLES = Path(__file__).parent / "samples"


def test_davis_counts_objects_on_the_first_frame(tmp_path):
    scene = make_scene()
    scene.masks["one"][3] = np.zeros_like(scene.masks["one"][1])
    scene.masks["one"][3][4, :2, :2] = True  # appears later: does not exist for the evaluator
    davis_tree(tmp_path, scene, "Annotations")
    name = tmp_path / "Annotations" / "480p" / "two" / "00000.png"
    ids = scene.ids("two")[0]
    ids[20:, :] = 255  # void
    write_palette(name, ids)
    reader = DAVISReader(tmp_path, "val")
    assert [(item.video, item.id) for item in reader.items] == [(0, "1"), (0, "2"), (1, "1"), (1, "2")]
    masks, annotated = truth(reader, 2)
    assert annotated.all()
    np.testing.assert_array_equal(masks, scene.ids("two") == 1)
    with pytest.raises(Refused, match="unsupervised release"):
        DAVISReader(tmp_path, "val", "unsupervised")


def test_objects_of_a_video_share_each_decoded_map(tmp_path, monkeypatch):
    """Together they read as one by one, in any order and with repeats, and every file is opened once."""
    from PIL import Image

    scene = make_scene()
    davis_tree(tmp_path, scene, "Annotations")
    layouts.youtube_vos(tmp_path, scene)
    opened, open_picture = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **how: opened.append(1) or open_picture(*args, **how))
    for reader in (DAVISReader(tmp_path, "val"), YouTubeVOSReader(tmp_path, "valid")):
        items, positions = [3, 0, 2, 1], [2, 0, 1, 2]
        alone = [[reader.read_masks(item, [p]) for p in positions] for item in items]
        opened.clear()
        together = reader.read_masks_of(items, positions)
        for own, (masks, annotated) in zip(alone, together, strict=True):
            assert torch.equal(masks, torch.cat([each for each, _ in own]))
            assert torch.equal(annotated, torch.cat([flags for _, flags in own]))
        assert any(masks.any() for masks, _ in together)
        there = {"davis": 3, "youtube_vos": 2}[reader.name]  # files of the frames asked for, in each of two videos
        assert len(opened) == 2 * there


def test_a_mask_one_pixel_narrower_than_its_frame(tmp_path):
    """The real sample: 853 pixels wide on a frame of 854."""
    from PIL import Image

    shutil.copytree(SAMPLES / "judo", tmp_path, dirs_exist_ok=True)
    with pytest.raises(DataError, match=r"00005.png: the mask has 480x853 pixels.*the frame 480x854"):
        truth(DAVISReader(tmp_path, "val"), 0)
    reader = DAVISReader(tmp_path, "val", other_size="nearest")
    masks, _ = truth(reader, 1)
    assert masks.shape == (1, 480, 854) and masks.any()
    stored = np.asarray(Image.open(SAMPLES / "judo" / "Annotations" / "480p" / "judo" / "00005.png"))
    assert abs(int(masks.sum()) - int((stored == 2).sum())) < 300


def test_a_colour_png_is_no_object_map(tmp_path):
    scene = make_scene(("one",))
    davis_tree(tmp_path, scene, "Annotations")
    path = tmp_path / "Annotations" / "480p" / "one" / "00003.png"
    write_picture(path, np.zeros((*scene.size, 3), np.uint8))
    with pytest.raises(DataError, match="00003.png: a mask must be a palette or grey PNG.*mode RGB"):
        truth(DAVISReader(tmp_path, "val"), 0)


@pytest.mark.parametrize("meta", [True, False])
def test_youtube_vos_train(tmp_path, meta):
    scene = make_scene()
    reader = YouTubeVOSReader(layouts.youtube_vos(tmp_path, scene, meta), "train")
    assert len(reader.items) == 4 and reader.items[0].expression is None
    assert reader.items[1].facts.category == ("box" if meta else None)
    masks, annotated = truth(reader, 3)
    np.testing.assert_array_equal(masks, scene.ids("two") == 2)
    assert annotated.all() and reader.visible(3).tolist() == [True] * 4 + [False] * 2


def test_youtube_vos_valid_has_first_masks_only(tmp_path):
    scene = make_scene()
    reader = YouTubeVOSReader(layouts.youtube_vos(tmp_path, scene), "valid")
    assert [item.facts.frame for item in reader.items] == [0, 2, 0, 2]  # objects may come late
    masks, annotated = truth(reader, 1)
    assert annotated.tolist() == [False, False, True, False, False, False]
    np.testing.assert_array_equal(masks[2], scene.masks["one"][2][2])


def test_the_label_index_is_kept_and_renewed(tmp_path, monkeypatch):
    scene = make_scene(("one",))
    layouts.mose(tmp_path, scene)
    assert len(MOSEReader(tmp_path, "train").items) == 2
    from rvos_lightning.data.readers import label_index

    def fail(*_):
        raise AssertionError("masks are read again")

    with monkeypatch.context() as patch:
        patch.setattr(label_index, "_labels", fail)
        assert len(MOSEReader(tmp_path, "train").items) == 2
    path = tmp_path / "train" / "Annotations" / "one" / "00001.png"
    path.unlink()  # a folder changes when a file in it is replaced
    write_palette(path, np.full(scene.size, 7, np.uint8))
    assert [item.id for item in MOSEReader(tmp_path, "train").items] == ["1", "2", "7"]


def test_mose_valid(tmp_path):
    reader = MOSEReader(layouts.mose(tmp_path, make_scene()), "valid")
    assert truth(reader, 0)[1].tolist() == [True] + [False] * 5


def test_pumavos(tmp_path):
    scene = make_scene()
    reader = PUMaVOSReader(layouts.pumavos(tmp_path, scene))
    assert reader.name == "pumavos" and len(reader.items) == 4
    np.testing.assert_array_equal(truth(reader, 0)[0], scene.ids("one") == 1)


@pytest.mark.parametrize("nulls", [True, False])
def test_sav_train(tmp_path, nulls):
    scene = make_scene()
    reader = SAVTrainReader(layouts.sav_train(tmp_path, scene, nulls))
    assert reader.videos[0].frames == ("00000", "00004", "00008", "00012", "00016", "00020")
    assert reader.videos[0].size == scene.size
    masks, annotated = truth(reader, 3)  # objects overlap: own planes
    np.testing.assert_array_equal(masks, scene.masks["two"][2])
    assert annotated.all() and reader.visible(3).tolist() == [True] * 4 + [False] * 2
    assert not list(reader.problems(fast=False))


def test_sav_real_annotations(tmp_path):
    """Three frames of the published example (CC BY 4.0): floats for integers, areas of zero, overlapping objects."""
    import json

    from pycocotools import mask as library

    folder = tmp_path / "sav_train"
    folder.mkdir()
    path = shutil.copy(SAMPLES / "sav_000001_manual.json", folder / "sav_000001_manual.json")
    record = json.loads(Path(path).read_text())
    frames = np.zeros((len(record["masklet"]), 848, 480, 3), np.uint8)
    write_frames(folder / "JPEGImages", Scene({"sav_000001": frames}, {}), stride=4)
    reader = SAVTrainReader(tmp_path)
    assert [item.id for item in reader.items] == ["0", "1", "2", "3", "4"]
    for item in range(5):
        expected = np.stack([library.decode(frame[item]) for frame in record["masklet"]]) > 0
        np.testing.assert_array_equal(truth(reader, item)[0], expected)
        np.testing.assert_array_equal(reader.visible(item), expected.any((1, 2)))
    wrong = [problem.what for problem in reader.problems(fast=False)]
    assert wrong == [f"{len(frames)} annotated frames for 483 video frames; expected every fourth"]


def test_sav_val_annotates_every_fourth_frame(tmp_path):
    scene = make_scene()
    reader = SAVReader(layouts.sav_val(tmp_path, scene), "val")
    assert [item.id for item in reader.items] == ["000", "001", "000", "001"]
    masks, annotated = truth(reader, 1)
    assert annotated.tolist() == [True, False, False, False, True, False]
    np.testing.assert_array_equal(masks[[0, 4]], scene.masks["one"][2][[0, 4]])
    (tmp_path / "sav_val" / "Annotations_6fps" / "one" / "000" / "00004.png").rename(
        tmp_path / "sav_val" / "Annotations_6fps" / "one" / "000" / "00001.png"
    )
    assert [p.place for p in SAVReader(tmp_path, "val").problems(True)] == ["one/000"]


def test_lvvis_tracks_and_categories(tmp_path):
    scene = make_scene()
    layouts.lvvis(tmp_path, scene)
    reader = LVVISReader(tmp_path, "val")
    assert reader.videos[1].id == "two" and reader.videos[1].size == scene.size
    for item, (video, label) in enumerate((("one", 1), ("one", 2), ("two", 1), ("two", 2))):
        np.testing.assert_array_equal(truth(reader, item)[0], scene.masks[video][label])
    assert reader.items[0].facts == Facts(category="cardboard_box", seen=False)
    named = LVVISReader(tmp_path, "val", "categories")
    assert [item.expression for item in named.items] == ["cardboard box"] * 2
    np.testing.assert_array_equal(truth(named, 0)[0], scene.masks["one"][1] | scene.masks["one"][2])


def test_esd_colours_are_objects_of_the_whole_sequence(tmp_path):
    scene = make_scene()
    layouts.esd(tmp_path, scene)
    reader = ESDReader(tmp_path, "test")
    assert [item.objects for item in reader.items] == [(0x0AC80A,), (0xC80A0A,)] * 2
    masks, annotated = truth(reader, 0)
    assert annotated.all()
    np.testing.assert_array_equal(masks, scene.ids("one") == 2)
    np.testing.assert_array_equal(reader.read_frames(0, [2])[0].permute(1, 2, 0), scene.frames["one"][2])
    (tmp_path / "ESD-2" / "one" / "RGB" / "masks" / "mask_0003.png").unlink()
    assert not truth(ESDReader(tmp_path, "test"), 0)[1][3]


def test_sa1b(tmp_path):
    scene = make_scene()
    reader = SA1BReader(layouts.sa1b(tmp_path, scene))
    assert [item.id for item in reader.items] == ["100", "101", "200", "201"]  # no empty mask
    np.testing.assert_array_equal(truth(reader, 3)[0][0], scene.masks["two"][2][0])
    assert reader.read_frames(1, [0, 0, 0]).shape == (3, 3, *scene.size)
    names = tmp_path / "names.txt"
    names.write_text("sa_2.jpg\n")
    assert [video.id for video in SA1BReader(tmp_path, files=names).videos] == ["sa_2"]
    names.write_text("sa_9.jpg\n")
    with pytest.raises(Refused, match="1 of 1 listed pictures"):
        SA1BReader(tmp_path, files=names)


@pytest.mark.parametrize("facts", [[], " ", 1.5, {"category": 3}, {"frames": True}, {"frames": [3]}])
def test_meta_of_another_kind_names_file_video_and_object(tmp_path, facts):
    root = layouts.youtube_vos(tmp_path, make_scene(), True)
    path = root / "train" / "meta.json"
    content = json.loads(path.read_text())
    video = next(iter(content["videos"]))
    label = next(iter(content["videos"][video]["objects"]))
    content["videos"][video]["objects"][label] = facts
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"meta\.json: video {video}.*{label}"):
        YouTubeVOSReader(root, "train")
