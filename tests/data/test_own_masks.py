"""Masks that somebody drew, and frames that got lost: said with what was found and what to do, never a silent zero."""

import json
import shutil

import numpy as np
import pytest
import torch
from layouts import make_scene, promptable, referring, write_json
from PIL import Image

from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.clip_with_masks import ClipWithMasksReader
from rvos_lightning.data.readers.davis import DAVISReader
from rvos_lightning.data.readers.esd import ESDReader
from rvos_lightning.data.readers.mose import MOSEReader
from rvos_lightning.data.readers.pumavos import PUMaVOSReader
from rvos_lightning.data.readers.ref_davis import RefDAVISReader
from rvos_lightning.data.readers.sav import SAVReader
from rvos_lightning.data.readers.youtube_vos import YouTubeVOSReader
from rvos_lightning.data.sources.image_files import decode_ids
from rvos_lightning.run.check import main

SIZE = (20, 30)


def own(root, paint, frames=4, labels=(1,), names=None):
    """A clip of one's own; `paint(path, mask)` saves each mask."""
    for t in range(frames):
        path = root / "frames" / f"{t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 40 * t, np.uint8)).save(path)
        mask = np.zeros(SIZE, bool)
        mask[4:12, 5 + t : 15 + t] = True
        (root / "masks").mkdir(exist_ok=True)
        paint(root / "masks" / (f"{t:05d}.png" if names is None else names(t)), mask)
    clip = {"path": "frames", "expressions": [{"exp": "the box", "masks": "masks", "labels": list(labels)}]}
    write_json(root / "expressions.json", clip)
    return root


def grey(value):
    return lambda path, mask: Image.fromarray(mask.astype(np.uint8) * np.uint8(value)).save(path)


def bits(depth):
    """A grey PNG of 2 or 4 bits that holds object number 1."""

    def paint(path, mask):
        import struct
        import zlib

        per = 8 // depth
        padded = np.zeros((SIZE[0], -(-SIZE[1] // per) * per), np.uint8)
        padded[:, : SIZE[1]] = mask
        shifts = np.arange(per - 1, -1, -1) * depth
        packed = (padded.reshape(SIZE[0], -1, per) << shifts).sum(-1).astype(np.uint8)
        raw = b"".join(b"\0" + row.tobytes() for row in packed)
        parts = {b"IHDR": struct.pack(">IIBBBBB", SIZE[1], SIZE[0], depth, 0, 0, 0, 0), b"IDAT": zlib.compress(raw)}
        out = b"\x89PNG\r\n\x1a\n"
        for kind, data in {**parts, b"IEND": b""}.items():
            out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        path.write_bytes(out)

    return paint


def soft(path, mask):
    values = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((8, 6)).resize(SIZE[::-1]))
    Image.fromarray(values).save(path)


def jpeg(path, mask):
    Image.fromarray(mask.astype(np.uint8) * 255).save(path, "JPEG")


def colour(path, mask):
    Image.fromarray(mask[..., None] * np.array([200, 10, 10], np.uint8)).save(path)


def large(path, mask):
    Image.fromarray(mask.astype(np.uint16) * 500).save(path)


def wide(path, mask):
    grey(1)(path, np.pad(mask, ((0, 0), (0, 1))))


@pytest.mark.parametrize("paint", [grey(1), bits(2), bits(4)], ids=["8", "2", "4"])
@pytest.mark.parametrize("suffix", ["png", "PNG"])
def test_what_is_meant_is_read(tmp_path, paint, suffix):
    reader = ClipWithMasksReader(own(tmp_path, paint, names=lambda t: f"{t:05d}.{suffix}"), "val")
    masks, annotated = reader.read_masks(0, range(4))
    assert annotated.all() and masks.sum((1, 2)).tolist() == [80] * 4


def test_frames_held_out_are_scored_and_never_trained_on(tmp_path):
    root = own(tmp_path, grey(1), names=lambda t: f"{t:05d}.png")
    whole, train, val = (
        ClipWithMasksReader(root, split, held_out=out)
        for split, out in (("val", None), ("train", [1, 3]), ("val", [1, 3]))
    )
    frames = whole.read_frames(0, range(4))
    assert len({frame.numpy().tobytes() for frame in frames}) == 4
    assert len(train.videos[0].frames) == 2 and train.read_masks(0, range(2))[1].all()
    assert torch.equal(train.read_frames(0, [0, 1]), frames[[0, 2]])
    assert torch.equal(train.read_masks(0, [0, 1])[0], whole.read_masks(0, [0, 2])[0])
    assert torch.equal(val.read_frames(0, range(4)), frames)
    assert val.read_masks(0, range(4))[1].tolist() == [False, True, False, True]
    with pytest.raises(DataError, match="held_out"):
        ClipWithMasksReader(root, "val", held_out=[4])


def test_sixteen_bits_that_hold_object_numbers_are_read(tmp_path):
    reader = ClipWithMasksReader(own(tmp_path, lambda p, m: Image.fromarray(m.astype(np.uint16)).save(p)), "val")
    assert reader.read_masks(0, [1])[0].sum() == 80


FAULTS = {
    "0 and 255": (grey(255), {}, r"labels \[1\] are in none of its 4 masks, which hold the values 0, 255.*\[255\]"),
    "soft": (soft, {"labels": (255,)}, "soft edges"),
    "jpeg inside": (jpeg, {}, "a JPEG file; a mask must be a PNG"),
    "jpeg": (jpeg, {"names": lambda t: f"{t:05d}.jpg"}, "no PNG file in it; found 00000.jpg"),
    "colours": (colour, {}, r"mode RGB with the colours .*\(200, 10, 10\)"),
    "16 bits": (large, {}, "16-bit values up to 500"),
    "size": (wide, {}, "mask of 31x20 pixels on a frame of 30x20"),
    "from 1": (grey(1), {"names": lambda t: f"{t + 1:05d}.png"}, "numbered from 1, the frames from 0"),
    "zeros": (grey(1), {"names": lambda t: f"{t:03d}.png"}, "other leading zeros"),
    "names": (grey(1), {"names": lambda t: f"mask_{t}.png"}, "named after no frame: mask_0.png"),
    "nothing": (grey(0), {}, "All masks are empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_meant_is_refused(tmp_path, name, capsys, monkeypatch):
    paint, more, words = FAULTS[name]
    own(tmp_path, paint, **more)
    with pytest.raises(Refused, match=words):
        ClipWithMasksReader(tmp_path, "val")
    monkeypatch.setenv("COLUMNS", "2000")  # the doctor, in the same words
    data = {"class_path": "rvos_lightning.data.ClipWithMasks", "init_args": {"root": str(tmp_path)}}
    assert main(["-c", str(write_json(tmp_path / "data.yaml", {"data": data}))]) == 1
    assert "train: NO   validate: NO" in capsys.readouterr().out


def test_the_doctor_reads_every_frame_of_own_data(tmp_path, capsys):
    own(tmp_path, grey(1))
    (tmp_path / "frames" / "00002.png").write_bytes(b"\x89PNG cut")
    data = {"class_path": "rvos_lightning.data.ClipWithMasks", "init_args": {"root": str(tmp_path)}}
    assert main(["-c", str(write_json(tmp_path / "data.yaml", {"data": data}))]) == 1
    assert "00002" in capsys.readouterr().out


def mixed(path, mask):
    grey(255 if path.stem in ("00002", "00003") else 1)(path, mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: grey(0)(root / "masks" / "00001.PNG", np.zeros(SIZE, bool)), "two masks of one frame: 00001.PNG"),
        (
            lambda root: [mixed(p, np.ones(SIZE, bool)) for p in (root / "masks").iterdir()],
            "2 of 4 masks hold 0 and 255",
        ),
        (lambda root: relabel(root, [0]), r"numbers from 1 \(0 is the background\), found \[0\]"),
        (lambda root: relabel(root, [True]), r"numbers from 1 .*found \[True\]"),
        (lambda root: rename(root, None), r"expressions\[0\]\.id must be a name of its own, found None"),
        (lambda root: rename(root, "0", twice=True), r"\[1\]\.id must be a name of its own, found '0', which another"),
    ],
)
def test_masks_that_contradict_each_other_are_refused(tmp_path, change, words):
    own(tmp_path, grey(1))
    ClipWithMasksReader(tmp_path, "val")
    change(tmp_path)
    with pytest.raises(DataError, match=words):
        ClipWithMasksReader(tmp_path, "val")


def rename(root, key, twice=False):
    clip = json.loads((root / "expressions.json").read_text())
    clip["expressions"] = [{**clip["expressions"][0], "id": key}] * (1 + twice)
    write_json(root / "expressions.json", clip)


def relabel(root, labels):
    clip = json.loads((root / "expressions.json").read_text())
    clip["expressions"][0]["labels"] = labels
    write_json(root / "expressions.json", clip)


def test_what_blocks_nothing_is_said_by_reader_and_doctor(tmp_path, capsys, monkeypatch):
    own(tmp_path, lambda path, mask: grey(1 + (path.stem == "00003"))(path, mask))
    (tmp_path / "masks" / "00001.png").unlink()
    with pytest.warns(UserWarning) as said:
        ClipWithMasksReader(tmp_path, "val")
    assert ["1 of 4 frames have no mask, the first: 00001", "the values 2 in 1 of 3 masks"] == [
        words
        for words in ("1 of 4 frames have no mask, the first: 00001", "the values 2 in 1 of 3 masks")
        if any(words in str(each.message) for each in said)
    ]
    monkeypatch.setenv("COLUMNS", "2000")
    data = {"class_path": "rvos_lightning.data.ClipWithMasks", "init_args": {"root": str(tmp_path)}}
    assert main(["-c", str(write_json(tmp_path / "data.yaml", {"data": data}))]) == 0
    assert "1 of 4 frames have no mask" in capsys.readouterr().out


def test_esd_packed_at_any_folder_reads_the_same(tmp_path):
    promptable.esd(tmp_path / "plain", make_scene())
    plain = ESDReader(tmp_path / "plain", "train")
    whole = sorted((tmp_path / "plain").rglob("RGB"))
    for depth, name in enumerate(["masks", "RGB", "sequence", "part"]):
        root = tmp_path / name
        promptable.esd(root, make_scene())
        for rgb in sorted(root.rglob("RGB")):
            folder = (rgb / "masks", rgb, rgb.parent, rgb.parents[len(rgb.relative_to(root).parts) - 2])[depth]
            if folder.is_dir():
                shutil.make_archive(str(folder), "zip", folder)
                shutil.rmtree(folder)
        packed = ESDReader(root, "train", cache=tmp_path / "cache" / name)
        assert [v.id for v in packed.videos] == [v.id for v in plain.videos] and len(whole) >= 2
        for item in range(len(plain.items)):
            assert packed.read_masks(item, range(3))[0].equal(plain.read_masks(item, range(3))[0])


def test_esd_masks_that_lost_their_colours_are_refused(tmp_path):
    promptable.esd(tmp_path, make_scene())
    path = sorted(tmp_path.rglob("masks/*.png"))[0]
    with Image.open(path) as image:
        jpeg_of = np.array(image.convert("RGB"))
    Image.fromarray(jpeg_of).save(path, "JPEG")
    with pytest.raises(DataError, match="a JPEG, which changes the colours"):
        ESDReader(tmp_path, "train")
    Image.fromarray(jpeg_of[..., 0].astype(np.uint16) * 300).save(path)
    with pytest.raises(DataError, match="a 16-bit picture"):
        ESDReader(tmp_path, "train")


def lose(folder, suffix=".jpg"):
    """Delete the third frame of every video below a folder."""
    for video in {path.parent for path in folder.rglob(f"*{suffix}")}:
        sorted(video.glob(f"*{suffix}"))[2].unlink()


SHORTENED = {
    "DAVIS": (lambda r, s: referring.davis_tree(r, s, "Annotations"), lambda r: DAVISReader(r, "val"), "JPEGImages"),
    "YouTubeVOS": (promptable.youtube_vos, lambda r: YouTubeVOSReader(r, "train"), "train/JPEGImages"),
    "YouTubeVOS valid": (promptable.youtube_vos, lambda r: YouTubeVOSReader(r, "valid"), "valid/JPEGImages"),
    "MOSE": (promptable.mose, lambda r: MOSEReader(r, "train"), "train/JPEGImages"),
    "PUMaVOS": (promptable.pumavos, PUMaVOSReader, "JPEGImages"),
    "SAV": (promptable.sav_val, lambda r: SAVReader(r, "val"), "."),
    "RefDAVIS": (referring.ref_davis, lambda r: RefDAVISReader(r, "valid"), "."),
}


@pytest.mark.parametrize("name", SHORTENED)
def test_a_lost_frame_blocks(tmp_path, name):
    make, read, frames = SHORTENED[name]
    root = make(tmp_path, make_scene(time=9))
    read(root)
    lose(root / frames)
    with pytest.raises(Refused, match="frame 0.*(mask|missing between)"):
        read(root)


def test_a_lost_image_of_esd_blocks(tmp_path):
    root = promptable.esd(tmp_path, make_scene())
    image = sorted(next(p for p in root.rglob("images") if "ESD-2" in str(p)).iterdir())[2]
    image.unlink()
    with pytest.raises(Refused, match="masks without an image"):
        ESDReader(root, "test")


def test_masks_without_objects_are_refused(tmp_path):
    root = referring.davis_tree(tmp_path, make_scene(), "Annotations")
    for path in (root / "Annotations").rglob("*.png"):
        Image.fromarray(np.minimum(np.asarray(Image.open(path)), 1) * np.uint8(255)).save(path)
    with pytest.raises(Refused, match="no object in any mask"):
        DAVISReader(root, "val")


def test_decoding_names_what_is_in_a_file(tmp_path):
    soft(tmp_path / "a.png", np.eye(20, 30, dtype=bool))
    noise = np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="different grey values"):
        decode_ids((tmp_path / "b.png").read_bytes(), "b.png")


def test_one_mask_for_a_video_bears_its_frames_name(tmp_path):
    own(tmp_path, grey(1))
    shutil.copy(tmp_path / "masks" / "00001.png", tmp_path / "first.png")
    clip = json.loads((tmp_path / "expressions.json").read_text())
    clip["expressions"][0]["masks"] = "first.png"
    write_json(tmp_path / "expressions.json", clip)
    with pytest.raises(Refused, match="named after no frame: first.png"):
        ClipWithMasksReader(tmp_path, "val")


def test_masks_that_are_no_png_among_png_are_refused(tmp_path):
    own(tmp_path, grey(1))
    with Image.open(tmp_path / "masks/00002.png") as image:
        image.save(tmp_path / "masks/00002.tif")
    (tmp_path / "masks/00002.png").unlink()
    with pytest.raises(Refused, match=r"1 files are no PNG, the first: 00002\.tif"):
        ClipWithMasksReader(tmp_path, "val")
