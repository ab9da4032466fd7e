"""Folders, zips and refusals, for every layout."""

import time
import zipfile

import numpy as np
import pytest
import torch
from made_reader import MadeReader
from PIL import Image

from rvos_lightning.core.types import Facts
from rvos_lightning.data.reader import expected_items
from rvos_lightning.data.whole import WriteError
from rvos_lightning.metrics import submission
from rvos_lightning.metrics.id_maps import merge_objects
from rvos_lightning.metrics.layouts import LAYOUTS, SubmissionError, files_of, voc_palette
from rvos_lightning.metrics.saved_masks import SavedMasks
from rvos_lightning.metrics.submission import MaskFolder, check_zip


def written(root, layout, window=4):
    reader = MadeReader(layout)
    folder = MaskFolder(root / layout, layout)
    for metas, masks in reader.windows(window):
        folder.write_all(metas, masks)
    return reader, folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_round_trips(layout, tmp_path):
    reader, folder = written(tmp_path, layout)
    expected = list(expected_items(reader))
    done = folder.finish(expected)
    assert done == tmp_path / f"{layout}.zip" and not list(tmp_path.glob("*.partial"))
    check_zip(done, expected, layout)
    for place in (done, tmp_path / layout):
        saved = SavedMasks(place, layout)
        for number, part in enumerate(reader.parts):
            masks = part.masks
            own = [meta for meta in expected if meta.video == reader.videos[number].id]
            if not LAYOUTS[layout].merged:
                assert torch.equal(torch.stack([saved.read(meta) for meta in own]), masks)
            elif layout == "ref_davis":  # items 0 and 2 share an annotator
                assert torch.equal(torch.stack([saved.read(own[i]) for i in (0, 2)]), merge_objects(masks[[0, 2]]))


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("mevis", ["sub/v/0/00000.png", "u/2/00025.png"]),
        ("ref_youtube_vos", ["Annotations/u/0/00000.png", "Annotations/sub/v/1/00025.png"]),
        ("ref_davis", ["anno_0/u/00000.png", "anno_1/w/00005.png"]),
        ("davis", ["u/00000.png", "sub/v/00025.png"]),
        ("youtube_vos", ["Annotations/w/00010.png"]),
        ("sav", ["u/0/00005.png"]),
    ],
)
def test_names_in_the_zip(layout, names, tmp_path):
    reader, folder = written(tmp_path, layout)
    with zipfile.ZipFile(folder.finish(expected_items(reader))) as archive:
        assert set(names) <= set(archive.namelist())
        assert not [name for name in archive.namelist() if not name.endswith(".png")]


def test_pixels_and_modes(tmp_path):
    values = {}
    for layout in ("mevis", "revos", "ref_davis"):
        _, folder = written(tmp_path, layout)
        image = Image.open(next(iter(sorted(folder.root.rglob("00000.png")))))
        values[layout] = image.mode, set(np.unique(np.asarray(image)).tolist())
        if layout == "ref_davis":
            assert (
                image.getpalette()[:12]
                == voc_palette()[:4].flatten().tolist()
                == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
            )
    assert values == {"mevis": ("L", {0, 255}), "revos": ("L", {0, 1}), "ref_davis": ("P", values["ref_davis"][1])}
    assert values["ref_davis"][1] <= {0, 1, 2}


def test_objects_merge_in_any_order_and_over_an_old_run(tmp_path):
    reader, folder = written(tmp_path, "davis", window=6)
    again = MaskFolder(tmp_path / "other", "davis")
    for metas, masks in reader.windows(2):
        for index in (2, 0, 1):
            again.write(metas[index], masks[index])
    (tmp_path / "davis" / "u").rename(tmp_path / "other" / "old")
    rerun = MaskFolder(tmp_path / "other", "davis")
    for metas, masks in reader.windows(3):
        for index in (1, 2, 0):
            rerun.write(metas[index], masks[index])
    for path in sorted((tmp_path / "other" / "old").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "other" / "u" / path.name).read_bytes()


def test_incomplete_is_refused_with_a_list(tmp_path):
    reader, folder = written(tmp_path, "mevis")
    expected = list(expected_items(reader))
    gone = [folder.root / name for name in files_of(expected[1], LAYOUTS["mevis"])[2:4]]
    for path in gone:
        path.unlink()
    with pytest.raises(SubmissionError, match=r"2 faults\n  missing u/1/00010.png\n  missing u/1/00015.png"):
        folder.finish(expected)
    assert not (tmp_path / "mevis.zip").exists()


def test_misshapen_is_refused(tmp_path):
    reader, folder = written(tmp_path, "mevis")
    expected = list(expected_items(reader))
    Image.new("L", (5, 6)).save(folder.root / "u/0/00000.png")
    Image.new("RGB", (40, 24)).save(folder.root / "u/0/00005.png")
    (folder.root / "u/0/00010.png").write_bytes(b"nothing")
    with pytest.raises(SubmissionError, match="3 faults") as caught:
        folder.finish(expected)
    for words in ("00000.png is 6x5, the video 24x40", "00005.png is not an 8-bit grey PNG", "no PNG u/0/00010.png"):
        assert words in str(caught.value)
    assert not (tmp_path / "mevis.zip").exists()


def test_a_folder_too_many_is_named(tmp_path):
    reader, folder = written(tmp_path, "ref_youtube_vos")
    done = folder.finish(expected_items(reader))
    with pytest.raises(SubmissionError, match="wants no Annotations/ above the videos"):
        check_zip(done, expected_items(reader), "mevis")


def test_damage_is_found_by_the_checksum(tmp_path):
    reader, folder = written(tmp_path, "mevis")
    done = folder.finish(expected_items(reader))
    raw = bytearray(done.read_bytes())
    raw[120] ^= 255
    done.write_bytes(raw)
    with pytest.raises(SubmissionError, match="damaged"):
        check_zip(done, expected_items(reader), "mevis")


def test_wrong_sizes_labels_and_names_are_refused(tmp_path):
    reader = MadeReader()
    metas, masks = next(iter(reader.windows(6)))
    with pytest.raises(SubmissionError, match=r"the window needs \(6, 24, 40\)"):
        MaskFolder(tmp_path, "mevis").write(metas[0], masks[0, :, 1:])
    from dataclasses import replace

    with pytest.raises(SubmissionError, match="no object number"):
        MaskFolder(tmp_path, "davis").write(replace(metas[0], item="cat", facts=Facts()), masks[0])
    with pytest.raises(SubmissionError, match="annotator"):
        MaskFolder(tmp_path, "ref_davis").write(replace(metas[0], facts=Facts()), masks[0])
    with pytest.raises(SubmissionError, match="would leave the folder"):
        MaskFolder(tmp_path, "mevis").write(replace(metas[0], video="../x"), masks[0])
    with pytest.raises(SubmissionError, match="choose plain, mevis"):
        MaskFolder(tmp_path, "refcoco")


def test_one_picture_that_fails_leaves_none_half_written(tmp_path, monkeypatch):
    encode = submission._encode
    monkeypatch.setattr(submission, "_encode", lambda *picture: time.sleep(0.1) or encode(*picture))
    reader = MadeReader("mevis")
    metas, _ = next(reader.windows(4))
    masks = torch.rand(len(metas[0].frames), *metas[0].original_size) > 0.5
    names = list(files_of(metas[0], LAYOUTS["mevis"]))
    (tmp_path / "m" / names[0]).mkdir(parents=True)
    folder = MaskFolder(tmp_path / "m", "mevis", threads=len(names) - 1)
    with pytest.raises(WriteError, match="Is a directory"):
        folder.write(metas[0], masks)
    assert not list(tmp_path.rglob(".*")) and all((tmp_path / "m" / name).is_file() for name in names[1:])


def soft(image, path):
    greys = np.arange(image.width * image.height, dtype=np.uint8)
    Image.fromarray(greys.reshape(image.height, image.width)).save(path)


def half(image, path):
    image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST).save(path)


REMADE = {
    "jpeg": (lambda image, path: image.convert("L").save(path, "JPEG"), "is a JPEG, which changes values"),
    "colours": (lambda image, path: image.convert("RGB").save(path), "has mode RGB; masks are palette"),
    "half": (half, "Save masks at the size"),
    "soft": (soft, "grey values: soft edges or probabilities"),
}


@pytest.mark.parametrize("kind", REMADE)
def test_pictures_that_are_no_masks_of_their_frames_are_refused(kind, tmp_path):
    remake, words = REMADE[kind]
    reader, folder = written(tmp_path, "mevis")
    meta = next(meta for meta in expected_items(reader) if meta.original_size != (0, 0))
    path = tmp_path / "mevis" / files_of(meta, folder.layout)[0]
    with Image.open(path) as image:
        remake(image.copy(), path)
    with pytest.raises(SubmissionError, match=words) as caught:
        SavedMasks(tmp_path / "mevis", "mevis").read(meta)
    assert path.name in str(caught.value) and str(caught.value).count("\n") < 5


def test_a_table_that_cannot_be_written_is_refused_before_scoring(tmp_path, capsys, monkeypatch):
    from rvos_lightning.run import score

    monkeypatch.setattr(score, "score", lambda reader, options: pytest.fail("hours of scoring"))
    words = ["--data", "ClipWithMasks", "--data.root", str(tmp_path), "--predictions", str(tmp_path)]
    assert score.main([*words, "--table", str(tmp_path / "t.txt")]) == 1
    assert "t.txt: a score table is written as .csv or .parquet, not .txt" in capsys.readouterr().err
