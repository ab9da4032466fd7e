"""MOSE v2, LVOS, Long-RVOS, YoURVOS, Ref-SAV."""

from pathlib import Path

import numpy as np

from layouts import promptable, referring
from layouts.scene import Scene, write_frames, write_json, write_palette, write_picture


def mose_v2(root: Path, scene: Scene) -> Path:
    """MOSE with its meta files: objects as a list in one, as records in the other."""
    promptable.mose(root, scene)
    height, width = scene.size
    for split, form in (("train", list), ("valid", lambda own: {str(label): {} for label in own})):
        videos = {
            video: {"length": len(scene.frames[video]), "height": height, "width": width, "objects": form(own)}
            for video, own in scene.masks.items()
        }
        write_json(root / f"meta_{split}.json", {"videos": videos})
    return root


def lvos(root: Path, scene: Scene, split="val", unseen=True) -> Path:
    """Frames 00000001, 00000006, ...; object 2 comes with the second frame; the first video is unseen."""
    meta = {}
    for number, (video, frames) in enumerate(scene.frames.items()):
        names = [f"{1 + 5 * t:08d}" for t in range(len(frames))]
        objects = {}
        for label in scene.masks[video]:
            start, count = 1 + 5 * (label - 1), len(frames) - (label - 1)
            span = {"start": str(start), "end": str(start + 5 * count), "frame_nums": str(count)}
            objects[str(label)] = {"frame_range": span}
        meta[video] = {"objects": objects}
        for name, frame, ids in zip(names, frames, scene.ids(video), strict=True):
            write_picture(root / split / "JPEGImages" / video / f"{name}.jpg", frame)
            if split != "test" or name == names[0]:
                write_palette(root / split / "Annotations" / video / f"{name}.png", ids)
        if unseen and not number:
            (root / "unseen_videos.txt").write_text(f"{video}\nanother\n")
    write_json(root / split / f"{split}_meta.json", {"videos": meta})
    return root


def long_rvos(root: Path, scene: Scene, split="valid") -> Path:
    """A sentence of each type; no file where the object is absent."""
    write_frames(root / split / "JPEGImages", scene)
    videos = {}
    for video, own in scene.masks.items():
        for label, mask in own.items():
            for name, plane in zip(scene.names(video), mask, strict=True):
                if plane.any():
                    path = root / split / "Annotations" / video / str(label) / f"{name}.png"
                    write_picture(path, plane.astype(np.uint8) * 255)
        kinds = [("static", 1), ("dynamic", 2), ("static+dynamic", 2)]
        said = {
            str(n): {"exp": f"the {kind} box", "obj_id": label if n else str(label), "type": kind}
            for n, (kind, label) in enumerate(kinds)
        }
        videos[video] = {"expressions": said, "frames": scene.names(video)}
    write_json(root / split / "meta_expressions.json", {"videos": videos})
    return root


def yourvos(root: Path, scene: Scene, split="test") -> Path:
    """Every fifth frame; object 2 is gone at the end, so its span ends earlier; masks of its span only."""
    write_frames(root / split / "JPEGImages", scene, stride=5)
    videos = {}
    for video, own in scene.masks.items():
        said, names = {}, scene.names(video, 5)
        for number, label in enumerate((1, 2)):
            shown = np.flatnonzero(own[label].any((1, 2))).tolist()
            said[str(number)] = {"exp": f"box {label}", "obj_id": label, "span": [[5 * shown[0], 5 * shown[-1]]]}
            for t in shown:
                path = root / split / "Annotations" / video / str(number) / f"{names[t]}.png"
                write_palette(path, own[label][t] * label)
        videos[video] = {"expressions": said, "frames": names}
    write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
    return root


def ref_sav(root: Path, scene: Scene) -> Path:
    """Long and short captions on SA-V's training layout, with the doubled folder of the paths as published."""
    promptable.sav_train(root / "sam_v_full", scene)
    content = {}
    for number, (video, own) in enumerate(scene.masks.items()):
        place = f"sav_{number:03d}/sav_train/sav_{number:03d}/{video}"
        objects = {
            str(label - 1): {"formated": f"A long caption of box {label}.", "short_caps": [f"box {label}", "a box"]}
            for label in own
        }
        content[video] = {"video_path": f"{place}.mp4", "anno_path": f"{place}_manual.json", "objects": objects}
    write_json(root / "Ref-SAV.json", content)
    return root


def ref_sav_eval(root: Path, scene: Scene) -> Path:
    """The checked part, as MeViS has it."""
    referring.mevis(root / "made", scene)
    folder, made = root / "ref_sav_eval", root / "made" / "valid_u"
    folder.mkdir(parents=True)
    (made / "JPEGImages").rename(folder / "videos")
    (made / "meta_expressions.json").rename(folder / "meta_expressions_valid.json")
    (made / "mask_dict.json").rename(folder / "mask_dict.json")
    made.rmdir()
    made.parent.rmdir()
    return root
