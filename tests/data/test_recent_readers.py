"""The readers of MOSE v2, LVOS, Long-RVOS, YoURVOS and Ref-SAV on tiny copies of their layouts, traps included."""

import json
import shutil

import numpy as np
import pytest
import torch
from layouts import make_scene, recent, tarred, truth, write_json, write_palette
from layouts.promptable import sav_train

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.long_rvos import LongRVOSReader
from rvos_lightning.data.readers.lvos import LVOSReader
from rvos_lightning.data.readers.mose import MOSEReader
from rvos_lightning.data.readers.ref_sav import RefSAVReader, RefSAVTrainReader
from rvos_lightning.data.readers.sav import SAVTrainReader
from rvos_lightning.data.readers.yourvos import YoURVOSReader

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11


# MOSE v2 -------------------------------------------------------------------------------------------------------------


def test_mose_v2_counts_and_meta(tmp_path):
    scene = make_scene()
    reader = MOSEReader(recent.mose_v2(tmp_path, scene), "train", 2)
    assert [own.videos for own in reader.counts.values()] == [(3666,), (433,), (614,)]
    assert reader.videos[0].size == scene.size and not list(reader.problems(True))
    assert MOSEReader(tmp_path, "valid", 2).files == (tmp_path / "meta_valid.json",)
    path = tmp_path / "meta_train.json"
    content = json.loads(path.read_text())
    content["videos"]["one"]["objects"] = [1, 3]
    write_json(path, {"videos": content["videos"] | {"three": content["videos"]["two"]}})
    said = " ".join(str(problem) for problem in MOSEReader(tmp_path, "train", 2).problems(True))
    assert "masks show objects [1, 2], meta_train.json names [1, 3]" in said and "video three" in said
    content["videos"]["one"]["length"] = 7
    write_json(path, content)
    with pytest.raises(Refused, match=r"JPEGImages/one: 6 frames; meta_train.json says 7"):
        MOSEReader(tmp_path, "train", 2)
    content["videos"]["one"]["length"] = "7"
    write_json(path, content)
    with pytest.raises(DataError, match=r"meta_train.json: video one: field 'length' must be int"):
        MOSEReader(tmp_path, "train", 2)


# LVOS ----------------------------------------------------------------------------------------------------------------


def test_lvos_objects_count_within_their_range(tmp_path):
    scene = make_scene()
    reader = LVOSReader(recent.lvos(tmp_path, scene), "val")
    assert reader.videos[0].frames[:2] == ("00000001", "00000006")
    assert [item.facts for item in reader.items[:2]] == [Facts(1, seen=False, frame=0), Facts(2, seen=False, frame=1)]
    assert reader.items[2].facts.seen is True
    for index in range(4):
        video, label = ("one", "two")[index // 2], 1 + index % 2
        masks, annotated = truth(reader, index)
        np.testing.assert_array_equal(masks, scene.ids(video) == label)
        assert annotated.tolist() == [label == 1] + [True] * 5
        np.testing.assert_array_equal(reader.visible(index), masks.any((1, 2)) & annotated)
    assert reader.protocol().unseen and not list(reader.problems(True))


def test_lvos_names_its_folders_in_two_ways_and_hides_test(tmp_path):
    scene = make_scene()
    recent.lvos(tmp_path, scene, "val")
    (tmp_path / "val").rename(tmp_path / "valid")
    assert len(LVOSReader(tmp_path, "val").items) == 4
    reader = LVOSReader(recent.lvos(tmp_path, scene, "test"), "test")
    assert truth(reader, 0)[1].tolist() == [True] + [False] * 5


def test_lvos_without_the_list_of_unseen_videos(tmp_path):
    reader = LVOSReader(recent.lvos(tmp_path, make_scene(), unseen=False), "val")
    assert reader.items[0].facts.seen is None and "NOT OFFICIAL" in reader.protocol().rule
    assert "unseen_videos.txt: missing" in str(next(reader.problems(True)))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("start", "soon", "'start' must be a number from 0"),
        ("frame_nums", None, "'frame_nums' must be int or str"),
        ("frame_nums", 9, None),
    ],
)
def test_lvos_ranges_that_cannot_be(tmp_path, field, value, said):
    recent.lvos(tmp_path, make_scene())
    path = tmp_path / "val" / "val_meta.json"
    content = json.loads(path.read_text())
    content["videos"]["one"]["objects"]["1"]["frame_range"][field] = value
    write_json(path, content)
    if said is None:
        assert "lists 6 frames, frame_nums says 9" in str(next(LVOSReader(tmp_path, "val").problems(True)))
    else:
        with pytest.raises(DataError, match=said):
            LVOSReader(tmp_path, "val")


# Long-RVOS -----------------------------------------------------------------------------------------------------------


def test_long_rvos_types_and_absent_objects(tmp_path):
    scene = make_scene()
    reader = LongRVOSReader(recent.long_rvos(tmp_path, scene), "valid")
    assert [item.subsets for item in reader.items[:3]] == [("static",), ("dynamic",), ("hybrid",)]
    for index, label in enumerate((1, 2, 2)):
        masks, annotated = truth(reader, index)
        np.testing.assert_array_equal(masks, scene.masks["one"][label])
        assert annotated.all()  # no file: absent, not unlabelled
        np.testing.assert_array_equal(reader.visible(index), masks.any((1, 2)))
    shutil.rmtree(tmp_path / "valid" / "Annotations" / "two" / "2")
    with pytest.raises(Refused, match=r"two/2: missing: the masks of an object that sentences mean \(blocks validate"):
        LongRVOSReader(tmp_path, "valid")


@pytest.mark.parametrize(("field", "value"), [("type", "moving"), ("obj_id", "../1"), ("obj_id", [1])])
def test_long_rvos_fields(tmp_path, field, value):
    recent.long_rvos(tmp_path, make_scene())
    path = tmp_path / "valid" / "meta_expressions.json"
    content = json.loads(path.read_text())
    content["videos"]["one"]["expressions"]["0"][field] = value
    write_json(path, content)
    with pytest.raises(DataError, match="video one, expression 0"):
        LongRVOSReader(tmp_path, "valid")


def test_long_rvos_frames_and_masks_in_tars(tmp_path):
    scene = make_scene()
    recent.long_rvos(tmp_path, scene)
    for name in ("JPEGImages", "Annotations"):
        tarred(tmp_path / "valid" / name, name)
    reader = LongRVOSReader(tmp_path, "valid")
    np.testing.assert_array_equal(truth(reader, 1)[0], scene.masks["one"][2])


# YoURVOS -------------------------------------------------------------------------------------------------------------


def test_yourvos_spans_and_masks(tmp_path):
    scene = make_scene()
    reader = YoURVOSReader(recent.yourvos(tmp_path, scene), "test")
    assert [item.facts.spans for item in reader.items[:2]] == [((0, 5),), ((0, 3),)]
    for index, label in enumerate((1, 2)):
        masks, annotated = truth(reader, index)
        np.testing.assert_array_equal(masks, scene.masks["one"][label])
        assert annotated.all()
        np.testing.assert_array_equal(reader.visible(index), masks.any((1, 2)))
    other = tmp_path / "test" / "Annotations" / "one" / "1" / "00000.png"
    write_palette(other, scene.masks["one"][1][0] * 1)  # another object's number is not this one's mask
    assert not YoURVOSReader(tmp_path, "test").read_masks(1, [0])[0].any()


@pytest.mark.parametrize("span", [[[5]], [[10, 5]], [["0", "5"]], "0,5", [[0, 1000]]])
def test_yourvos_spans_that_cannot_be(tmp_path, span):
    recent.yourvos(tmp_path, make_scene())
    path = tmp_path / "meta_expressions" / "test" / "meta_expressions.json"
    content = json.loads(path.read_text())
    content["videos"]["one"]["expressions"]["0"]["span"] = span
    write_json(path, content)
    if span == [[0, 1000]]:
        reader = YoURVOSReader(tmp_path, "test")
        assert reader.items[0].facts.spans == ((0, 5),) and "not among the video's" in str(next(reader.problems(True)))
        return
    with pytest.raises(DataError, match="expression 0: field 'span' must"):
        YoURVOSReader(tmp_path, "test")


# Ref-SAV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("captions", "count"), [("long", 4), ("short", 8), ("both", 12)])
def test_ref_sav_captions_on_the_masks_of_sav(tmp_path, captions, count):
    scene = make_scene()
    reader = RefSAVTrainReader(recent.ref_sav(tmp_path / "a", scene), captions=captions)
    plain = SAVTrainReader(sav_train(tmp_path / "b", scene))
    assert len(reader.items) == count and [v.frames for v in reader.videos] == [v.frames for v in plain.videos]
    for index, item in enumerate(reader.items):
        same = next(
            i for i, other in enumerate(plain.items)
            if plain.videos[other.video].id == reader.videos[item.video].id and other.objects == item.objects
        )  # fmt: skip
        np.testing.assert_array_equal(truth(reader, index)[0], truth(plain, same)[0])
        assert item.subsets == ("short" if "_" in item.id else "long",)
    assert torch.equal(reader.read_frames(0, [0, 2]), plain.read_frames(0, [0, 2]))


def test_ref_sav_elsewhere_and_incomplete(tmp_path):
    recent.ref_sav(tmp_path, make_scene())
    (tmp_path / "sam_v_full").rename(tmp_path / "films")
    with pytest.raises(Refused, match="2 of 2 annotation files of SA-V"):
        RefSAVTrainReader(tmp_path / ".", captions="long", videos=tmp_path / "nothing")
    assert len(RefSAVTrainReader(tmp_path, tmp_path / "films").items) == 4
    path = tmp_path / "Ref-SAV.json"
    content = json.loads(path.read_text())
    content["one"]["objects"]["7"] = {"formated": "nobody"}
    write_json(path, content)
    with pytest.raises(DataError, match="video one: object 7 is not among its masklets"):
        RefSAVTrainReader(tmp_path, tmp_path / "films")


def test_ref_sav_that_people_checked(tmp_path):
    scene = make_scene()
    reader = RefSAVReader(recent.ref_sav_eval(tmp_path, scene))
    assert reader.name == "ref_sav" and len(reader.items) == 8
    np.testing.assert_array_equal(truth(reader, 2)[0], scene.masks["one"][1] | scene.masks["one"][2])
