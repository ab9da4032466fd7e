"""Plain tars read in place: the same as folders, from any process, and refused when they are not whole."""

import io
import multiprocessing
import os
import pickle
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import make_scene, promptable, referring, tarred

import rvos_lightning.data as data
from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.mevis import MeViSReader
from rvos_lightning.data.readers.mose import MOSEReader
from rvos_lightning.data.readers.sa1b import SA1BReader
from rvos_lightning.data.sources import file_tree, table_file
from rvos_lightning.data.sources.file_tree import Folder, open_tree
from rvos_lightning.data.sources.tar import Tar

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11


def contents(reader) -> list[np.ndarray]:
    whole = [reader.read_frames(i, range(len(video.frames))).numpy() for i, video in enumerate(reader.videos)]
    for index, item in enumerate(reader.items):
        truth = reader.read_masks(index, range(len(reader.videos[item.video].frames)))
        whole += [part.numpy() for part in truth or ()]
    return whole


def same(one, other) -> None:
    assert [video.id for video in one.videos] == [video.id for video in other.videos]
    for mine, theirs in zip(contents(one), contents(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("top", [".", "JPEGImages", "valid_u/JPEGImages", "disk/x/JPEGImages", "one video"])
def test_frames_are_read_from_tars_in_place(tmp_path, top, form):
    referring.mevis(tmp_path / "plain", make_scene())
    shutil.copytree(tmp_path / "plain", tmp_path / "packed")
    folder = tmp_path / "packed" / "valid_u" / "JPEGImages"
    tarred(*((folder / "one", ".") if top == "one video" else (folder, top)), form=form)
    reader = pickle.loads(pickle.dumps(MeViSReader(tmp_path / "packed", "valid_u")))  # as a worker gets it
    same(reader, MeViSReader(tmp_path / "plain", "valid_u"))
    assert not reader.frames.missing(reader.videos[0])


@pytest.mark.parametrize("top", [".", "train", "disk/MOSEv2/train"])
def test_one_tar_a_split_as_mose_v2_comes(tmp_path, top):
    promptable.mose(tmp_path / "plain", make_scene())
    shutil.copytree(tmp_path / "plain", tmp_path / "packed")
    tarred(tmp_path / "packed" / "train", top)
    same(MOSEReader(tmp_path / "packed", "train", 2), MOSEReader(tmp_path / "plain", "train", 2))


def test_names_as_in_a_folder(tmp_path):
    for name in ("a/b/1.txt", "a/b-c/1.txt", "a/b.txt", "a/ü/" + "long" * 40 + ".txt", "a/._1.txt", "z"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    folder = Folder(tmp_path / "folder")
    expected = {at: folder.names(at) for at in ("", "a", "a/b", "a/ü", "b", "nothing")}
    read = folder.read("a/ü/" + "long" * 40 + ".txt")
    tree = Tar(tarred(tmp_path / "folder"))
    assert {at: tree.names(at) for at in expected} == expected
    assert tree.read("a/ü/" + "long" * 40 + ".txt") == read and len(tree) == 5
    assert tree.exists("a/b.txt") and not tree.exists("a/b") and not tree.exists("a/" + "x" * 500)
    assert tree.names("x" * 500) == []
    with pytest.raises(DataError, match="no member 'a/c.txt'"):
        tree.read("a/c.txt")
    with pytest.raises(DataError, match="leave the data root"):
        tree.read("../secret")


def test_hard_links_lead_to_their_files(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "1.txt").write_text("content")
    os.link(tmp_path / "v" / "1.txt", tmp_path / "v" / "2.txt")
    tree = Tar(tarred(tmp_path / "v"))
    assert tree.read("1.txt") == tree.read("2.txt") == b"content"


def test_the_index_is_kept_and_renewed(tmp_path, monkeypatch):
    referring.mevis(tmp_path, make_scene())
    archive = tarred(tmp_path / "valid_u" / "JPEGImages")
    MeViSReader(tmp_path, "valid_u")

    def fail(*_, **__):
        raise AssertionError("the archive is scanned again")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", fail)
        assert len(MeViSReader(tmp_path, "valid_u").videos) == 2
    with tarfile.open(archive, "a") as file:
        info = tarfile.TarInfo("one/00099.jpg")
        file.addfile(info, io.BytesIO(b""))
    assert Tar(archive).exists("one/00099.jpg")


def test_a_replaced_archive_is_noticed(tmp_path):
    """Also where size and date are the old ones, and by a reader that opened it before."""
    for name, text in (("a", "x" * 600), ("b", "y" * 600)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(text)
        (tmp_path / name / "2.txt").write_text(text if name == "a" else text[:-1])
    archive, other = tarred(tmp_path / "a"), tarred(tmp_path / "b")
    tree = Tar(archive)
    assert tree.read("2.txt") == b"x" * 600
    stamp = archive.stat()
    assert other.stat().st_size == stamp.st_size
    archive.write_bytes(other.read_bytes())
    os.utime(archive, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    for late in (tree, Tar(archive)):
        with pytest.raises(DataError, match=r"'2.txt' is not where a\..*tarindex says: the archive was changed"):
            late.read("2.txt")


def test_the_index_of_a_read_only_folder_goes_to_the_users_cache(tmp_path, monkeypatch):
    (tmp_path / "data" / "v").mkdir(parents=True)
    (tmp_path / "data" / "v" / "1.txt").write_text("content")
    archive = tarred(tmp_path / "data" / "v")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(table_file.os, "access", lambda *_: False)
    assert Tar(archive).read("1.txt") == b"content"
    assert list((tmp_path / "home").rglob("*.tarindex")) and not (tmp_path / "data" / ".rvos_lightning").exists()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written .*XDG_CACHE_HOME"):
        Tar(archive)


def _reads(tree: Tar, names: list[str], queue) -> None:
    queue.put([tree.read(name) for name in names for _ in range(40)])


def test_forked_processes_share_no_position(tmp_path):
    """They read at once through what the parent opened before them."""
    (tmp_path / "v").mkdir()
    for n in range(6):
        (tmp_path / "v" / f"{n}.txt").write_bytes(bytes([n]) * (7000 + n))
    tree = Tar(tarred(tmp_path / "v"))
    names = tree.names()
    assert tree.read("0.txt")[0] == 0
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    made = [context.Process(target=_reads, args=(tree, names[i::3], queue)) for i in range(3)]
    for process in made:
        process.start()
    results = [queue.get(timeout=60) for _ in made]
    for process in made:
        process.join()
    assert tree.read("5.txt") == bytes([5]) * 7005
    for result in results:
        assert all(whole == bytes([whole[0]]) * (7000 + whole[0]) for whole in result)
    assert {whole[0] for result in results for whole in result} == set(range(6))


def test_training_batches_and_their_resume_are_those_of_the_folder(tmp_path):
    referring.mevis(tmp_path / "plain", make_scene(), "train")
    shutil.copytree(tmp_path / "plain", tmp_path / "packed")
    tarred(tmp_path / "packed" / "train" / "JPEGImages")
    loaders = []
    for name, workers in (("plain", 0), ("packed", 2)):
        module = data.MeViS(tmp_path / name, batch_size=2, clip_length=3, size=32, repeats=3, workers=workers)
        loaders.append(module.train_dataloader())
    batches = [list(loader) for loader in loaders]
    assert len(batches[0]) == len(batches[1]) > 3
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.clip.frames, other.clip.frames) and torch.equal(one.targets.masks, other.targets.masks)
    resumed = data.MeViS(tmp_path / "packed", batch_size=2, clip_length=3, size=32, repeats=3).train_dataloader()
    running = iter(loaders[0])
    for _ in range(2):
        next(running)
    resumed.load_state_dict(loaders[0].state_dict())
    for one, other in zip(running, resumed, strict=True):
        assert torch.equal(one.clip.frames, other.clip.frames)


def test_shards_of_sa1b(tmp_path):
    promptable.sa1b(tmp_path / "plain", make_scene(("one", "two", "three")))
    shutil.copytree(tmp_path / "plain", tmp_path / "packed")
    folder = tmp_path / "packed" / "sa_000000"
    (folder.with_name("sa_000001")).mkdir()
    for suffix in (".jpg", ".json"):
        shutil.move(folder / f"sa_3{suffix}", folder.with_name("sa_000001"))
    tarred(folder)
    tarred(folder.with_name("sa_000001"), "sa_000001")
    same(SA1BReader(tmp_path / "packed"), SA1BReader(tmp_path / "plain"))
    listed = tmp_path / "some.txt"
    listed.write_text("sa_3.jpg\nsa_1.jpg\n")
    some = [SA1BReader(tmp_path / name, files=listed) for name in ("packed", "plain")]
    assert [video.id for video in some[0].videos] == ["sa_3", "sa_1"]
    same(*some)
    with tarfile.open(tmp_path / "packed" / "sa_000002.tar", "w") as file:
        info = tarfile.TarInfo("sa_9.jpg")
        file.addfile(info, io.BytesIO(b""))
    with pytest.raises(Refused, match=r"picture without its annotations sa_9\.json"):
        SA1BReader(tmp_path / "packed")


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz", "tar"])
def test_compressed_tars_are_refused_with_the_command_that_makes_plain_ones(tmp_path, suffix):
    referring.mevis(tmp_path, make_scene())
    plain = MeViSReader(tmp_path, "valid_u").read_frames(0, range(6))
    folder = tmp_path / "valid_u" / "JPEGImages"
    mode = {"bz2": "w:bz2", "xz": "w:xz"}.get(suffix.rpartition(".")[2], "w:gz")
    with tarfile.open(folder.with_name(f"JPEGImages.{suffix}"), mode) as file:
        file.add(folder, "JPEGImages")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="a compressed tar cannot be read in place") as caught:
        MeViSReader(tmp_path, "valid_u")
    command = str(caught.value).rpartition(": ")[2]
    if shutil.which(command.split("&& ")[-1].split()[0]):
        subprocess.run(command, shell=True, check=True)
        assert torch.equal(MeViSReader(tmp_path, "valid_u").read_frames(0, range(6)), plain)


def whole(path: Path) -> bytearray:
    with tarfile.open(path, "w") as archive:
        for n in range(3):
            info = tarfile.TarInfo(f"v/{n:05d}.txt")
            info.size = 600
            archive.addfile(info, io.BytesIO(bytes([n]) * 600))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    "kind", ["cut", "cut between files", "no end", "joined", "garbled", "link", "twice", "twice in no UTF-8", "page"]
)
def test_tars_that_are_refused(tmp_path, kind):
    path = tmp_path / "v.tar"
    content = whole(path)
    if kind == "link":
        with tarfile.open(path, "a") as archive:
            info = tarfile.TarInfo("v/link.txt")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    elif kind == "twice":
        with tarfile.open(path, "a") as archive:
            archive.addfile(tarfile.TarInfo("v/00001.txt"))
    elif kind == "twice in no UTF-8":
        with tarfile.open(path, "a") as archive:
            for _ in range(2):
                archive.addfile(tarfile.TarInfo("a/\udce9.txt"))
    else:
        changed = {
            "cut": content[:2000],
            "cut between files": content[: 2 * 1536],
            "no end": content[: 3 * 1536],
            "joined": content + content,
            "garbled": content[:1540] + b"\xff" + content[1541:],
            "page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        }
        path.write_bytes(changed[kind])
    with pytest.raises(DataError) as caught:
        Tar(path)
    said = str(caught.value)
    assert "v.tar" in said and said.count("\n") == 0 and len(said) < 400
    assert {"link": "dereference", "twice": "'v/00001.txt' is in it twice"}.get(kind, "again") in said
    assert not list(tmp_path.rglob("*.tarindex"))


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_tar_is_refused_or_has_the_same_files(tmp_path, seed):
    """A tar keeps no checksum of its files' content: decoders judge that."""
    content = whole(tmp_path / "v.tar")
    draw = np.random.default_rng(seed)
    for _ in range(1 + seed % 3):
        content[int(draw.integers(3 * 1536 + 1024))] ^= int(draw.integers(1, 256))
    (tmp_path / "v.tar").write_bytes(content[: int(draw.integers(len(content)))] if seed % 4 == 0 else content)
    try:
        tree = Tar(tmp_path / "v.tar")
        assert tree.names("v") == [f"{n:05d}.txt" for n in range(3)]
        assert all(len(tree.read(f"v/{name}")) == 600 for name in tree.names("v"))
    except DataError as error:
        assert "v.tar" in str(error)


def test_limits_hold_for_tars(tmp_path, monkeypatch):
    whole(tmp_path / "v.tar")
    monkeypatch.setenv("RVOS_TAR_MEMBERS", "2")
    with pytest.raises(DataError, match="declares 3 files in one tar"):
        Tar(tmp_path / "v.tar")
    monkeypatch.delenv("RVOS_TAR_MEMBERS")
    monkeypatch.setenv("RVOS_TAR_MEMBER_BYTES", "599")
    with pytest.raises(DataError, match=r"'v/00000.txt': declares 600 bytes of one file in a tar"):
        Tar(tmp_path / "v.tar").read("v/00000.txt")


def test_many_archives_in_the_place_of_folders(tmp_path, monkeypatch):
    """More than are kept open, read at once by threads; one that goes away is a missing file."""
    monkeypatch.setattr(file_tree, "_opened", lru_cache(maxsize=4)(file_tree._opened.__wrapped__))
    for n in range(12):
        (tmp_path / f"{n}").mkdir()
        (tmp_path / f"{n}" / "x.txt").write_text(str(n))
        tarred(tmp_path / f"{n}")
    tree = Folder(tmp_path)
    assert tree.names() == sorted(str(n) for n in range(12))
    order = np.random.default_rng(0).integers(12, size=600).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: tree.read(f"{n}/x.txt"), order)) == [str(n).encode() for n in order]
    assert (tmp_path / ".rvos_lightning").is_dir() and len(tree.names()) == 12  # where the indices lie is no data
    (tmp_path / "3.tar").unlink()
    with pytest.raises(DataError, match=r"3/x.txt: missing file"):
        tree.read("3/x.txt")


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar program")
@pytest.mark.parametrize("words", [["."], ["--format=gnu", "v"], ["--format=pax", "v"], ["-b", "1", "v/a", "v/b"]])
def test_archives_of_the_tar_program(tmp_path, words):
    for folder in ("a", "b"):
        for n in range(3):
            path = tmp_path / "in" / "v" / folder / f"{'long' * 40 if n == 2 else n}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{folder}{n}")
    *options, last = words if words[-1] != "v/b" else [*words[:-2], "v/a v/b"]
    command = ["tar", *options, "-cf", str(tmp_path / "v.tar"), "-C", str(tmp_path / "in"), *last.split()]
    subprocess.run(command, check=True)
    tree = open_tree(tmp_path, "v")
    assert tree.names() == ["a", "b"] and tree.names("a") == ["0.txt", "1.txt", "long" * 40 + ".txt"]
    assert tree.read("b/" + "long" * 40 + ".txt") == b"b2"


def test_an_empty_folder_gives_way_to_an_archive(tmp_path):
    whole(tmp_path / "v.tar")
    (tmp_path / "v").mkdir()
    assert len(open_tree(tmp_path, "v").names()) == 3
    (tmp_path / "v.tar").unlink()
    assert open_tree(tmp_path, "v").names() == []
    (tmp_path / "v" / "x.txt").write_text("unpacked")
    whole(tmp_path / "v.tar")
    assert open_tree(tmp_path, "v").names() == ["x.txt"]


def test_an_archive_stands_for_a_folder_on_the_way(tmp_path):
    whole(tmp_path / "a.tar")
    assert open_tree(tmp_path, "a/v").names() == [f"{n:05d}.txt" for n in range(3)]
    assert open_tree(tmp_path, "a/w") is None
    assert Folder(tmp_path).read("a/v/00002.txt") == bytes([2]) * 600 and Folder(tmp_path).names("a") == ["v"]
