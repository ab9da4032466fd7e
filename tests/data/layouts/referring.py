"""MeViS, ReVOS, Ref-YouTube-VOS, Ref-DAVIS17, A2D-Sentences, JHMDB-Sentences."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from layouts.scene import Scene, encode, tarred, write_frames, write_json, write_maps


def mevis(root: Path, scene: Scene, split="valid_u", hidden=False, version=1) -> Path:
    """Expression 0: object 1; 1: object 2, null where absent; 2: both; 3: no target. Frames unsorted in the file.

    Version 2 comes with its own file names and the frames in a tar.
    """
    folder = root / split
    write_frames(folder / "JPEGImages", scene)
    videos, masks = {}, {}
    for video, own in scene.masks.items():
        ids = {}
        for label, mask in own.items():
            ids[label] = len(masks)
            masks[str(len(masks))] = [encode(m) if m.any() else None for m in mask]
        wanted = {"0": [1], "1": [2], "2": [1, 2], "3": []}
        expressions = {
            key: {"exp": f"Number {key} of {video}.", "obj_id": labels, "anno_id": [ids[n] for n in labels]}
            for key, labels in wanted.items()
        }
        if hidden:
            expressions = {key: {"exp": value["exp"]} for key, value in expressions.items()}
        videos[video] = {"expressions": expressions, "frames": scene.names(video)[::-1]}
    name = {(2, True): "meta_expressions_v2_release", (2, False): "meta_expressions_v2"}.get((version, hidden))
    write_json(folder / f"{name or 'meta_expressions'}.json", {"videos": videos})
    if not hidden:
        write_json(folder / "mask_dict.json", masks)
    if version == 2:
        tarred(folder / "JPEGImages", "JPEGImages")
    return root


def revos(root: Path, scene: Scene, split="valid") -> Path:
    """Video ids with slashes; types 0, 1, 2."""
    write_frames(root / "JPEGImages", scene)
    videos, masks, foreground = {}, {}, {}
    for number, (video, own) in enumerate(scene.masks.items()):
        keys = []
        for mask in own.values():
            keys.append(len(masks))
            masks[str(len(masks))] = [encode(m) if m.any() else None for m in mask]
        foreground[video] = {"masks_rle": [encode(m) for m in own[1] | own[2]], "foreground_ratio": [0.5]}
        kinds = [("the box", 0, keys[:1]), ("What is lower?", 1, keys[1:]), ("a horse", 2, [])]
        expressions = {
            str(i): {"exp": text, "obj_id": [1], "anno_id": ids, "type_id": kind}
            for i, (text, kind, ids) in enumerate(kinds)
        }
        height, width = scene.size
        facts = {"height": height, "width": width, "vid_id": number}
        videos[video] = {"expressions": expressions, "frames": scene.names(video), **facts}
    write_json(root / f"meta_expressions_{split}_.json", {"videos": videos})
    write_json(root / "mask_dict.json", masks)
    write_json(root / "mask_dict_foreground.json", foreground)
    return root


def ref_youtube_vos(root: Path, scene: Scene, test_videos=(), meta=True) -> Path:
    """train and valid of the same videos; `test_videos` are listed in valid and in the test file."""
    for split in ("train", "valid"):
        write_frames(root / split / "JPEGImages", scene, stride=5)
    write_maps(root / "train" / "Annotations", scene, stride=5)
    plain, truth = {}, {}
    for video, own in scene.masks.items():
        frames = scene.names(video, 5)
        texts = {str(i): {"exp": f"the box {label}", "obj_id": str(label)} for i, label in enumerate(own)}
        truth[video] = {"expressions": texts, "frames": frames}
        hidden = {key: {"exp": value["exp"]} for key, value in texts.items()}
        plain[video] = {"expressions": hidden, "frames": frames}
    expressions = root / "meta_expressions"
    write_json(expressions / "train" / "meta_expressions.json", {"videos": truth})
    write_json(expressions / "valid" / "meta_expressions.json", {"videos": plain})
    if test_videos:
        listed = {video: plain[video] for video in test_videos}
        write_json(expressions / "test" / "meta_expressions.json", {"videos": listed})
    if meta:
        objects = {
            video: {
                "objects": {
                    str(label): {
                        "category": "box",
                        "frames": [n for n, m in zip(scene.names(video, 5), mask, strict=True) if m.any()],
                    }
                    for label, mask in own.items()
                }
            }
            for video, own in scene.masks.items()
        }
        write_json(root / "train" / "meta.json", {"videos": objects})
    return root


def davis_tree(root: Path, scene: Scene, folder="Annotations_unsupervised", split="val") -> Path:
    """The DAVIS-2017 tree itself."""
    write_frames(root / "JPEGImages" / "480p", scene)
    write_maps(root / folder / "480p", scene)
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("\n".join(scene.frames) + "\n")
    return root


def ref_davis(root: Path, scene: Scene) -> Path:
    """The original download: text files in two encodings, one video misspelt."""
    davis_tree(root / "DAVIS", scene)
    names = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
    for who, name in enumerate(names):
        lines = []
        for video, own in scene.masks.items():
            written = "clasic-car" if video == "classic-car" else video
            lines += [f'{written} {label} "café box {label} by {who}"' for label in own]
        path = root / "davis_text_annotations" / f"Davis17_{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes("\n".join(lines).encode("utf-8" if who < 2 else "latin-1"))
    return root


def ref_davis_converted(root: Path, scene: Scene) -> Path:
    """What ReferFormer's script makes of it."""
    write_frames(root / "valid" / "JPEGImages", scene)
    write_maps(root / "valid" / "Annotations", scene)
    videos = {}
    for video, own in scene.masks.items():
        texts = {
            str(4 * i + who): {"exp": f"café box {label} by {who}", "obj_id": str(label)}
            for i, label in enumerate(own)
            for who in range(4)
        }
        videos[video] = {"expressions": texts, "frames": scene.names(video)}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})
    return root


def a2d(root: Path, scene: Scene, prepared=True, extracted=True, usage=1) -> Path:
    """Annotated frames 2 and 5 (from 1); both instances on 2, one alone on 5; one instance called "1 (copy)"."""
    rows, table, texts = [], [], ["video_id,instance_id,query"]
    height, width = scene.size
    for video, own in scene.masks.items():
        time = len(scene.frames[video])
        table.append(f"{video},11,0:00,0:05,{height},{width},{time},2,{usage}")
        for frame, labels in ((2, [1, 2]), (5, [1])):
            path = root / "text_annotations" / "a2d_annotation_with_instances" / video / f"{frame:05d}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            planes = np.stack([own[label][frame - 1].T for label in labels]).astype(np.uint8)
            with h5py.File(path, "w") as file:
                file["instance"] = np.array(labels, np.float64)[None]
                file["reMask"] = planes[0] if len(labels) == 1 else planes
                file["reBBox"] = np.zeros((4, len(labels)))
                file["id"] = np.array(labels)
            rows += [[f"box {label}, moving", video, frame, label] for label in labels]
        texts += [f'{video},{label},"box {label}, moving"' for label in own] + [f"{video},1 (copy),box again"]
    (root / "Release").mkdir(parents=True, exist_ok=True)
    (root / "Release" / "videoset.csv").write_text("\n".join(table) + "\n")
    (root / "text_annotations" / "a2d_annotation.txt").write_text("\n".join(texts) + "\n")
    (root / "text_annotations" / "a2d_missed_videos.txt").write_text("")
    if prepared:
        name = "a2d_sentences_single_frame_test_annotations_8_frames.json"
        (root / name).write_text(json.dumps(rows))
        (root / "a2d_sentences_test_annotations_in_coco_format.json").write_text("{}")
    if extracted:
        write_frames(root / "JPEGImages", scene, first=1)
    return root


def jhmdb(root: Path, scene: Scene) -> Path:
    """Paths in the metadata begin where somebody else made it; one mask fewer than pictures."""
    rows = []
    for video in scene.frames:
        folder = f"run/{video}"
        time = len(scene.frames[video]) - 1
        path = root / "puppet_mask" / folder / "puppet_mask.mat"
        path.parent.mkdir(parents=True)
        savemat(path, {"part_mask": (scene.masks[video][1][:time].transpose(1, 2, 0) * 7).astype(np.uint8)})
        far = "/somewhere/else/jhmdb_sentences"
        for number in (1, 3, 5):
            frame = f"{far}/Rename_Images/{folder}/{number:05d}.png"
            rows.append([video, frame, f"{far}/puppet_mask/{folder}/puppet_mask.mat", time, f"a box in {video}"])
    write_frames(root / "Rename_Images" / "run", scene, first=1, suffix=".png")
    write_json(root / "jhmdb_sentences_samples_metadata.json", rows)
    return root


def own(root: Path, scene: Scene, splits=("train", "val", "test"), hidden=()) -> Path:
    """Object a on every frame, b on every second one (drawn whole: they overlap); sentences by two people."""
    for split in splits:
        folder = root / split
        write_frames(folder / "frames", scene)
        videos = {}
        for video, masks in scene.masks.items():
            for key, step in (("a", 1), ("b", 2)):
                for name, mask in list(zip(scene.names(video), masks[1 + (key == "b")], strict=True))[::step]:
                    path = folder / "masks" / video / key / f"{name}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
            said = {"0": ("The box.", ["a"], "anna"), "1": ("the lower box", ["b"], "ben"),
                    "2": ("both", ["a", "b"], "anna"), "3": ("a horse", [], "ben")}  # fmt: skip
            expressions = {k: {"exp": exp, "objects": ids, "annotator": who} for k, (exp, ids, who) in said.items()}
            if split in hidden:
                expressions = {key: {"exp": one["exp"]} for key, one in expressions.items()}
            objects = {"a": {"category": "box", "annotator": "anna"}, "b": {"category": "box"}}
            entry = {"frames": scene.names(video), "fps": 12.5, "objects": objects, "expressions": expressions}
            videos[video] = entry if split not in hidden else {k: v for k, v in entry.items() if k != "objects"}
        write_json(folder / "annotations.json", {"videos": videos})
        if split in hidden:
            shutil.rmtree(folder / "masks")
    return root
