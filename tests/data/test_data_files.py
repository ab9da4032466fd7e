"""JSON streams, safe paths, folders and zips, run lengths, the mask store, packed lists."""

import itertools
import json
import os
import pickle
import shutil
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
from layouts import encode, make_scene, write_json
from layouts import referring as layouts
from pycocotools import mask as library

from rvos_lightning.core.types import Facts
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers import annotation_files
from rvos_lightning.data.readers.annotation_files import JsonStream, read_json, safe_path
from rvos_lightning.data.readers.mevis import MeViSReader
from rvos_lightning.data.sources import table_file
from rvos_lightning.data.sources.file_tree import Folder, Zip, open_tree
from rvos_lightning.data.sources.image_files import decode_rgb
from rvos_lightning.data.sources.packed import Packed
from rvos_lightning.data.sources.rle import compressed, measure, polygons, union_into
from rvos_lightning.data.sources.rle_store import RleStore, Track, stored, write_store

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a\\b", "", "C:/x", "a\0b"])
def test_paths_that_leave_the_root(path):
    with pytest.raises(DataError, match="meta.json"):
        safe_path(path, "meta.json")


def test_names_in_annotation_files_cannot_leave_the_root(tmp_path):
    layouts.mevis(tmp_path, make_scene(("one",)))
    path = tmp_path / "valid_u" / "meta_expressions.json"
    content = json.loads(path.read_text())
    for video, frames in (("../../secret", ["00000"]), ("/etc", ["00000"]), ("one", ["../../../secret"])):
        entry = {**content["videos"]["one"], "frames": frames}
        write_json(path, {"videos": {video: entry}})
        with pytest.raises(DataError, match="would leave the data root|plain frame names"):
            MeViSReader(tmp_path, "valid_u")


def test_plain_paths_are_known_at_once_and_rightly():
    """The short way never says other than the long one."""
    pieces = ("a", "00000.jpg", "_x", "-x", ".", "..", ".hidden", "", "C:", "ü", "a b", "a\\b", "a\0", "x-1.2", "a\n")
    for parts in itertools.product(pieces, repeat=3):
        name = "/".join(parts)
        short = bool(annotation_files.PLAIN.fullmatch(name))
        assert not short or (str(PurePosixPath(name)) == name and ".." not in parts and "C:" not in parts)
    assert annotation_files.PLAIN.fullmatch("1-a_b/00000.jpg")


def test_links_may_replace_the_folder_but_not_lead_out_of_it(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "video").mkdir(parents=True)
    (outside / "video" / "00000.jpg").write_bytes(b"x")
    root.mkdir()
    (root / "JPEGImages").symlink_to(outside)
    assert open_tree(root, "JPEGImages").read("video/00000.jpg") == b"x"
    inner = tmp_path / "inner" / "JPEGImages"
    inner.mkdir(parents=True)
    (inner / "video").symlink_to(outside / "video")
    with pytest.raises(DataError, match=r"a link leads out of .*Link the whole folder JPEGImages"):
        Folder(inner).read("video/00000.jpg")


def zipped(folder, archive, top="", method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{top}{path.relative_to(folder).as_posix()}")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("place", ["JPEGImages", "JPEGImages without its name", "valid_u", "one video"])
def test_frames_are_read_from_zips_in_place(tmp_path, place, method):
    scene = make_scene()
    layouts.mevis(tmp_path, scene)
    plain = MeViSReader(tmp_path, "valid_u").read_frames(0, range(6))
    folder = tmp_path / "valid_u" / "JPEGImages"
    if place == "one video":
        zipped(folder / "one", folder / "one.zip", method=method)
        shutil.rmtree(folder / "one")
    elif place == "valid_u":
        zipped(tmp_path / "valid_u" / "JPEGImages", tmp_path / "valid_u.zip", "valid_u/JPEGImages/", method)
        shutil.rmtree(folder)
    else:
        zipped(folder, tmp_path / "valid_u" / "JPEGImages.zip", "JPEGImages/" if place == "JPEGImages" else "", method)
        shutil.rmtree(folder)
    reader = pickle.loads(pickle.dumps(MeViSReader(tmp_path, "valid_u")))  # as a worker gets it
    np.testing.assert_array_equal(reader.read_frames(0, range(6)), plain)
    assert not reader.frames.missing(reader.videos[0])


def test_notes_of_a_desktop_hide_no_archive(tmp_path):
    folder = tmp_path / "JPEGImages"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "00000.jpg").write_bytes(b"x")
    zipped(folder / "one", folder / "one.zip")
    zipped(folder, tmp_path / "JPEGImages.zip")
    (folder / "one" / "00000.jpg").unlink()
    (folder / "one" / ".DS_Store").touch()
    assert open_tree(tmp_path, "JPEGImages").names("one") == ["00000.jpg"]
    (folder / "one.zip").unlink()
    (folder / "one" / ".DS_Store").unlink()
    (folder / "one").rmdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._one"):
        (folder / name).touch()
    tree = open_tree(tmp_path, "JPEGImages")
    assert isinstance(tree, Zip) and tree.names("one") == ["00000.jpg"]


def test_a_zip_with_backslashes_is_a_zip_with_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as file:
        for name in ("v\\", "v\\one\\", "v\\one\\00000.jpg"):
            member = zipfile.ZipInfo("x")
            member.filename, member.create_system = name, 0
            file.writestr(member, b"" if name.endswith("\\") else b"x")
    tree = open_tree(tmp_path, "v")
    assert tree.names() == ["one"] and tree.names("one") == ["00000.jpg"] and tree.read("one/00000.jpg") == b"x"


def test_a_damaged_zip_member(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"content " * 50)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(tmp_path / "a.txt", "v/a.txt")
    tree = Zip(tmp_path / "a.zip")
    assert tree.names() == ["v"] and tree.names("v") == ["a.txt"] and not tree.exists("v/b.txt")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[60] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="'v/a.txt' is damaged"):
        Zip(tmp_path / "a.zip").read("v/a.txt")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="not a readable zip"):
        Zip(tmp_path / "a.zip")


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_streamed_json_equals_parsed_json(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(annotation_files, "CHUNK", chunk)
    content = {"a": [1, {"b": 'é]}"\\'}, []], "n": 12345, "list": [{"x": 1}, [2], 3], "none": None, "e": []}
    path = write_json(tmp_path / "a.json", content)
    assert dict(JsonStream(path).members()) == content
    walked = [pair for pair in JsonStream(path).members(("list", "e"))]
    assert [value for key, value in walked if key == "list"] == content["list"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": [1, 2', "ends too early|not valid JSON"),
        ("[1]", "expected one of|not"),
    ],
)
def test_json_that_is_not_as_it_should_be(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(JsonStream(path).members())
    if text != "[1]":
        with pytest.raises(DataError, match=f"a.json.*({message})"):
            read_json(path)
    with pytest.raises(DataError, match="missing"):
        read_json(tmp_path / "b.json")


def test_run_lengths_equal_the_library():
    random = np.random.default_rng(0)
    for _ in range(50):
        shape = tuple(random.integers(1, 40, 2))
        masks = [random.random(shape) < density for density in (0, 0.02, 0.5, 0.98, 1)]
        rles = [compressed(encode(mask), "here") for mask in masks]
        pixels, area = measure([rle["counts"] for rle in rles])
        assert (pixels == shape[0] * shape[1]).all() and (area == [mask.sum() for mask in masks]).all()
        out = np.empty(shape, np.uint8)
        for mask, rle in zip(masks, rles, strict=True):
            union_into([rle], out)
            np.testing.assert_array_equal(out, mask)
        union_into([], out)
        assert not out.any()
        union_into(rles[1:3], out)
        np.testing.assert_array_equal(out, masks[1] | masks[2])


def test_real_masks_equal_the_library(root):
    masks = json.loads((root / "tests" / "golden" / "metrics" / "mevis" / "mask_dict.json").read_text())
    for rles in masks.values():
        for rle in filter(None, rles):
            out = np.empty(rle["size"], np.uint8)
            union_into([compressed(rle, "here")], out)
            np.testing.assert_array_equal(out, library.decode(rle))


def test_damaged_run_lengths_are_refused(tmp_path):
    good = encode(np.ones((4, 5), bool))
    for rle, message in (
        ({"size": [4, 5], "counts": ""}, "runs cover 0 pixels"),
        ({"size": [4, 6], "counts": good["counts"]}, "runs cover 20 pixels, the size 4x6"),
        ({"size": [4, 5], "counts": [3, 4]}, "runs cover 7 pixels"),
        ({"size": [0, 5], "counts": "x"}, "not a run-length mask"),
        ("text", "not a run-length mask"),
    ):
        with pytest.raises(DataError, match=f"annotation 7.*frame 1.*{message}"):
            write_store(tmp_path / "s.rles", lambda rle=rle: [Track("7", [None, rle])], "file.json")
        assert os.listdir(tmp_path) == []  # nothing half-written is left


def test_polygon_traps():
    assert polygons([[0, 0, 5, 5], [1, 2, 3]], (9, 9)) is None
    assert polygons([], (9, 9)) is None


def test_the_store(tmp_path):
    scene = make_scene()
    source = write_json(tmp_path / "masks.json", {"x": 1})
    planes = scene.masks["one"][2]
    tracks = [Track("10", [encode(p) if p.any() else None for p in planes]), Track("9", []), Track("n", [None])]
    builds = []

    def build():
        builds.append(1)
        return iter(tracks)

    store = pickle.loads(pickle.dumps(stored([source], build, tmp_path / "cache")))
    assert store.rows([10, "9", "n", "absent"]).tolist() == [0, 1, 2, -1]
    assert store.areas(0).tolist() == [int(p.sum()) if p.any() else -1 for p in planes]
    assert store.lengths(np.array([0, 1, 2])).tolist() == [6, 0, 1]
    assert store.sizes(np.array([0, 2])).tolist() == [list(scene.size), [0, 0]]
    stored([source], build, tmp_path / "cache")
    assert len(builds) == 1
    os.utime(source, ns=(1, 1))  # a changed source gets a new store
    stored([source], build, tmp_path / "cache")
    assert len(builds) == 2
    with pytest.raises(DataError, match="'10' occurs twice"):
        write_store(tmp_path / "twice.rles", lambda: [tracks[0], tracks[0]], source)
    with pytest.raises(DataError, match="different sizes"):
        masks = [encode(np.ones((2, 2), bool)), encode(np.ones((2, 3), bool))]
        write_store(tmp_path / "sizes.rles", lambda: [Track("a", masks)], source)
    empty = tmp_path / "empty.rles"
    write_store(empty, list, source)
    assert len(RleStore(empty)) == 0 and RleStore(empty).rows(["a"]).tolist() == [-1]


def test_the_store_of_a_read_only_folder_goes_to_the_users_cache(tmp_path, monkeypatch):
    source = write_json(tmp_path / "data" / "masks.json", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(table_file.os, "access", lambda *_: False)
    assert str(table_file.cache_path([source], ".rles")).startswith(str(tmp_path / "home"))


def test_packed_lists_give_back_what_was_put_in():
    videos = [Video("a/b", ("0", "1")), Video("c", ("2",), (3, 4))]
    items = [
        Item(0, "0", "Ein Fuß", (1, "x"), ("s",), Facts(3, category="Fuß", seen=False)),
        Item(1, "1", None, None),
        Item(1, "2", "", ()),
    ]
    assert list(Packed(Video, videos)) == videos
    packed = pickle.loads(pickle.dumps(Packed(Item, items)))
    assert list(packed) == items and packed[-1] == items[2] and packed[:2] == items[:2] and len(packed) == 3
    with pytest.raises(IndexError):
        packed[3]


def test_decoders_give_equal_pixels(root, monkeypatch):
    import io

    from PIL import Image

    path = root / "tests" / "data" / "samples" / "judo" / "JPEGImages" / "480p" / "judo" / "00005.jpg"
    data = path.read_bytes()
    expected = np.asarray(Image.open(path)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_rgb(data, "x"), expected)
    grey = io.BytesIO()
    Image.open(path).convert("L").save(grey, "JPEG")
    assert decode_rgb(grey.getvalue(), "x").shape == expected.shape
    import torch

    monkeypatch.setattr(torch.ops.image, "decode_jpeg", None)  # torchvision without decoders

    def gone(*_):
        raise AttributeError

    monkeypatch.setattr(torch.ops.image, "decode_jpeg", gone)
    np.testing.assert_array_equal(decode_rgb(data, "x"), expected)
    for broken in (b"", b"\xff\xd8nothing", data[:100]):
        with pytest.raises(DataError, match="not a readable image"):
            decode_rgb(broken, "here")


@pytest.mark.parametrize(
    "facts",
    ["[1]", '{"version": VERSION}', '{"version": VERSION, "tables": [["a", "<f4", 0, [9999999]]]}',
     '{"version": VERSION, "tables": [["a", "no kind", 0, [3]]]}', '{"version": VERSION, "tables": 7}',
     '{"version": VERSION, "tables": [["a", "<f4", -8, [3]]]}',
     '{"version": VERSION, "tables": [["a", "<f4", 0, []]]}'],
)  # fmt: skip
def test_a_table_of_contents_that_lies_is_refused_by_the_files_name(tmp_path, facts):
    said = facts.replace("VERSION", str(table_file.VERSION)).encode()
    path = tmp_path / "a.store"
    path.write_bytes(b"\0" * 64 + said + table_file.TAIL.pack(64, len(said), table_file.MAGIC))
    with pytest.raises(DataError, match=r"a\.store: .*Delete it; it is built anew"):
        table_file.map_arrays(path)
