"""Damaged, misnamed and hostile files of all kinds that are read outside data sets' layouts: one clear error each."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

from rvos_lightning.data.clips.mask_prompts import object_in
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.annotation_files import JsonStream, read_json
from rvos_lightning.data.sources.arrays import hdf5_fields, mat_field
from rvos_lightning.data.sources.file_tree import Folder, Zip
from rvos_lightning.metrics.layouts import SubmissionError
from rvos_lightning.metrics.saved_masks import SavedMasks
from rvos_lightning.metrics.submission import check_zip
from rvos_lightning.parts.weights import WeightsError, load_official, refuse_misfit
from rvos_lightning.run.cli import main
from rvos_lightning.run.words import said_in_full

STATE = {"a.weight": torch.ones(2, 3), "b": torch.arange(4.0)}


def short(error: BaseException, *names: str) -> None:
    """At most five lines that name the file and what to do."""
    text = str(error)
    assert text.count("\n") < 5 and all(name in text for name in names), text
    assert "\x1b" not in text and "weights_only=False" not in text and "<_io" not in text


# weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["", "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_and_prefixed_weights_are_read(tmp_path: Path, wrap: str, prefix: str) -> None:
    state = {prefix + key: tensor for key, tensor in STATE.items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "w.pth")
    assert load_official(tmp_path / "w.pth").keys() == STATE.keys()
    if not wrap:
        save_file(state, tmp_path / "w.safetensors")
        assert load_official(tmp_path / "w.safetensors").keys() == STATE.keys()


def test_misnamed_weights_are_read_for_what_they_are(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "torch.safetensors")
    save_file(STATE, tmp_path / "safe.pth")
    for name in ("torch.safetensors", "safe.pth"):
        assert load_official(tmp_path / name)["b"].equal(STATE["b"])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
BAD_WEIGHTS: dict[str, tuple[Any, str]] = {
    "empty": (b"", "is empty"),
    "pointer": (LFS, "git lfs pull"),
    "text": (b"<html>not found</html>", "download it again"),
    "cut": (lambda whole: whole[: len(whole) // 2], "download it again"),
    "list": ([STATE["b"]], "holds a list"),
    "tensor": (STATE["b"], "holds a Tensor"),
    "none": (None, "holds a NoneType"),
    "numbers": ({0: STATE["b"]}, "the key 0 is no name"),
    "no tensors": ({"epoch": 3}, "holds no tensors by name, but epoch"),
    "object": ({"a": Path("x")}, "tensors only"),
    "nan": ({"a": torch.tensor([float("nan")])}, "a holds NaN"),
    "twice": ({"module.a": STATE["b"], "a": STATE["b"]}, "both mean a"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_bad_weights(tmp_path: Path, name: str, suffix: str) -> None:
    content, said = BAD_WEIGHTS[name]
    path = tmp_path / f"w{suffix}"
    if callable(content):
        torch.save(STATE, path) if suffix == ".pth" else save_file(STATE, path)
        path.write_bytes(content(path.read_bytes()))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError) as caught:
        load_official(path)
    short(caught.value, str(path), said)


def test_a_flipped_bit_is_found_where_there_are_checksums(tmp_path: Path) -> None:
    """`torch.load` gives the wrong number without a word, in weights and in checkpoints to go on from."""
    from rvos_lightning.run.checkpoints import newest_checkpoint

    state = {"a": torch.arange(5000.0)}
    torch.save(state, tmp_path / "w.pth")
    for name in ("best", "last"):
        torch.save({"state_dict": state}, tmp_path / f"{name}.ckpt")
    for path in (tmp_path / "w.pth", tmp_path / "last.ckpt"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    assert not torch.load(tmp_path / "w.pth")["a"].equal(state["a"])
    with pytest.raises(WeightsError) as caught:
        load_official(tmp_path / "w.pth")
    short(caught.value, str(tmp_path / "w.pth"), "checksum differs", "download it again")
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a readable checkpoint"):
        assert newest_checkpoint(tmp_path) == tmp_path / "best.ckpt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "without.pth")
        assert load_official(tmp_path / "without.pth")["a"].equal(state["a"])
    finally:
        torch.serialization.set_crc32_options(True)


def test_whole_numbers_are_no_weights() -> None:
    with pytest.raises(WeightsError, match=r"1 weights stored as whole numbers \(quantised\?\), first: b"):
        refuse_misfit({**STATE, "b": STATE["b"].to(torch.int8)}, STATE)


def test_a_key_in_two_shards(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file(STATE, tmp_path / f"{number}.safetensors")
    with pytest.raises(WeightsError, match="in another shard"):
        load_official(tmp_path)


# JSON ----------------------------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": [1]}).encode())
    assert read_json(tmp_path / "a.json") == {"a": [1]}
    assert list(JsonStream(tmp_path / "a.json").members(("a",))) == [("a", 1)]


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe{}", b'{"a": 1', b'{"a": {"b": 1, "b": 2}}', b'{"a": NaN}', b'{"a": ' + b"[" * 5000, LFS],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_json(tmp_path: Path, text: bytes, stream: bool) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        list(JsonStream(path).members()) if stream else read_json(path)
    short(caught.value, str(path))


def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(DataError, match=r"a\.json: unreadable \(Is a directory\)"):
        read_json(tmp_path / "a.json")


# zips ----------------------------------------------------------------------------------------------------------------


def packed(path: Path, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("v/00000.txt", b"hello " * 50)
        archive.writestr("__MACOSX/v/._00000.txt", b"note")
        archive.writestr("v/._00000.txt", b"note")
    return path.read_bytes()


def test_zips_in_place(tmp_path: Path) -> None:
    packed(tmp_path / "v.zip")
    tree = Zip(tmp_path / "v.zip")
    assert len(tree) == 1 and tree.names("v") == ["00000.txt"] and tree.read("v/00000.txt").startswith(b"hello")
    (tmp_path / "._x.jpg").write_bytes(b"note")
    assert Folder(tmp_path).names() == ["v"]


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_zip_is_refused_or_reads_the_same(tmp_path: Path, seed: int) -> None:
    whole = bytearray(packed(tmp_path / "v.zip", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[seed % 2]))
    draw = np.random.default_rng(seed)
    if seed % 4 == 0:
        whole = whole[: int(draw.integers(len(whole)))]
    for _ in range(seed % 5):
        whole[int(draw.integers(len(whole)))] = int(draw.integers(256))
    (tmp_path / "v.zip").write_bytes(whole)
    try:
        tree = Zip(tmp_path / "v.zip")
        for name in [f"v/{name}" for name in tree.names("v")]:
            assert tree.read(name) == b"hello " * 50
    except DataError as error:
        short(error, "v.zip")


@pytest.mark.parametrize("kind", ["encrypted", "twice", "bomb", "cut"])
def test_zips_that_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bytearray(packed(tmp_path / "v.zip"))
    if kind == "encrypted":
        whole[6] |= 1
        whole[whole.index(b"PK\1\2") + 8] |= 1
    if kind == "cut":
        whole = whole[:-30]
    (tmp_path / "v.zip").write_bytes(whole)
    if kind == "twice":
        with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "v.zip", "a") as archive:
            archive.writestr("v/00000.txt", b"other")
    if kind == "bomb":
        monkeypatch.setenv("RVOS_ZIP_MEMBER_BYTES", "299")
    with pytest.raises(DataError) as caught:
        Zip(tmp_path / "v.zip").read("v/00000.txt")
    short(caught.value, "v.zip")
    if kind != "bomb":
        for read in (
            lambda: SavedMasks(tmp_path / "v.zip", "davis"),
            lambda: check_zip(tmp_path / "v.zip", [], "davis"),
        ):
            with pytest.raises(SubmissionError) as caught:
                read()
            short(caught.value, "v.zip")


# HDF5 and MATLAB -----------------------------------------------------------------------------------------------------


def hdf5(write: Any) -> bytes:
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        write(file)
    return data.getvalue()


def test_data_outside_the_hdf5_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.bin").write_bytes(bytes(16))

    def linked(file: Any) -> None:
        file["a"] = h5py.ExternalLink("other.h5", "/a")

    def soft(file: Any) -> None:
        file["b"], file["a"] = np.zeros(3), h5py.SoftLink("/b")

    def external(file: Any) -> None:
        file.create_dataset("a", (16,), "u1", external=[(str(tmp_path / "raw.bin"), 0, 16)])

    def text(file: Any) -> None:
        file["a"] = "words"

    for write in (linked, soft, external, text, lambda file: None):
        with pytest.raises(DataError, match=r"^x\.h5: "):
            hdf5_fields(hdf5(write), ["a"], "x.h5")
    sound = hdf5(lambda file: file.create_dataset("a", data=np.arange(5)))
    assert hdf5_fields(sound, ["a"], "x.h5")[0].tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setenv("RVOS_HDF5_VALUES", "4")
    with pytest.raises(DataError, match="declares 5 values"):
        hdf5_fields(sound, ["a"], "x.h5")


def matlab(value: Any, compressed: bool) -> bytes:
    data = io.BytesIO()
    savemat(data, {"other": np.ones(3), "part_mask": value}, do_compression=compressed)
    return data.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float64", "int16", "bool"])
def test_matlab_arrays_equal_scipys(kind: str, compressed: bool) -> None:
    value = (np.arange(24).reshape(2, 3, 4) % 3).astype(kind)
    found = mat_field(matlab(value, compressed), "part_mask", "x.mat")
    assert np.array_equal(found, value) and found.shape == value.shape


def test_damaged_matlab_files_are_refused_or_read_the_same() -> None:
    """400 changed files, in this process: nothing but an array or one clear error comes of them."""
    value = np.ones((4, 5, 3), np.uint8)
    refused = 0
    for seed in range(400):
        data, draw = bytearray(matlab(value, seed % 2 == 0)), np.random.default_rng(seed)
        for _ in range(1 + seed % 4):
            data[int(draw.integers(124, len(data)))] = int(draw.integers(256))
        if seed % 7 == 0:
            data = data[: int(draw.integers(len(data)))]
        try:
            assert mat_field(bytes(data), "part_mask", "x.mat").size <= 1 << 28
        except DataError as error:
            short(error, "x.mat")
            refused += 1
    assert refused > 200
    for strange in (np.array(["text"]), {"a": 1}, np.ones(2) * 1j):
        with pytest.raises(DataError, match=r"^x\.mat: "):
            mat_field(matlab(strange, False), "part_mask", "x.mat")


# masks as prompts ----------------------------------------------------------------------------------------------------

BOX = np.zeros((12, 16), bool)
BOX[3:9, 4:12] = True


def png(pixels: np.ndarray, mode: str | None = None, kind: str = "png") -> bytes:
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(data, kind)
    return data.getvalue()


def painted(on: tuple[int, ...], off: tuple[int, ...]) -> np.ndarray:
    return np.where(BOX[..., None], np.array(on, np.uint8), np.array(off, np.uint8))


def test_masks_are_read_as_meant() -> None:
    meant = {
        "grey": png(BOX.astype(np.uint8) * 255),
        "number": png(BOX.astype(np.uint8)),
        "one bit": png(BOX),
        "colour": png(painted((0, 0, 1), (0, 0, 0))),
        "black object, alpha": png(painted((0, 0, 0, 255), (0, 0, 0, 0))),
        "white cut-out": png(painted((200, 10, 40, 255), (255, 255, 255, 0))),
        "opaque alpha": png(painted((255, 255, 255, 255), (0, 0, 0, 255))),
        "grey and alpha": png(painted((255, 255, 255, 255), (0, 0, 0, 255)), "LA"),
    }
    for name, data in meant.items():
        assert torch.equal(object_in(data, name), torch.from_numpy(BOX)), name


def test_masks_that_could_mean_anything() -> None:
    draw = np.random.default_rng(0)
    soft = (draw.random((12, 16)) * 255).astype(np.uint8)
    refused = {
        "jpeg": png(BOX.astype(np.uint8) * 255, kind="jpeg"),
        "empty": png(np.zeros((12, 16), np.uint8)),
        "soft": png(soft),
        "photo on white": png(np.where(BOX[..., None], soft[..., None], np.uint8(255)).repeat(3, 2)),
        "red on white": png(painted((255, 0, 0), (255, 255, 255))),
        "half transparent": png(np.dstack([soft, soft, soft, soft])),
        "black on white": png(np.where(BOX, 0, 255).astype(np.uint8)),
        "black on white, colours": png(painted((0, 0, 0), (255, 255, 255))),
        "black on white, one bit": png(~BOX),
        "a hole in the ground": png(painted((0, 0, 0, 0), (255, 255, 255, 255))),
        "all white": png(np.full(BOX.shape, 255, np.uint8)),
        "palette, object first": png(np.where(BOX, 0, 1).astype(np.uint8)),
        "two objects": png(BOX.astype(np.uint8) + np.roll(BOX, 4, 1)),
        "no picture": b"words",
        "cut": png(soft)[:60],
    }
    for name, data in refused.items():
        with pytest.raises(DataError) as caught:
            object_in(data, name)
        short(caught.value, name)
    header = bytearray(png(BOX.astype(np.uint8)))
    struct.pack_into(">II", header, 16, 1 << 20, 1 << 20)
    with pytest.raises(DataError):
        object_in(bytes(header), "big")


# sentences -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "meant"), [("a dog", '["a dog"]'), ("the {note}: red", '["the {note}: red"]')])
def test_one_sentence_is_a_list_of_one(typed: str, meant: str) -> None:
    assert said_in_full(["predict", "--data.expressions", typed])[2] == meant


def test_an_object_is_no_sentence(monkeypatch: pytest.MonkeyPatch, root: Path, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "predict",
                "-c",
                "configs/tiny.yaml",
                "--data",
                "VideoFiles",
                "--data.path",
                "x",
                "--data.expressions",
                "{}",
            ]
        )
    said = capfd.readouterr().err
    assert caught.value.code == 2 and "data.expressions" in said and said.count("\n") < 6, said
