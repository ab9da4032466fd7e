"""The readers of referring video sets on tiny copies of the official layouts, traps included."""

import json

import numpy as np
import pytest
import torch
from layouts import make_scene, write_json
from layouts import referring as layouts

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Refused
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.a2d import A2DReader
from rvos_lightning.data.readers.jhmdb import JHMDBReader
from rvos_lightning.data.readers.mevis import MeViSReader
from rvos_lightning.data.readers.ref_davis import RefDAVISReader
from rvos_lightning.data.readers.ref_youtube_vos import RefYouTubeVOSReader
from rvos_lightning.data.readers.revos import ReVOSReader

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11


def truth(reader, item, positions=None):
    """Masks of an item as an array, all frames by default."""
    video = reader.videos[reader.items[item].video]
    return reader.read_masks(item, range(len(video.frames)) if positions is None else positions)[0].numpy()


def find(reader, video, item):
    """Index of an item by the ids of its video and itself."""
    return next(i for i, x in enumerate(reader.items) if reader.videos[x.video].id == video and x.id == item)


def test_mevis_masks_are_unions_and_null_means_absent(tmp_path):
    scene = make_scene()
    reader = MeViSReader(layouts.mevis(tmp_path, scene), "valid_u")
    assert len(reader.videos) == 2 and len(reader.items) == 8
    assert reader.videos[0].frames == tuple(scene.names("one"))  # sorted, though the file is not
    assert reader.videos[0].size == scene.size
    own = scene.masks["two"]
    for item, mask in (("0", own[1]), ("1", own[2]), ("2", own[1] | own[2]), ("3", np.zeros_like(own[1]))):
        index = find(reader, "two", item)
        np.testing.assert_array_equal(truth(reader, index), mask)
        np.testing.assert_array_equal(reader.visible(index), mask.any((1, 2)))
        assert reader.read_masks(index, [0, 1])[1].all()  # null is absent, not unlabelled
    assert reader.items[3].no_target
    assert reader.items[0].expression == "Number 0 of one."  # raw: networks normalise


def test_repeated_and_unsorted_positions(tmp_path):
    scene = make_scene()
    reader = MeViSReader(layouts.mevis(tmp_path, scene), "valid_u")
    asked = [4, 1, 1, 5]
    np.testing.assert_array_equal(truth(reader, 1, asked), scene.masks["one"][2][asked])
    frames = reader.read_frames(0, asked)
    assert frames.shape == (4, 3, *scene.size) and frames.dtype == torch.uint8
    assert torch.equal(frames[1], frames[2]) and torch.equal(frames, reader.read_frames(0, range(6))[asked])
    with pytest.raises(DataError, match="6 frames"):
        reader.read_frames(0, [6])


def test_mevis_hidden_split(tmp_path):
    reader = MeViSReader(layouts.mevis(tmp_path, make_scene(), "valid", hidden=True), "valid")
    assert reader.read_masks(0, [0]) is None and reader.items[0].objects is None and reader.visible(0) is None


def test_mevis_refuses_masks_of_another_release(tmp_path):
    layouts.mevis(tmp_path, make_scene())
    path = tmp_path / "valid_u" / "mask_dict.json"
    masks = json.loads(path.read_text())
    masks["0"] = masks["0"][:-1]
    del masks["3"]
    write_json(path, masks)
    with pytest.raises(Refused, match=r"(?s)5 masks for 6 frames.*annotation 3: not in mask_dict.json") as caught:
        MeViSReader(tmp_path, "valid_u")
    assert all(problem.blocks == ("validate",) for problem in caught.value.problems)


def test_mevis_names_what_is_missing(tmp_path):
    layouts.mevis(tmp_path, make_scene())
    (tmp_path / "valid_u" / "mask_dict.json").unlink()
    with pytest.raises(Refused, match=r"mask_dict.json: missing.*blocks validate.*several hundred MB"):
        MeViSReader(tmp_path, "valid_u")
    with pytest.raises(Refused, match=r"train/JPEGImages: missing: the frames of split train.*blocks train"):
        MeViSReader(tmp_path, "train")


def test_mevis_v2_as_it_is_downloaded(tmp_path):
    """Its own names of expression files, frames in a tar, sentences without target, a hidden split."""
    scene = make_scene()
    for split in ("train", "valid_u", "valid"):
        layouts.mevis(tmp_path, scene, split, hidden=split == "valid", version=2)
    for split in ("train", "valid_u"):
        reader = MeViSReader(tmp_path, split)
        assert reader.files[0].name == "meta_expressions_v2.json" and reader.items[3].no_target
        np.testing.assert_array_equal(truth(reader, 2), scene.masks["one"][1] | scene.masks["one"][2])
        assert reader.read_frames(0, [0, 5]).shape == (2, 3, *scene.size)
        assert (
            reader.protocol().no_target == "accuracy"
            and "our reading of the challenge's ranking" in reader.protocol().rule
        )
    valid = MeViSReader(tmp_path, "valid")
    assert valid.files[0].name == "meta_expressions_v2_release.json" and valid.items[0].objects is None
    assert {split: own.items for split, own in valid.counts.items()} == {
        "train": (27502,), "valid_u": (907,), "valid": (2523,)
    }  # fmt: skip


def test_mevis_says_which_version_is_read(tmp_path):
    layouts.mevis(tmp_path, make_scene(), version=2)
    path = tmp_path / "valid_u" / "meta_expressions_v2.json"
    content = json.loads(path.read_text())
    for entry in content["videos"].values():
        del entry["expressions"]["3"]
    write_json(tmp_path / "valid_u" / "meta_expressions.json", content)
    with pytest.warns(UserWarning, match=r"meta_expressions_v2.json is read, meta_expressions.json beside it is not"):
        reader = MeViSReader(tmp_path, "valid_u")
    assert len(reader.items) == 8 and any("`version` chooses" in problem.what for problem in reader.problems(True))
    for version, items, no_target in ((1, 6, "score"), (2, 8, "accuracy")):
        chosen = MeViSReader(tmp_path, "valid_u", version)
        assert len(chosen.items) == items and chosen.protocol().no_target == no_target
        assert not list(chosen.problems(True))
    path.unlink()
    assert MeViSReader(tmp_path, "valid_u").protocol().no_target == "score"
    with pytest.raises(Refused, match=r"meta_expressions_v2.json: missing: .*meta_expressions_v2_release.json"):
        MeViSReader(tmp_path, "valid_u", 2)


def test_golden_mevis_files(tmp_path, root):
    """The recorded miniature: overlapping annotations, nulls, videos of two sizes."""
    import shutil

    from pycocotools import mask as library

    golden = root / "tests" / "golden" / "metrics" / "mevis"
    shutil.copytree(golden, tmp_path / "valid_u")
    meta = json.loads((golden / "meta_expressions.json").read_text())["videos"]
    masks = json.loads((golden / "mask_dict.json").read_text())
    for video, entry in meta.items():
        from layouts import write_picture

        for frame in entry["frames"]:
            blank = np.zeros((entry["height"], entry["width"], 3), np.uint8)
            write_picture(tmp_path / "valid_u" / "JPEGImages" / video / f"{frame}.jpg", blank)
    reader = MeViSReader(tmp_path, "valid_u")
    for index, item in enumerate(reader.items):
        entry = meta[reader.videos[item.video].id]
        expected = np.zeros((len(entry["frames"]), entry["height"], entry["width"]), bool)
        for key in entry["expressions"][item.id]["anno_id"]:
            for t, rle in enumerate(masks[str(key)]):
                expected[t] |= library.decode(rle).astype(bool) if rle else False
        np.testing.assert_array_equal(truth(reader, index), expected)


def test_revos_ids_hold_slashes(tmp_path):
    scene = make_scene(("UVO/dense/clip_1", "MOSE/ab12"))
    reader = ReVOSReader(layouts.revos(tmp_path, scene), "valid")
    assert reader.read_frames(0, [0, 3]).shape[0] == 2
    assert [item.subsets for item in reader.items[:3]] == [("referring",), ("reasoning",), ("no_target",)]
    own = scene.masks["UVO/dense/clip_1"]
    np.testing.assert_array_equal(truth(reader, 1), own[2])
    assert not truth(reader, 2).any()
    np.testing.assert_array_equal(reader.read_beside("foreground", 0, [5, 0]), (own[1] | own[2])[[5, 0]])
    assert any("TAO or UVO" in problem.what for problem in reader.problems(fast=True))
    assert [v.id for v in ReVOSReader(tmp_path, "valid", exclude=["UVO/*"]).videos] == ["MOSE/ab12"]


def test_ref_youtube_vos_train(tmp_path):
    scene = make_scene()
    reader = RefYouTubeVOSReader(layouts.ref_youtube_vos(tmp_path, scene), "train")
    assert reader.videos[0].frames == ("00000", "00005", "00010", "00015", "00020", "00025")
    ids = scene.ids("one")
    for item in range(2):
        np.testing.assert_array_equal(truth(reader, item), ids == item + 1)
        np.testing.assert_array_equal(reader.visible(item), (ids == item + 1).any((1, 2)))
    assert reader.items[0].facts == Facts(1, category="box")


def test_ref_youtube_vos_does_not_need_meta_json(tmp_path):
    reader = RefYouTubeVOSReader(layouts.ref_youtube_vos(tmp_path, make_scene(), meta=False), "train")
    assert reader.visible(0) is None and reader.items[0].facts == Facts(1)
    assert truth(reader, 0).any()


def test_ref_youtube_vos_valid_is_listed_minus_test(tmp_path):
    scene = make_scene(("a", "b", "c"))
    layouts.ref_youtube_vos(tmp_path, scene, test_videos=("b",))
    assert [video.id for video in RefYouTubeVOSReader(tmp_path, "valid").videos] == ["a", "c"]
    test = RefYouTubeVOSReader(tmp_path, "test")  # its frames are in the valid archive
    assert [video.id for video in test.videos] == ["b"] and test.read_frames(0, [0]).shape[0] == 1
    assert test.read_masks(0, [0]) is None


def test_ref_youtube_vos_cannot_tell_202_from_507(tmp_path):
    layouts.ref_youtube_vos(tmp_path, make_scene(("a",)))
    entry = {"expressions": {"0": {"exp": "x"}}, "frames": ["00000"]}
    files = {split: tmp_path / "meta_expressions" / split / "meta_expressions.json" for split in ("valid", "test")}
    write_json(files["valid"], {"videos": {f"v{i}": entry for i in range(507)}})
    with pytest.raises(Refused, match=r"507 videos, of which 202.*missing.*blocks validate and submit"):
        RefYouTubeVOSReader(tmp_path, "valid")
    write_json(files["test"], {"videos": {f"v{i}": entry for i in range(305)}})
    assert len(RefYouTubeVOSReader(tmp_path, "valid").videos) == 202
    write_json(files["test"], {"videos": {f"v{i}": entry for i in range(300)}})
    with pytest.raises(Refused, match="leaves 207"):
        RefYouTubeVOSReader(tmp_path, "valid")
    write_json(files["valid"], {"videos": {f"v{i}": entry for i in range(305, 507)}})
    assert len(RefYouTubeVOSReader(tmp_path, "valid").videos) == 202


@pytest.mark.parametrize("make", [layouts.ref_davis, layouts.ref_davis_converted])
def test_ref_davis_layouts_agree(tmp_path, make):
    scene = make_scene(("classic-car", "judo"))
    reader = RefDAVISReader(make(tmp_path, scene), "valid")
    assert len(reader.items) == 16
    assert [item.id for item in reader.items[:8]] == [str(i) for i in range(8)]
    sixth = reader.items[6]
    assert sixth.expression == "café box 2 by 2"  # annotator 2's files are Latin-1
    assert sixth.facts == Facts(2, 2, kind="first_frame")
    np.testing.assert_array_equal(truth(reader, 6), scene.ids("classic-car") == 2)


def test_ref_davis_wants_the_unsupervised_masks_and_all_annotators(tmp_path):
    layouts.ref_davis(tmp_path, make_scene())
    path = tmp_path / "davis_text_annotations" / "Davis17_annot2.txt"
    lines = path.read_text("latin-1").splitlines()
    path.write_text("\n".join(lines[1:]), "latin-1")
    with pytest.raises(Refused, match="object 1 has expressions of 3 of 4 annotators"):
        RefDAVISReader(tmp_path, "valid")
    path.write_text("\n".join(lines + lines[:1]), "latin-1")
    with pytest.raises(DataError, match=r"line 5: video one, object 1 occurs twice"):
        RefDAVISReader(tmp_path, "valid")
    (tmp_path / "DAVIS" / "Annotations_unsupervised").rename(tmp_path / "DAVIS" / "Annotations")
    with pytest.raises(Refused, match="masks of the unsupervised release"):
        RefDAVISReader(tmp_path, "valid")


@pytest.mark.parametrize("prepared", [True, False])
def test_a2d_annotates_only_the_sentence_s_frame(tmp_path, prepared):
    scene = make_scene()
    reader = A2DReader(layouts.a2d(tmp_path, scene, prepared), "test")
    found = {(reader.videos[i.video].id, i.facts.frame + 1, i.facts.object, i.expression) for i in reader.items}
    expected = {(v, f, k, f"box {k}, moving") for v in ("one", "two") for f, k in ((2, 1), (2, 2), (5, 1))}
    assert found == expected
    index = next(i for i, x in enumerate(reader.items) if x.id == "00002_2")
    masks, annotated = reader.read_masks(index, range(6))
    assert annotated.tolist() == [False, True, False, False, False, False]
    np.testing.assert_array_equal(masks[1], scene.masks["one"][2][1])  # stored columns first
    assert reader.items[index].facts.image == "v_one_f_2_i_2"
    assert reader.visible(index).tolist() == annotated.tolist()
    alone = next(i for i, x in enumerate(reader.items) if x.id == "00005_1")  # no leading axis
    np.testing.assert_array_equal(reader.read_masks(alone, [4])[0][0], scene.masks["one"][1][4])


def test_a2d_reads_windows_of_mp4_files(tmp_path):
    import av

    scene = make_scene(time=20, size=(64, 96))
    layouts.a2d(tmp_path, scene, extracted=False)
    folder = tmp_path / "Release" / "clips320H"
    folder.mkdir()
    for video in scene.frames:
        with av.open(str(folder / f"{video}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for t in range(20):  # a grey level that tells the frame
                picture = np.full((64, 96, 3), 10 + 12 * t, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    reader = A2DReader(tmp_path, "test")
    frames = reader.read_frames(0, [3, 17, 9, 9])
    grey = frames.float().mean((1, 2, 3))
    assert torch.allclose(grey, torch.tensor([46.0, 214, 118, 118]), atol=4)


def test_jhmdb_scores_only_stored_frames(tmp_path):
    scene = make_scene()
    reader = JHMDBReader(layouts.jhmdb(tmp_path, scene))
    assert len(reader.items) == 6 and reader.videos[0].id == "run/one"
    assert len(reader.videos[0].frames) == 5  # the frame without a mask is cut
    masks, annotated = reader.read_masks(1, range(5))
    assert annotated.tolist() == [False, False, True, False, False]
    np.testing.assert_array_equal(masks[2], scene.masks["one"][1][2])
    assert reader.read_frames(0, [0]).shape == (1, 3, *scene.size)
    (tmp_path / "jhmdb_sentences_samples_metadata.json").unlink()
    with pytest.raises(Refused, match="drawing frames anew makes scores incomparable"):
        JHMDBReader(tmp_path)
