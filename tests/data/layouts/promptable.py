"""SA-V, YouTube-VOS, MOSE, PUMaVOS, LV-VIS, ESD, SA-1B; DAVIS is among the referring layouts."""

from pathlib import Path

import numpy as np

from layouts.scene import Scene, encode, write_frames, write_json, write_maps, write_picture


def sav_train(root: Path, scene: Scene, nulls=False) -> Path:
    """Masklets of every fourth frame beside extracted frames; numbers are floats, as in the real files."""
    for index, video in enumerate(scene.frames):
        own = scene.masks[video]
        frames = [
            [None if nulls and not mask[t].any() else encode(mask[t]) for mask in own.values()]
            for t in range(len(scene.frames[video]))
        ]
        record = {
            "video_id": video,
            "video_frame_count": float(4 * len(frames) - 3),
            "masklet": frames,
            "masklet_id": list(range(len(own))),
            "masklet_num": len(own),
        }
        write_json(root / "sav_train" / f"sav_{index:03d}" / f"{video}_manual.json", record)
    write_frames(root / "sav_train" / "JPEGImages", scene, stride=4)
    return root


def sav_val(root: Path, scene: Scene) -> Path:
    """Frames at 24 fps, a folder of binary PNGs an object on multiples of 4."""
    folder = root / "sav_val"
    write_frames(folder / "JPEGImages_24fps", scene)
    for video, own in scene.masks.items():
        for label, mask in own.items():
            for t in range(0, len(mask), 4):
                path = folder / "Annotations_6fps" / video / f"{label - 1:03d}" / f"{t:05d}.png"
                write_picture(path, mask[t].astype(np.uint8) * 255)
    (folder / "sav_val.txt").write_text("\n".join(scene.frames) + "\n")
    return root


def youtube_vos(root: Path, scene: Scene, meta=True) -> Path:
    """train whole; in valid each object's first mask only: object 2 first appears on the third frame."""
    for split in ("train", "valid"):
        write_frames(root / split / "JPEGImages", scene, stride=5)
    write_maps(root / "train" / "Annotations", scene, stride=5)
    from layouts.scene import write_palette

    for video, own in scene.masks.items():
        names = scene.names(video, 5)
        write_palette(root / "valid" / "Annotations" / video / f"{names[0]}.png", own[1][0] * 1)
        write_palette(root / "valid" / "Annotations" / video / f"{names[2]}.png", own[2][2] * 2)
        if meta:
            objects = {str(k): {"category": "box", "frames": names[: 4 if k == 2 else None]} for k in own}
            write_json(root / "train" / "meta.json", {"videos": {v: {"objects": objects} for v in scene.frames}})
    return root


def mose(root: Path, scene: Scene) -> Path:
    """valid has the first frame's masks only."""
    for split in ("train", "valid"):
        write_frames(root / split / "JPEGImages", scene)
        write_maps(root / split / "Annotations", scene, only_first=split == "valid")
    return root


def pumavos(root: Path, scene: Scene) -> Path:
    """No splits."""
    write_frames(root / "JPEGImages", scene)
    write_maps(root / "Annotations", scene)
    return root


def lvvis(root: Path, scene: Scene, split="val") -> Path:
    """Two tracks of one category; one uncompressed; nulls; file names out of order."""
    write_frames(root / split / "JPEGImages", scene)
    videos, tracks = [], []
    height, width = scene.size
    for number, (video, own) in enumerate(scene.masks.items(), 1):
        order = list(range(len(scene.frames[video])))[::-1]
        files = [f"{video}/{scene.names(video)[i]}.jpg" for i in order]
        facts = {"height": height, "width": width, "length": len(files)}
        videos.append({"id": number, "file_names": files, **facts})
        for mask in own.values():
            masks = [encode(mask[i]) if mask[i].any() else None for i in order]
            masks[0] = uncompressed(mask[order[0]]) if masks[0] else None
            record = {"id": len(tracks) + 1, "video_id": number, "category_id": 3, "segmentations": masks}
            tracks.append({**record, "iscrowd": 0})
    categories = [{"id": 3, "name": "cardboard_box", "partition": 2}]
    content = {"videos": videos, "annotations": tracks, "categories": categories}
    write_json(root / f"{split}_instances.json", content)
    return root


def uncompressed(mask: np.ndarray) -> dict:
    """Run lengths as a list."""
    flat = mask.flatten(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + runs}


def esd(root: Path, scene: Scene) -> Path:
    """One colour an object; masks are named after images by number only."""
    colours = {1: (200, 10, 10), 2: (10, 200, 10)}
    for part in ("ESD-1", "ESD-2"):
        for video, frames in scene.frames.items():
            folder = root / part / video / "RGB"
            for t, frame in enumerate(frames):
                write_picture(folder / "images" / f"image_{t:04d}.png", frame)
                ids = scene.ids(video)[t]
                picture = np.zeros((*ids.shape, 3), np.uint8)
                for label, colour in colours.items():
                    picture[ids == label] = colour
                write_picture(folder / "masks" / f"mask_{t:04d}.png", picture)
    return root


def sa1b(root: Path, scene: Scene) -> Path:
    """The first frame of each video as a picture; one mask of area zero, as they occur."""
    for number, (video, frames) in enumerate(scene.frames.items(), 1):
        name = f"sa_{number}"
        write_picture(root / "sa_000000" / f"{name}.jpg", frames[0])
        height, width = scene.size
        masks = [scene.masks[video][1][0], scene.masks[video][2][0], np.zeros(scene.size, bool)]
        annotations = [
            {"id": 100 * number + i, "segmentation": encode(mask), "area": int(mask.sum())}
            for i, mask in enumerate(masks)
        ]
        image = {"image_id": number, "width": width, "height": height, "file_name": f"{name}.jpg"}
        write_json(root / "sa_000000" / f"{name}.json", {"image": image, "annotations": annotations})
    return root
