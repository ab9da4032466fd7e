"""The readers of referring-image sets, and the refusal of pickles that are more than data."""

import json
import pickle
import struct

import numpy as np
import pytest
from layouts import refer as layouts
from layouts import write_json

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.grefcoco import GRefCOCOReader
from rvos_lightning.data.readers.ref_zom import RefZOMReader
from rvos_lightning.data.readers.refcoco import RefCOCOReader
from rvos_lightning.data.readers.refer_pickle import Refusal, read_plain_pickle


def mask(reader, item):
    return reader.read_masks(item, [0])[0][0].numpy()


@pytest.mark.parametrize("protocol", range(6))
def test_refer_files_of_every_protocol(tmp_path, protocol):
    reader = RefCOCOReader(layouts.refcoco(tmp_path, protocol=protocol), "train")
    assert [item.expression for item in reader.items] == ["The Box, 0!", "The Box, 1!"]
    assert reader.videos[0].frames == ("COCO_train2014_000000000001",)  # not the reference's own file_name
    assert reader.read_frames(0, [0, 0]).shape == (2, 3, *layouts.SIZE)
    np.testing.assert_array_equal(mask(reader, 0), layouts.mask(layouts.BOXES[11]))
    assert reader.items[1].facts == Facts(category="box", image=1, reference=0)
    assert RefCOCOReader(tmp_path, "train", text="sent").items[0].expression == "the box 0"


def test_test_is_both_halves(tmp_path):
    layouts.refcoco(tmp_path)
    sizes = {split: len(RefCOCOReader(tmp_path, split).items) for split in ("testA", "testB", "test")}
    assert sizes == {"testA": 2, "testB": 2, "test": 4}
    assert len(RefCOCOReader(tmp_path, "test").videos) == 1  # sentences of one picture share it


def test_coco_layout_gives_the_same_table(tmp_path):
    for split in ("train", "testA"):
        refer = RefCOCOReader(layouts.refcoco(tmp_path / "a"), split, text="sent")
        coco = RefCOCOReader(layouts.refcoco_coco(tmp_path / "b", split), split)
        assert [i.expression for i in refer.items] == [i.expression for i in coco.items]
        assert [v.frames for v in refer.videos] == [v.frames for v in coco.videos]
        for index in range(len(refer.items)):
            np.testing.assert_array_equal(mask(refer, index), mask(coco, index))
        np.testing.assert_array_equal(refer.read_frames(0, [0]), coco.read_frames(0, [0]))


@pytest.mark.parametrize(("name", "partition"), [("refcoco+", "unc"), ("refcocog", "umd"), ("refcocog", "google")])
def test_other_sets(tmp_path, name, partition):
    layouts.refcoco(tmp_path, name, partition)
    assert len(RefCOCOReader(tmp_path, "train", name, partition).items) == 2


def test_partitions_that_do_not_exist(tmp_path):
    layouts.refcoco(tmp_path, "refcocog", "google")
    with pytest.raises(DataError, match="refcocog google: train, val"):
        RefCOCOReader(tmp_path, "test", "refcocog", "google")  # never released


def test_polygon_parts(tmp_path):
    """Overlapping parts are a union (1150 pixels, not 1050); parts of 4 or an odd number of values are dropped."""
    square = layouts.polygon((0, 0, 25, 25))
    shifted = layouts.polygon((15, 15, 40, 40))
    parts = [square, shifted, [1, 1, 9, 9], [*layouts.polygon((50, 0, 60, 40)), 3]]
    reader = RefCOCOReader(layouts.refcoco(tmp_path, a11=parts), "train")
    assert mask(reader, 0).sum() == 1150


def test_run_lengths_instead_of_polygons(tmp_path):
    from layouts.promptable import uncompressed
    from layouts.scene import encode

    wanted = layouts.mask((3, 4, 17, 20))
    for name, shape in (("list", uncompressed(wanted)), ("text", encode(wanted))):
        reader = RefCOCOReader(layouts.refcoco(tmp_path / name, a11=shape), "train")
        np.testing.assert_array_equal(mask(reader, 0), wanted)


def test_a_sentence_without_a_mask(tmp_path):
    layouts.refcoco(tmp_path, a11=[[1, 1, 9, 9]], a21=[])
    train = RefCOCOReader(tmp_path, "train")
    assert len(train.items) == 0 and len(list(train.problems(True))) == 2
    with pytest.raises(Refused, match=r"annotation 21 has no usable polygon.*blocks validate"):
        RefCOCOReader(tmp_path, "testA")


def test_pictures_can_be_kept_out_of_training(tmp_path):
    layouts.refcoco(tmp_path)
    names = tmp_path / "evaluation_images.txt"
    names.write_text("1\n")
    assert len(RefCOCOReader(tmp_path, "train", exclude_images=names).items) == 0


def test_grefcoco_targets(tmp_path):
    reader = GRefCOCOReader(layouts.grefcoco(tmp_path), "val")
    assert [item.no_target for item in reader.items] == [False] * 2 + [True] * 4
    np.testing.assert_array_equal(mask(reader, 0), layouts.mask(layouts.BOXES[11], layouts.BOXES[12]))
    assert not mask(reader, 2).any() and reader.items[2].objects == ()
    content = layouts.instances()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    write_json(tmp_path / "grefcoco" / "instances.json", content)
    with pytest.raises(DataError, match="only crowd annotations are left"):
        GRefCOCOReader(tmp_path, "val")


def test_ref_zom_source_decides(tmp_path):
    reader = RefZOMReader(layouts.ref_zom(tmp_path), "test")
    assert [item.subsets for item in reader.items[::2]] == [("multi_target",), (), ("single_target",)]
    assert not mask(reader, 2).any() and mask(reader, 4).any()
    assert reader.items[2].facts.kind == "zero"


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(tmp_path):
    """Pickles that would do something, by name."""
    import collections

    touched = tmp_path / "touched"
    run = f"touch {touched}"
    import os

    getter = b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'" + run.encode() + b"'\ntR."
    cases = {f"system_{p}": pickle.dumps([Call(os.system, run)], p) for p in range(6)}
    cases |= {
        "getattr": getter,
        "eval": pickle.dumps(Call(eval, f"__import__('os').system('{run}')")),
        "numpy": pickle.dumps([np.int64(3)]),
        "ordered": pickle.dumps([collections.OrderedDict(a=1)]),
        "persistent": b"\x80\x02]X\x01\x00\x00\x00aQ.",
        "extension": b"\x80\x02\x82\x01.",
        "inst": b"(S'x'\nios\nsystem\n.",
    }
    return touched, cases


def test_hostile_pickles_run_nothing(tmp_path):
    touched, cases = hostile(tmp_path)
    for name, data in cases.items():
        path = tmp_path / f"{name}.p"
        path.write_bytes(data)
        with pytest.raises(Refusal, match=r"refused at byte \d+, opcode \w+.*would run code.*Nothing was executed"):
            read_plain_pickle(path)
    assert not touched.exists()


def test_the_reader_itself_refuses_a_hostile_file(tmp_path):
    touched, cases = hostile(tmp_path)
    layouts.refcoco(tmp_path)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(cases["system_0"])
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: refused at byte \d+, opcode GLOBAL '(posix|nt) system'"):
        RefCOCOReader(tmp_path, "train")
    assert not touched.exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps([1])[:-1],  # cut off
        pickle.dumps([1]) + b"more",
        b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".",  # deep
        b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"abc.",  # a length without content
        b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b"e.",
        pickle.dumps([{1, 2}], 4),
        pickle.dumps([b"bytes"], 4),
        b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
        b"no pickle",
        b"",
    ],
)
def test_damaged_pickles(tmp_path, data):
    path = tmp_path / "refs.p"
    path.write_bytes(data)
    with pytest.raises(Refusal, match="refused|damaged"):
        read_plain_pickle(path)


def test_plain_values_survive(tmp_path):
    value = [{"a": [1, -5, 2**70, 1.5, None, True], "text": "čaj", "deep": [[[["x"]]]], "same": 3}] * 2
    path = tmp_path / "plain.p"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(value, protocol))
        assert read_plain_pickle(path) == value
    # as Python 2 wrote protocol 0: byte strings and long integers
    path.write_bytes(b"(lp0\n(dp1\nS'ref_id'\np2\nI7\nsS'long'\nL12L\nsa.")
    assert read_plain_pickle(path) == [{"ref_id": 7, "long": 12}]


def test_references_are_checked_field_by_field(tmp_path):
    layouts.refcoco(tmp_path)
    path = tmp_path / "refcoco" / "refs(unc).p"
    good = layouts.refs()
    for change, message in (
        ({"ref_id": 1}, "ref_id 1 occurs twice"),
        ({"sent_ids": [1]}, "1 sent_ids for 2 sentences"),
        ({"ann_id": "x"}, "'ann_id' is missing or of the wrong kind"),
        ({"sentences": [{"raw": "x"}, {}]}, "a sentence without"),
    ):
        path.write_bytes(pickle.dumps([{**good[0], **change}, *good[1:]]))
        with pytest.raises(DataError, match=message):
            RefCOCOReader(tmp_path, "train")


def test_converted_references_are_reused(tmp_path, monkeypatch):
    layouts.refcoco(tmp_path)
    RefCOCOReader(tmp_path, "train")
    kept = list((tmp_path / "refcoco" / ".rvos_lightning").glob("refs(unc)*.json"))
    assert len(kept) == 1 and json.loads(kept[0].read_text())["source"] == "refs(unc).p"
    from rvos_lightning.data.readers import refer_pickle

    monkeypatch.setattr(refer_pickle, "read_plain_pickle", None)
    assert len(RefCOCOReader(tmp_path, "train").items) == 2


def test_no_other_code_unpickles(root):
    """Only the disassembler is used, and only in one file."""
    for path in (root / "rvos_lightning" / "data").glob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in ("pickle.load", "Unpickler", "allow_pickle=True")), path
