"""A scene, and the ways all layouts write pictures, palettes and run lengths."""

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as library


@dataclass
class Scene:
    """Videos of one size: frames by video id, and masks by video id and label (from 1)."""

    frames: dict[str, np.ndarray]  # uint8 time height width 3
    masks: dict[str, dict[int, np.ndarray]]  # bool time height width

    @property
    def size(self) -> tuple[int, int]:
        return next(iter(self.frames.values())).shape[1:3]

    def names(self, video: str, stride: int = 1, first: int = 0) -> list[str]:
        return [f"{first + stride * i:05d}" for i in range(len(self.frames[video]))]

    def ids(self, video: str) -> np.ndarray:
        """Object maps; larger labels cover smaller ones."""
        out = np.zeros(self.frames[video].shape[:3], np.uint8)
        for label, mask in sorted(self.masks[video].items()):
            out[mask] = label
        return out


def make_scene(videos=("one", "two"), time=6, size=(24, 37), seed=0) -> Scene:
    """Two rectangles a video; they overlap, and the second one is gone on the last two frames."""
    random = np.random.default_rng(seed)
    frames, masks = {}, {}
    for index, video in enumerate(videos):
        noise = random.integers(0, 255, (time, size[0] // 4 + 1, size[1] // 4 + 1, 3), dtype=np.uint8)
        frames[video] = noise.repeat(4, 1).repeat(4, 2)[:, : size[0], : size[1]]
        planes = np.zeros((2, time, *size), bool)
        for t in range(time):
            planes[0, t, 3:12, 2 + t : 14 + t + index] = True
            planes[1, t, 9:18, 8 + t : 20 + t] = t < time - 2
        masks[video] = {1: planes[0], 2: planes[1]}
    return Scene(frames, masks)


def encode(mask: np.ndarray) -> dict:
    """An RLE dict as it stands in JSON files."""
    rle = library.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95)


def write_frames(folder: Path, scene: Scene, stride=1, first=0, suffix=".jpg") -> None:
    """`<folder>/<video>/%05d.jpg`."""
    for video, frames in scene.frames.items():
        for name, frame in zip(scene.names(video, stride, first), frames, strict=True):
            write_picture(folder / video / f"{name}{suffix}", frame)


def write_palette(path: Path, ids: np.ndarray) -> None:
    """A palette PNG with colours in which grey values and object numbers differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8), mode="P")
    image.putpalette([channel for i in range(256) for channel in ((i * 128) % 256, (i * 64) % 256, i)])
    image.save(path)


def write_maps(folder: Path, scene: Scene, stride=1, only_first=False) -> None:
    """`<folder>/<video>/%05d.png` object maps."""
    for video in scene.frames:
        for name, ids in zip(scene.names(video, stride), scene.ids(video), strict=True):
            if not only_first or name == scene.names(video)[0]:
                write_palette(folder / video / f"{name}.png", ids)


def tarred(folder: Path, top: str = ".", form: int = tarfile.PAX_FORMAT) -> Path:
    """A folder as a plain tar beside it, its files below `top`; the folder goes."""
    archive = folder.with_name(f"{folder.name}.tar")
    with tarfile.open(archive, "w", format=form) as file:
        file.add(folder, top)
    shutil.rmtree(folder)
    return archive


def truth(reader, item):
    """Masks of an item on all frames, and which are annotated."""
    video = reader.videos[reader.items[item].video]
    masks, annotated = reader.read_masks(item, range(len(video.frames)))
    return masks.numpy(), annotated.numpy()
