"""From annotation tools to one's own videos and back: what each tool writes, and that nothing is lost on the round."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from layouts import encode, make_scene, referring, write_frames, write_json
from PIL import Image
from pycocotools import mask as library

from rvos_lightning.data.labels.brush import decode_brush, encode_brush
from rvos_lightning.data.labels.own import read_annotations
from rvos_lightning.data.labels.own_folder import read_split
from rvos_lightning.data.labels.video import decode
from rvos_lightning.run.check import main as check
from rvos_lightning.run.cli import main
from rvos_lightning.run.labels import FORMATS

SIZE = (24, 37)
FILES = ("coco", "youtube_vis", "label_studio")


@pytest.fixture
def clips(tmp_path):
    """Frames of two videos of six frames, as somebody has annotated them."""
    write_frames(tmp_path / "clips", make_scene())
    return tmp_path / "clips"


def labels(*words, status=0):
    assert main(["labels", *map(str, words)]) == status


def brought(tmp_path, kind, source, clips, *more):
    """What an import gives: object -> frame -> mask of each video."""
    labels("import", kind, source, "--frames", clips, "--out", tmp_path / "mine", *more)
    return planes(tmp_path / "mine" / "train")


def planes(split):
    return {
        video.id: {
            key: {at: decode([mask], video.size) > 0 for at, mask in one.masks.items()}
            for key, one in video.objects.items()
        }
        for video in read_split(split)
    }


def same(one, other):
    assert one.keys() == other.keys()
    for video in one:
        assert one[video].keys() == other[video].keys()
        for key in one[video]:
            assert one[video][key].keys() == other[video][key].keys(), (video, key)
            assert all(np.array_equal(one[video][key][at], other[video][key][at]) for at in one[video][key])


def box(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


# there and back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_there_and_back(kind, tmp_path, capsys):
    root = referring.own(tmp_path / "own", make_scene(), ("val",))
    out = tmp_path / (f"{kind}.json" if kind in FILES else kind)
    labels("export", kind, root / "val", "--out", out)
    beside = [path for path in (out.with_suffix(".sentences.csv"), out / "sentences.csv") if path.is_file()]
    assert bool(beside) == (kind not in ("coco", "youtube_vis"))
    words = ("--sentences", beside[0]) if beside else ()
    labels(
        "import", kind, out, "--frames", root / "val" / "frames", "--out", tmp_path / "again", "--split", "val", *words
    )
    same(planes(root / "val"), planes(tmp_path / "again" / "val"))
    before, after = (read_annotations(one / "val" / "annotations.json") for one in (root, tmp_path / "again"))
    if beside:
        before = [one._replace(fps=None) for one in before]
        assert "frames a second of 2 videos were left out" in capsys.readouterr().out
    assert [one._replace(objects=dict(sorted(one.objects.items()))) for one in after] == before
    assert check(["-c", "configs/data/own.yaml", "--data.root", str(tmp_path / "again"), "--data.train_split", "null",
                  "--data.test_split", "null", "--data.predict_split", "null"]) == 0  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_films_go_there_and_back(kind, tmp_path, capsys):
    from mutations import own_films

    own_films(tmp_path / "own", make_scene(("one",)))
    out = tmp_path / (f"{kind}.json" if kind in FILES else kind)
    labels("export", kind, tmp_path / "own" / "val", "--out", out)
    said = capsys.readouterr().out
    if kind in ("coco", "youtube_vis"):  # name pictures, which somebody has to extract
        assert "1 films have no pictures to name: extract them" in said
        write_frames(tmp_path / "pictures", make_scene(("one",)))
        frames = tmp_path / "pictures"
    else:
        frames = tmp_path / "own" / "val" / "frames"
    labels("import", kind, out, "--frames", frames, "--out", tmp_path / "again", "--split", "val")
    same(planes(tmp_path / "own" / "val"), planes(tmp_path / "again" / "val"))


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_overwritten_and_nothing_half_written(kind, tmp_path, capsys):
    root = referring.own(tmp_path / "own", make_scene(), ("val",))
    labels("export", kind, root / "val", "--out", tmp_path / "x")
    labels("export", kind, root / "val", "--out", tmp_path / "x", status=2)
    assert "nothing is overwritten" in capsys.readouterr().err
    labels("import", kind, tmp_path / "x", "--frames", root / "val" / "frames", "--out", tmp_path / "own", "--split",
           "val", status=2)  # fmt: skip
    assert "nothing is overwritten" in capsys.readouterr().err
    picture = root / "val" / "frames" / "two" / "00004.jpg"
    with Image.open(picture) as image:
        image.resize((38, 24)).save(picture)
    labels("import", kind, tmp_path / "x", "--frames", root / "val" / "frames", "--out", tmp_path / "new", status=2)
    assert "00004.jpg: 38x24 pixels" in capsys.readouterr().err
    assert not list((tmp_path / "new").rglob("*")) if (tmp_path / "new").exists() else True


def test_shares(tmp_path):
    videos = [f"v{n}" for n in range(10)]
    root = referring.own(tmp_path / "own", make_scene(videos), ("train",))
    labels("export", "coco", root / "train", "--out", tmp_path / "all.json")
    labels("import", "coco", tmp_path / "all.json", "--frames", root / "train" / "frames", "--out", tmp_path / "mine",
           "--split", "train=8,val=1,test=1")  # fmt: skip
    found = {
        s: {v.id for v in read_annotations(tmp_path / "mine" / s / "annotations.json")}
        for s in ("train", "val", "test")
    }
    assert [len(one) for one in found.values()] == [8, 1, 1] and set.union(*found.values()) == set(videos)


@pytest.mark.parametrize(
    "split", ["train=nan,val=1", "train=inf,val=1", "train=1,train=2", "train=-1,val=2", "../x", ""]
)
def test_shares_that_are_none(tmp_path, capsys, split):
    root = referring.own(tmp_path / "own", make_scene(), ("train",))
    labels("export", "coco", root / "train", "--out", tmp_path / "all.json")
    labels("import", "coco", tmp_path / "all.json", "--frames", root / "train" / "frames", "--out", tmp_path / "mine",
           "--split", split, status=2)  # fmt: skip
    assert "give a name (train), or names with shares" in capsys.readouterr().err


# COCO ---------------------------------------------------------------------------------------------------------------


def coco(tmp_path, change=lambda table: None):
    """As CVAT exports frames of a video: polygons, an uncompressed crowd, tracks among the attributes."""
    images = [
        {"id": n + 1, "width": 37, "height": 24, "file_name": f"one/{n:05d}.jpg", "license": 0, "flickr_url": "",
         "coco_url": "", "date_captured": 0} for n in range(6)
    ]  # fmt: skip
    common = {"category_id": 1, "iscrowd": 0, "area": 40.0, "bbox": [2.0, 3.0, 8.0, 5.0]}
    polygon = [[2.0, 3.0, 10.0, 3.0, 10.0, 8.0, 2.0, 8.0]]
    flat = np.concatenate([[0], box(1, 1, 5, 6).T.ravel().astype(int), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff([0, *edges, 24 * 37]).tolist()
    annotations = [
        {"id": 1, "image_id": 1, "segmentation": polygon, "attributes": {"occluded": False, "track_id": 7}, **common},
        {"id": 2, "image_id": 3, "segmentation": polygon, "attributes": {"occluded": False, "track_id": 7}, **common},
        {"id": 3, "image_id": 2, "segmentation": {"size": [24, 37], "counts": counts}, **common, "category_id": 2},
        {"id": 4, "image_id": 2, "segmentation": [], "instance_id": 9, **common, "category_id": 2},
        {"id": 5, "image_id": 4, "segmentation": encode(box(0, 0, 3, 3)), "instance_id": 9, **common, "category_id": 2},
    ]
    categories = [
        {"id": 1, "name": "traffic light", "supercategory": ""},
        {"id": 2, "name": "dog", "supercategory": ""},
    ]
    table = {"licenses": [], "info": {}, "categories": categories, "images": images[::-1], "annotations": annotations}
    change(table)
    return write_json(tmp_path / "instances.json", table)


def test_coco(tmp_path, clips, capsys):
    found = brought(tmp_path, "coco", coco(tmp_path), clips)["one"]
    assert sorted(found) == ["dog_3", "dog_9", "traffic_light_7"]
    light, single, tracked = (found[key] for key in ("traffic_light_7", "dog_3", "dog_9"))
    wanted = library.decode(library.frPyObjects([[2.0, 3.0, 10.0, 3.0, 10.0, 8.0, 2.0, 8.0]], *SIZE))[..., 0] > 0
    assert [at for at, mask in light.items() if mask.any()] == [0, 2] and len(light) == 6
    assert np.array_equal(light[0], wanted) and np.array_equal(tracked[1], wanted)
    assert (
        list(single) == [1]
        and np.array_equal(single[1], box(1, 1, 5, 6))
        and np.array_equal(tracked[3], box(0, 0, 3, 3))
    )
    out = capsys.readouterr().out
    assert "2 polygons became pixels" in out and "1 annotations name no track" in out and "box was filled" in out
    assert "no sentence was given" in out


def test_coco_pictures_that_are_no_video(tmp_path, clips, capsys):
    (tmp_path / "photos").mkdir()
    for name, size in (("a", (37, 24)), ("b", (20, 10))):
        Image.new("RGB", size).save(tmp_path / "photos" / f"{name}.png")

    def change(table):
        table["images"] = [{"id": 1, "file_name": "a.png", "height": 24, "width": 37},
                           {"id": 2, "file_name": "b.png", "height": 10, "width": 20}]  # fmt: skip
        table["annotations"] = table["annotations"][:1]

    found = brought(tmp_path, "coco", coco(tmp_path, change), tmp_path / "photos", "--say_categories")
    assert sorted(found) == ["a", "b"] and found["b"] == {}
    said = read_annotations(tmp_path / "mine" / "train" / "annotations.json")
    assert [one.sentences["category_0"].text for one in said if one.sentences] == ["traffic light"]
    assert "2 pictures of different sizes in one folder" in capsys.readouterr().out


# YouTube-VIS --------------------------------------------------------------------------------------------------------


def youtube_vis(tmp_path, change=lambda table: None):
    names = [f"one/{n:05d}.jpg" for n in range(6)]
    mask = encode(box(2, 2, 8, 9))
    table = {
        "info": {"description": "YouTube-VOS"}, "licenses": [],
        "videos": [{"id": 1, "license": 1, "coco_url": "", "height": 24, "width": 37, "length": 6, "date_captured": "",
                    "flickr_url": "", "file_names": names}],
        "annotations": [{"id": 3, "video_id": 1, "category_id": 5, "iscrowd": 0, "height": 24, "width": 37, "length": 1,
                         "segmentations": [None, mask, None, [[2.0, 3.0, 10.0, 3.0, 10.0, 8.0, 2.0, 8.0]], None, None],
                         "bboxes": [None, [2.0, 2.0, 7.0, 6.0], None, [2.0, 3.0, 8.0, 5.0], None, None],
                         "areas": [None, 42, None, 40, None, None]}],
        "categories": [{"supercategory": "object", "id": 5, "name": "snowboard"}],
    }  # fmt: skip
    change(table)
    return write_json(tmp_path / "train.json", table)


def test_youtube_vis(tmp_path, clips, capsys):
    found = brought(tmp_path, "youtube_vis", youtube_vis(tmp_path), clips)["one"]["snowboard_3"]
    assert [at for at, mask in found.items() if mask.any()] == [1, 3] and len(found) == 6
    assert np.array_equal(found[1], box(2, 2, 8, 9)) and "1 polygons became pixels" in capsys.readouterr().out


# CVAT ---------------------------------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>5</id><name>one</name><size>6</size><mode>interpolation</mode><overlap>5</overlap>
      <start_frame>{start}</start_frame><stop_frame>{stop}</stop_frame><frame_filter>{step}</frame_filter>
      <labels><label><name>car</name><color>#fa3253</color><type>any</type><attributes></attributes></label></labels>
      <original_size><width>37</width><height>24</height></original_size>
      <source>one.mp4</source>
    </task>
    <dumped>2026-06-30 00:31:24+00:00</dumped>
  </meta>
{tracks}
</annotations>
"""
BOX = (
    '<box frame="{}" keyframe="{}" outside="{}" occluded="0" xtl="{}" ytl="2.00" xbr="{}" ybr="8.00" z_order="0"></box>'
)


def cvat(tmp_path, *tracks, start=0, stop=5, step=""):
    said = "\n".join(f'<track id="{n}" label="car" source="manual">{body}</track>' for n, body in enumerate(tracks))
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT.format(tracks=said, start=start, stop=stop, step=step))
    return path


def filled(left, top, right, bottom):
    return (
        library.decode(library.frPyObjects([[left, top, right, top, right, bottom, left, bottom]], *SIZE))[..., 0] > 0
    )


def test_cvat_boxes_between_key_frames(tmp_path, clips, capsys):
    track = BOX.format(1, 1, 0, 2, 10) + BOX.format(3, 1, 0, 6, 14) + BOX.format(4, 1, 1, 6, 14)
    found = brought(tmp_path, "cvat", cvat(tmp_path, track), clips)["one"]["car_0"]
    assert len(found) == 6 and [at for at, mask in found.items() if mask.any()] == [1, 2, 3]
    assert np.array_equal(found[2], filled(4, 2, 12, 8)) and "boxes were filled" in capsys.readouterr().out


def test_a_box_of_cvat_turns_the_shorter_way(tmp_path, clips):
    turned = '<box frame="{}" outside="0" xtl="5" ytl="8" xbr="25" ybr="12" rotation="{}"/>'
    found = brought(tmp_path, "cvat", cvat(tmp_path, turned.format(0, 350) + turned.format(4, 30)), clips)["one"]
    assert np.array_equal(found["car_0"][1], filled(5, 8, 25, 12))  # 360 degrees, which lie on the way


def test_cvat_polygons_masks_ellipses(tmp_path, clips, capsys):
    keys = 'keyframe="1" occluded="0" z_order="0"'
    track = f'<polygon frame="0" outside="0" {keys} points="2.00,3.00;10.00,3.00;10.00,8.00;2.00,8.00"/>'
    track += f'<polygon frame="2" outside="0" {keys} points="2.00,3.00;10.00,3.00;10.00,8.00"/>'
    mask = f'<mask frame="1" outside="0" {keys} rle="0, 2, 1, 1, 2" left="4" top="5" width="3" height="2"/>'
    mask += f'<mask frame="2" outside="1" {keys} rle="1" left="4" top="5" width="1" height="1"/>'
    mask += f'<ellipse frame="4" outside="0" {keys} cx="15" cy="12" rx="6" ry="4"/>'
    mask += f'<ellipse frame="5" outside="1" {keys} cx="15" cy="12" rx="6" ry="4"/>'
    points = f'<points frame="0" outside="0" {keys} points="1,1;2,2"/>'
    found = brought(tmp_path, "cvat", cvat(tmp_path, track, mask, points), clips)["one"]
    assert sorted(found) == ["car_0", "car_1"]
    assert list(found["car_0"]) == [0, 2] and np.array_equal(found["car_0"][0], filled(2, 3, 10, 8))
    assert np.argwhere(found["car_1"][1]).tolist() == [[5, 4], [5, 5], [6, 4]]
    assert (
        abs(int(found["car_1"][4].sum()) - np.pi * 24) < 8 and not found["car_1"][3].any() and len(found["car_1"]) == 6
    )
    out = capsys.readouterr().out
    assert "4 frames lie between key frames" in out and "1 shapes that enclose no area" in out and "1 ellipses" in out


def test_cvat_numbers_frames_by_the_film(tmp_path, clips):
    track = BOX.format(20, 1, 0, 2, 10) + BOX.format(25, 1, 1, 2, 10)
    found = brought(tmp_path, "cvat", cvat(tmp_path, track, start=10, stop=35, step="step=5"), clips)["one"]["car_0"]
    assert [at for at, mask in found.items() if mask.any()] == [2]


def test_cvat_from_a_film(tmp_path):
    from films import write_film

    write_film(tmp_path / "one.mp4", range(6), SIZE, pix_fmt="yuv444p")
    track = BOX.format(1, 1, 0, 2, 10) + BOX.format(2, 1, 1, 2, 10)
    found = brought(tmp_path, "cvat", cvat(tmp_path, track), tmp_path / "one.mp4")["one"]["car_0"]
    assert [at for at, mask in found.items() if mask.any()] == [1]
    assert read_annotations(tmp_path / "mine" / "train" / "annotations.json")[0].film == "one.mp4"


def test_cvat_task_over_a_part_of_a_film(tmp_path):
    """Every second frame of a part of it: nobody has looked at the others."""
    from films import write_film

    write_film(tmp_path / "one.mp4", range(12), SIZE, pix_fmt="yuv444p")
    track = BOX.format(4, 1, 0, 2, 10) + BOX.format(8, 1, 1, 2, 10)
    source = cvat(tmp_path, track, start=2, stop=10, step="step=2")
    found = brought(tmp_path, "cvat", source, tmp_path / "one.mp4")["one"]["car_0"]
    assert list(found) == [2, 4, 6, 8, 10] and [at for at, mask in found.items() if mask.any()] == [4, 6]


def test_cvat_as_it_is_downloaded(tmp_path, clips):
    """A zip, and a film whose name has a space."""
    import zipfile

    (clips / "one").rename(clips / "my clip")
    path = cvat(tmp_path, BOX.format(1, 1, 0, 2, 10))
    path.write_text(path.read_text().replace("<name>one</name>", "<name>my clip.mp4</name>"))
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.write(path, "annotations.xml")
    found = brought(tmp_path, "cvat", tmp_path / "task.zip", clips)
    assert [at for at, mask in found["my_clip"]["car_0"].items() if mask.any()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', "declares a document type"),
        ('<!DOCTYPE a SYSTEM "/etc/passwd"><annotations/>', "declares a document type"),
        ("<annotations><meta><task><name>one", "not valid XML"),
        ("<annotations><version>1.1</version><image id='0'/></annotations>", "Export it as CVAT for video 1.1"),
        ("<annotations><meta><project><id>1</id></project></meta></annotations>", "a whole project"),
        ("<html></html>", "no export of CVAT"),
        ("<a>" * 200, "nested too deep"),
    ],
)
def test_cvat_files_that_are_none(tmp_path, clips, capsys, text, words):
    (tmp_path / "x.xml").write_text(text)
    labels("import", "cvat", tmp_path / "x.xml", "--frames", clips, "--out", tmp_path / "mine", status=2)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("track", "words"),
    [
        (BOX.format(6, 1, 0, 2, 10), "frame 6, but the video has 6 frames"),
        (BOX.format(0, 1, 0, "wide", 10), "expected a number, found 'wide'"),
        (BOX.format(0, 1, 0, "nan", 10), "expected a number, found 'nan'"),
        (BOX.format(0, 1, 0, 900000, 10), "no numbers near the picture"),
        ('<mask frame="0" outside="0" rle="5" left="0" top="0" width="2" height="2"/>', "runs of 5 pixels"),
        ('<mask frame="0" outside="0" rle="4" left="36" top="0" width="2" height="2"/>', "at 36,0 on a frame"),
        ('<polygon frame="0" outside="0" points="1;2;3"/>', "must be x,y;x,y"),
    ],
)
def test_cvat_shapes_that_cannot_be(tmp_path, clips, capsys, track, words):
    labels("import", "cvat", cvat(tmp_path, track), "--frames", clips, "--out", tmp_path / "mine", status=2)
    assert words in capsys.readouterr().err


# Label Studio -------------------------------------------------------------------------------------------------------


def key(frame, enabled, x):
    return {
        "frame": frame,
        "enabled": enabled,
        "rotation": 0,
        "x": x,
        "y": 10.0,
        "width": 20.0,
        "height": 50.0,
        "time": 0.1,
    }


def studio_video(tmp_path, sequence, count=6):
    value = {"framesCount": count, "duration": 0.24, "sequence": sequence, "labels": ["Person"]}
    result = {"value": value, "id": "tJhYZLMC9G", "from_name": "box", "to_name": "video", "type": "videorectangle",
              "origin": "manual"}  # fmt: skip
    choice = {"value": {"choices": ["day"]}, "id": "a", "from_name": "c", "to_name": "video", "type": "choices"}
    annotation = {
        "id": 12,
        "completed_by": 1,
        "result": [result, choice],
        "was_cancelled": False,
        "ground_truth": False,
    }
    task = {"id": 1, "annotations": [annotation], "data": {"video": "/data/upload/1/3b1f2c9d-one.mp4"}, "project": 1}
    return write_json(tmp_path / "project-1.json", [task])


def test_label_studio_video(tmp_path, clips, capsys):
    source = studio_video(tmp_path, [key(2, True, 10.0), key(4, False, 30.0), key(6, True, 0.0)])
    found = brought(tmp_path, "label_studio", source, clips)["one"]["Person_tJhYZLMC9G"]
    assert [at for at, mask in found.items() if mask.any()] == [1, 2, 3, 5] and len(found) == 6
    wide, high = 0.37, 0.24
    assert np.array_equal(found[2], filled(20 * wide, 10 * high, 40 * wide, 60 * high))
    assert "1 results that enclose no area" in capsys.readouterr().out


def brush(mask, number, label, **more):
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    return {"original_width": 37, "original_height": 24, "image_rotation": 0, "value": value, "id": f"r{number}",
            "from_name": "tag", "to_name": "image", "type": "brushlabels", "origin": "manual", **more}  # fmt: skip


def test_label_studio_brushes_of_two_people(tmp_path, clips, capsys):
    polygon = {"points": [[10, 10], [50, 10], [50, 60]], "closed": True, "polygonlabels": ["Dog"]}
    drawn = {"original_width": 37, "original_height": 24, "value": polygon, "type": "polygonlabels"}
    tasks = []
    for n in (0, 2):
        by = [(1, [brush(box(2, 2, 6 + n, 8), n, "Dog")]), (2, [brush(box(2, 2, 7, 9), n, "Dog"), drawn])]
        annotations = [{"id": who, "completed_by": {"id": who, "email": f"{who}@x.org"}, "result": r} for who, r in by]
        annotations.append({"completed_by": {"id": 3}, "was_cancelled": True, "result": []})
        data = {"image": f"/data/local-files/?d=clips/one/{n:05d}.jpg"}
        tasks.append({"id": n, "annotations": annotations, "data": data})
    found = brought(tmp_path, "label_studio", write_json(tmp_path / "p.json", tasks), clips)["one"]
    assert sorted(found) == ["Dog", "Dog.2_x.org"] and list(found["Dog"]) == [0, 2]
    assert np.array_equal(found["Dog"][2], box(2, 2, 8, 8)) and (found["Dog.2_x.org"][0] & box(2, 2, 7, 9)).sum() == 35
    people = read_annotations(tmp_path / "mine" / "train" / "annotations.json")[0].objects
    assert {one.annotator for one in people.values()} == {"1@x.org", "2@x.org"}
    out = capsys.readouterr().out
    assert "2 skipped annotations" in out and "regions of one label became one object" in out


def test_brushes_are_those_of_the_tool():
    """A 2x1 picture, left pixel opaque, packed by hand as the format's description has it."""
    bits = f"{8:032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "1" + "00" + f"{3:03b}" + f"{255:08b}"  # four times 255
    bits += "0" + "00" + f"{3:03b}" + f"{0:08b}" * 4  # four zeros, one by one
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert decode_brush(packed, (1, 2), "x").tolist() == [[True, False]]
    random = np.random.default_rng(0)
    for size in ((1, 1), (5, 7), (300, 300)):
        for mask in (random.random(size) < 0.5, np.zeros(size, bool), np.ones(size, bool)):
            assert np.array_equal(decode_brush(encode_brush(mask), size, "x"), mask)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda r: r["value"].update(rle=r["value"]["rle"][:20]), "damaged brush"),
        (lambda r: r["value"].update(rle="abc"), "must list bytes"),
        (lambda r: r["value"]["rle"].__setitem__(0, 255), "values for 37x24 pixels"),
        (lambda r: r.update(original_width=40), "drawn on 40x24 pixels"),
    ],
)
def test_damaged_brushes(tmp_path, clips, capsys, edit, words):
    result = brush(box(2, 2, 8, 8), 0, "Dog")
    edit(result)
    task = {"id": 1, "annotations": [{"result": [result]}], "data": {"image": "one/00000.jpg"}}
    source = write_json(tmp_path / "p.json", [task])
    labels("import", "label_studio", source, "--frames", clips, "--out", tmp_path / "mine", status=2)
    assert words in capsys.readouterr().err


# LabelMe ------------------------------------------------------------------------------------------------------------


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def labelme(tmp_path, shapes):
    for frame, some in shapes.items():
        record = {"version": "5.5.0", "flags": {}, "shapes": some, "imagePath": f"..\\\\clips\\\\one\\\\{frame}.jpg",
                  "imageData": None, "imageHeight": 24, "imageWidth": 37}  # fmt: skip
        write_json(tmp_path / "drawn" / "one" / f"{frame}.json", record)
    return tmp_path / "drawn"


def shape(label, kind, points, group=None, **more):
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        **more,
    }


def test_labelme(tmp_path, clips, capsys):
    square = [[2.0, 3.0], [10.0, 3.0], [10.0, 8.0], [2.0, 8.0]]
    source = labelme(tmp_path, {
        "00000": [shape("dog", "polygon", square, 1), shape("dog", "rectangle", [[20.0, 20.0], [12.0, 10.0]], 2),
                  shape("nose", "point", [[3.0, 3.0]])],
        "00002": [shape("dog", "mask", [[4.0, 5.0], [6.0, 6.0]], 1, mask=png(np.array([[1, 1, 0], [0, 1, 1]], bool))),
                  shape("sun", "circle", [[15.0, 12.0], [15.0, 17.0]])],
    })  # fmt: skip
    found = brought(tmp_path, "labelme", source, clips)["one"]
    assert sorted(found) == ["dog_1", "dog_2", "sun"] and all(list(one) == [0, 2] for one in found.values())
    assert np.array_equal(found["dog_1"][0], filled(2, 3, 10, 8)) and not found["dog_2"][2].any()
    assert np.argwhere(found["dog_1"][2]).tolist() == [[5, 4], [5, 5], [6, 5], [6, 6]]
    assert np.array_equal(found["dog_2"][0], filled(12, 10, 20, 20)) and abs(found["sun"][2].sum() - 25 * np.pi) < 9
    out = capsys.readouterr().out
    assert "4 pictures have no JSON file" in out and "1 shapes that enclose no area" in out and "had no group" in out


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (shape("a", "oriented_rectangle", [[2, 2], [9, 2], [9, 9], [2, 9]]), "'shape_type' is 'oriented_rectangle'"),
        (shape("a", "mask", [[2, 2], [4, 4]], mask=png(np.ones((9, 9), bool))), "a mask of 9x9 pixels in a box of 3x3"),
        (shape("a", "polygon", [[2, 2], [9, 2], [9, 9]], category=" "), "field 'category' is empty"),
    ],
)
def test_labelme_shapes_that_cannot_be(tmp_path, clips, capsys, drawn, words):
    source = labelme(tmp_path, {"00000": [drawn]})
    labels("import", "labelme", source, "--frames", clips, "--out", tmp_path / "mine", status=2)
    assert words in capsys.readouterr().err and not (tmp_path / "mine" / "train").exists()


# names --------------------------------------------------------------------------------------------------------------

ALIKE = ("dog_1", "dog 1", "?" * 300 + "1", "?" * 300 + "2")
"""Names that a folder cannot have, or that become one when what it cannot have is taken out."""


def alike_labelme(tmp_path, planes):
    def corners(mask):
        (top, left), (bottom, right) = np.argwhere(mask)[[0, -1]].tolist()
        return [[left, top], [right + 1, top], [right + 1, bottom + 1], [left, bottom + 1]]

    drawn = [shape(name, "polygon", corners(mask)) for name, mask in zip(ALIKE, planes, strict=True)]
    return labelme(tmp_path, {"00000": [*drawn, shape("dog", "polygon", corners(planes[-1]), 1)]})


def alike_studio(tmp_path, planes):
    result = [brush(mask, n, name) for n, (name, mask) in enumerate(zip(ALIKE, planes, strict=True))]
    task = {"data": {"image": "one/00000.jpg"}, "annotations": [{"completed_by": 1, "result": result}]}
    return write_json(tmp_path / "tasks.json", [task])


def alike_masks(tmp_path, planes):
    for name, mask in zip(ALIKE, planes, strict=True):
        folder = tmp_path / "drawn" / "one" / name[-200:]
        folder.mkdir(parents=True)
        Image.fromarray(mask.astype(np.uint8)).save(folder / "00000.png")
    return tmp_path / "drawn"


@pytest.mark.parametrize(
    ("kind", "make"), [("labelme", alike_labelme), ("label_studio", alike_studio), ("masks", alike_masks)]
)
def test_objects_whose_names_look_alike_stay_apart(tmp_path, clips, kind, make):
    drawn = [box(2, 3 + 7 * n, 9, 9 + 7 * n) for n in range(4)]
    found = brought(tmp_path, kind, make(tmp_path, drawn), clips)["one"]
    assert np.array_equal(found["dog_1"][0], drawn[0])
    kept = [one[0].nonzero()[1].min() // 7 for one in found.values()]
    assert sorted(kept) == ([0, 1, 2, 3, 3] if kind == "labelme" else [0, 1, 2, 3])


def test_an_annotator_keeps_an_object_where_nobody_else_looked(tmp_path, clips):
    def task(frame, *people):
        made = [{"completed_by": who, "result": [brush(box(2, 2, 8, 8), 0, "dog")]} for who in people]
        return {"data": {"image": f"one/{frame}.jpg"}, "annotations": made}

    source = write_json(tmp_path / "tasks.json", [task("00000", 1, 2), task("00001", 1)])
    found = brought(tmp_path, "label_studio", source, clips)["one"]
    assert {name: [*masks] for name, masks in found.items()} == {"dog": [0, 1], "dog.2": [0]}


def test_two_tracks_of_one_id_are_two_objects(tmp_path, clips):
    source = studio_video(tmp_path, [key(1, True, 10.0)])
    tasks = json.loads(source.read_text())
    tasks[0]["annotations"][0]["result"].append(tasks[0]["annotations"][0]["result"][0])
    assert len(brought(tmp_path, "label_studio", write_json(source, tasks), clips)["one"]) == 2


# plain masks --------------------------------------------------------------------------------------------------------


def test_masks_as_numbers_and_as_folders(tmp_path, clips, capsys):
    scene = make_scene()
    for t in (0, 3):
        ids = scene.ids("one")[t]
        ids[-1] = 255
        path = tmp_path / "masks" / "one" / f"{t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(path)
        path = tmp_path / "masks" / "two" / "cat" / f"{t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(box(1, 1, 4, 4 + t)).save(path)
    found = brought(tmp_path, "masks", tmp_path / "masks", clips)
    assert sorted(found["one"]) == ["1", "2"] and list(found["one"]["1"]) == [0, 3]
    wanted = scene.ids("one")[3] == 1
    wanted[-1] = False
    assert np.array_equal(found["one"]["1"][3], wanted) and np.array_equal(found["two"]["cat"][3], box(1, 1, 4, 7))
    assert "hold 255 beside object numbers" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".webp", ".jpg", ".JPG"])
def test_masks_that_are_no_png_are_not_passed_over(tmp_path, clips, capsys, suffix):
    (tmp_path / "drawn/one").mkdir(parents=True)
    for name in ("00000.png", f"00001{suffix}"):
        Image.fromarray(box(2, 2, 8, 8).astype(np.uint8)).save(tmp_path / "drawn/one" / name)
    labels("import", "masks", tmp_path / "drawn", "--frames", clips, "--out", tmp_path / "mine", status=2)
    assert f"one/00001{suffix}: masks must be PNG" in capsys.readouterr().err


def test_one_video_is_named_after_what_is_around_it(tmp_path, clips):
    masks = tmp_path / "horse" / "masks"
    masks.mkdir(parents=True)
    Image.fromarray(box(1, 1, 4, 4)).save(masks / "00000.png")
    assert list(brought(tmp_path, "masks", masks, clips / "one")) == ["one"]
    (clips / "one").rename(tmp_path / "horse" / "frames")
    labels("import", "masks", masks, "--frames", tmp_path / "horse" / "frames", "--out", tmp_path / "other")
    assert list(planes(tmp_path / "other" / "train")) == ["horse"]


def test_masks_of_numbers_where_nothing_is_lost(tmp_path):
    scene = make_scene(("one",))
    scene.masks["one"][2][:] = scene.masks["one"][2] & ~scene.masks["one"][1]
    root = referring.own(tmp_path / "own", scene, ("val",))
    for t in (1, 3, 5):
        Image.fromarray(scene.masks["one"][2][t]).save(root / f"val/masks/one/b/{t:05d}.png")
    labels("export", "masks", root / "val", "--out", tmp_path / "out")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "one" / "00000.png")), scene.ids("one")[0])
    labels("import", "masks", tmp_path / "out", "--frames", root / "val" / "frames", "--out", tmp_path / "new")
    same(planes(root / "val"), planes(tmp_path / "new" / "train"))


# refusals and damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("coco", lambda t: t["images"][0].update(file_name="../../etc/passwd"), "would leave the data root"),
        ("coco", lambda t: t["images"][0].update(file_name="one/9.jpg"), "is not below"),
        ("coco", lambda t: t["annotations"][0].update(image_id=99), "image 99, which is not among the images"),
        ("coco", lambda t: t["annotations"][0].update(segmentation={"size": [5, 5], "counts": "a"}), "mask of"),
        ("coco", lambda t: t["images"].append(t["images"][0]), "two images have one id"),
        ("coco", lambda t: t.pop("categories"), "'categories' is missing"),
        ("coco", lambda t: t["annotations"][0].update(category_id=9), "'category_id' is 9, but the categories are"),
        ("coco", lambda t: t["categories"][1].update(id=1), "two have the id 1"),
        ("coco", lambda t: t["annotations"][1].update(id=1), "two annotations have the id 1"),
        ("coco", lambda t: t.update(tracks=[{"id": 7}, {"id": 7}]), "tracks: two have the id 7"),
        ("coco", lambda t: t.update(videos=[{"id": 7}, {"id": 7}]), "videos: two have the id 7"),
        ("coco", lambda t: t["annotations"][0].update(track_id=3.0), "'track_id' must be int or str"),
        ("coco", lambda t: t["images"][0].update(video_id="a"), "'video_id' must be int"),
        ("coco", lambda t: t["annotations"][0].update(segmentation=[[[1, 1], [5, 5], [7, 9]]]), "must list polygons"),
        ("coco", lambda t: t["annotations"][0].update(segmentation=[[1, 1, 5, 5, 7, 9, 2]]), "must list polygons"),
        ("coco", lambda t: t["annotations"][3].update(bbox=[9, 9, -4, -4]), "'bbox' must be"),
        ("coco", lambda t: t.update(expressions=[{"video_id": 1, "exp": "a dog"}]), "about video 1, which is not"),
        ("youtube_vis", lambda t: t.update(expressions=[{"video_id": 2, "exp": "a"}]), "about video 2, which is not"),
        ("youtube_vis", lambda t: t.update(expressions=[{"id": 1, "video_id": 1, "exp": "a"}] * 2), "have the id 1"),
        ("youtube_vis", lambda t: t.update(expressions=[{"video_id": 1, "exp": " "}]), "field 'exp' is empty"),
        ("youtube_vis", lambda t: t["annotations"][0].update(category_id=9), "'category_id' is 9"),
        ("youtube_vis", lambda t: t["videos"][0].update(fps="25"), "mine/train: video one: field 'fps' must be int"),
        ("youtube_vis", lambda t: t["annotations"][0]["segmentations"].pop(), "5 segmentations for 6 frames"),
        ("youtube_vis", lambda t: t["annotations"][0].update(video_id=4), "video 4, which is not among the videos"),
        (
            "youtube_vis",
            lambda t: t["videos"][0].update(height=20),
            "pixels on a frame|on a picture|but its annotations",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, clips, capsys, kind, change, words):
    import re

    source = {"coco": coco, "youtube_vis": youtube_vis}[kind](tmp_path, change)
    labels("import", kind, source, "--frames", clips, "--out", tmp_path / "mine", status=2)
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "mine" / "train").exists()


SENTENCES = {
    "video,exp\nthree,the dog": "line 2: there is no video 'three'",
    "video,exp,objects\none,the dog,dog": "has no object 'dog'; it has a, b",
    "exp\nthe dog": "no column 'video'",
    "video,exp\none,the dog, brown": "more cells than columns",
    "video,exp\none, ": "'exp' is empty",
    "video,exp,id\none,a,0\none,b,0": "two sentences with the id '0'",
    "video,exp,id\none,a,b/c": "'b/c' is no plain name",
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_that_cannot_be_meant(tmp_path, capsys, text):
    root = referring.own(tmp_path / "own", make_scene(), ("val",))
    labels("export", "masks", root / "val", "--out", tmp_path / "out")
    (tmp_path / "s.csv").write_text(text)
    labels("import", "masks", tmp_path / "out", "--frames", root / "val" / "frames", "--out", tmp_path / "new",
           "--sentences", tmp_path / "s.csv", status=2)  # fmt: skip
    assert SENTENCES[text] in capsys.readouterr().err


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_end_in_one_clear_error(kind, tmp_path, monkeypatch, capsys):
    """Every file of an export, damaged in every way that the readers' files are."""
    import mutations

    monkeypatch.setenv("MUTATIONS_OUTSIDE", str(tmp_path / "outside"))
    (tmp_path / "outside").mkdir()
    root = referring.own(tmp_path / "own", make_scene(("one",), time=3), ("val",))
    sound = tmp_path / "sound"
    sound.mkdir()
    labels("export", kind, root / "val", "--out", sound / "x.json" if kind in FILES else sound / "x")
    damages = [*mutations.DESTROY, mutations.flip, mutations.flip, mutations.deep]
    if kind in (*FILES, "labelme"):
        damages += [mutations.other_value] * 25
    files = [path.relative_to(sound) for path in sorted(sound.rglob("*")) if path.is_file() and path.suffix != ".csv"]
    for number, damage in enumerate(damages):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        shutil.copytree(sound, tmp_path / "bad")
        random = np.random.default_rng(number)
        damage(tmp_path / "bad" / files[number % len(files)], random)
        source = next((tmp_path / "bad").glob("x*")) if any((tmp_path / "bad").glob("x*")) else tmp_path / "bad" / "x"
        status = main(["labels", "import", kind, str(source), "--frames", str(root / "val" / "frames"), "--out",
                       str(tmp_path / "new")])  # fmt: skip
        said = capsys.readouterr().err
        assert "report this" not in said, said
        assert status == 0 or status == 2 and said.startswith("error: ") and said.count("\n") <= 5, (damage, said)
        assert status == 0 or not (tmp_path / "new" / "train").exists()


def test_an_export_is_whole_or_not_there_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    main(
        ["sample", "--layout", "own", "--out", str(tmp_path / "own"), "--videos", "1", "--size", "32", "--frames", "3"]
    )
    (tmp_path / "tasks.sentences.csv").write_text("mine")
    labels("export", "label_studio", tmp_path / "own/train", "--out", tmp_path / "tasks.json", status=2)
    assert "tasks.sentences.csv: is there already" in capsys.readouterr().err
    assert (tmp_path / "tasks.sentences.csv").read_text() == "mine" and not (tmp_path / "tasks.json").exists()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rvos_lightning.data.labels.sentences.write_sentences", full)
    labels("export", "labelme", tmp_path / "own/train", "--out", tmp_path / "shapes", status=2)
    assert "No space left" in capsys.readouterr().err and not (tmp_path / "shapes").exists()


def test_help_and_completion_know_the_verb(capsys):
    from rvos_lightning.run.completion import script
    from rvos_lightning.run.usage import PAGES

    assert main(["labels", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in FORMATS) and "--say_categories" in script("bash", ["labels"], PAGES)


def test_nothing_heavy_is_imported(tmp_path):
    import subprocess
    import sys

    root = referring.own(tmp_path / "own", make_scene(), ("val",))
    code = (
        "import sys; from rvos_lightning.run.cli import main; "
        f"main(['labels', 'export', 'coco', {str(root / 'val')!r}, '--out', {str(tmp_path / 'x.json')!r}]); "
        "print(any(name in sys.modules for name in ('torch', 'lightning', 'torchvision')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_a_link_out_of_the_frames_is_refused(tmp_path, clips, capsys):
    coco(tmp_path)
    outside = shutil.move(clips / "one" / "00000.jpg", tmp_path / "secret.jpg")
    (clips / "one" / "00000.jpg").symlink_to(outside)
    labels("import", "coco", tmp_path / "instances.json", "--frames", clips, "--out", tmp_path / "mine", status=2)
    assert "a link that leads out" in capsys.readouterr().err
