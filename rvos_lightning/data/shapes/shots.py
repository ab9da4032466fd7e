"""Videos of MovingShapes as they go to disk: pictures, object numbers, sentences, and how files are written."""

import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from rvos_lightning.data.shapes.moving_shapes import MovingShapes
from rvos_lightning.data.shapes.render import render
from rvos_lightning.data.shapes.scene import Scene, Thing
from rvos_lightning.data.sources.mask_pictures import palette

ONE_TARGET = dict.fromkeys(("attributes", "size", "turn", "stop", "start", "speed", "late", "tracking_bias"), 1.0)
ANY_TARGET = ONE_TARGET | {"multi": 2.0, "no_target": 2.0}
ALL_VISIBLE = {"attributes": 1.0}
STILL = {"size": 1.0, "relation": 1.0}


@dataclass(frozen=True)
class Shot:
    """One video to write: pictures, object numbers (from 1), and what is said about it.

    Attributes:
        expressions: (sentence, object numbers meant) of each expression.
        scene: what happens in it.
    """

    id: str
    frames: UInt8[np.ndarray, "time height width 3"]
    ids: UInt8[np.ndarray, "time height width"]
    expressions: tuple[tuple[str, tuple[int, ...]], ...]
    scene: Scene

    @property
    def things(self) -> tuple[Thing, ...]:
        """The objects, number 1 first."""
        return self.scene.things

    def whole(self, number: int) -> Bool[np.ndarray, "time height width"]:
        """An object's pixels, also those that another covers."""
        alone = replace(self.scene, things=(self.things[number - 1],), walls=())
        return render(alone, self.ids.shape[1], len(self.ids), np.random.default_rng(0))[1] > 0


@dataclass(frozen=True)
class Source:
    """What to write.

    Attributes:
        videos: in each split.
        size: side of the pictures, in pixels.
        frames: frames a video.
        seed: of MovingShapes.
    """

    videos: int = 4
    size: int = 96
    frames: int = 8
    seed: int = 0

    def shots(self, split: str, kinds: dict[str, float], first: int = 0, frames: int | None = None) -> Iterator[Shot]:
        """`videos` shots of a split of MovingShapes, from number `first` on."""
        counts = {f"{name}_clips": first + self.videos for name in ("train", "val", "test")}
        length = frames or self.frames
        data = MovingShapes("medium", kinds, size=self.size, clip_length=length, data_seed=self.seed, **counts)
        reader = data.reader(split)  # type: ignore[arg-type]
        for video in range(first, first + self.videos):
            everything = range(length)
            items = [reader.items[2 * video + n] for n in range(2)]
            yield Shot(
                f"{split}{video:04d}",
                reader.read_frames(video, everything).permute(0, 2, 3, 1).contiguous().numpy(),
                reader.read_labels(video, everything).numpy(),
                tuple((item.expression, item.objects) for item in items),
                reader.story(video).scene,
            )


def write_json(path: Path, content: Any) -> None:
    """JSON with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_frames(folder: Path, frames: UInt8[np.ndarray, "time height width 3"], names: Sequence[str]) -> None:
    """JPEG files of high quality."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for frame, name in zip(frames, names, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=95, subsampling=0)


def write_ids(folder: Path, ids: UInt8[np.ndarray, "time height width"], names: Sequence[str]) -> None:
    """Palette PNGs whose values are object numbers."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for one, name in zip(ids, names, strict=True):
        image = Image.fromarray(one, mode="P")
        image.putpalette(palette())
        image.save(folder / f"{name}.png")


def rle(mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """COCO's compressed run lengths, as text."""
    from pycocotools import mask as library

    coded = library.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in coded["size"]], "counts": coded["counts"].decode()}


def names(count: int, stride: int = 1) -> list[str]:
    """Five-digit frame names."""
    return [f"{stride * i:05d}" for i in range(count)]


def write_object(folder: Path, masks: Bool[np.ndarray, "time height width"], stems: Sequence[str]) -> None:
    """One object's masks as grey PNGs, 255 inside."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for mask, name in zip(masks, stems, strict=True):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}.png")


def tracks_of(shot: Shot, first: int) -> dict[str, list[dict[str, Any] | None]]:
    """`mask_dict.json` entries of all things of a shot, numbered from `first`."""
    masks = {n: shot.ids == n for n in range(1, len(shot.things) + 1)}
    return {str(first + n - 1): [rle(mask) if mask.any() else None for mask in track] for n, track in masks.items()}


def pack(folder: Path, top: str = ".") -> None:
    """A folder as a plain tar beside it, its files below `top`; the folder goes."""
    with tarfile.open(folder.with_name(f"{folder.name}.tar"), "w") as archive:
        archive.add(folder, top)
    shutil.rmtree(folder)
