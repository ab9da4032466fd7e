"""Writes MovingShapes to disk in the official layouts, so that readers of real data can be tried end to end.

`rvos sample --layout mevis --out data/mevis --videos 4`
"""

import argparse
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from rvos_lightning.data.shapes.grammar import word
from rvos_lightning.data.shapes.kinds import said
from rvos_lightning.data.shapes.moving_shapes import MovingShapes
from rvos_lightning.data.shapes.scene import Thing

ONE_TARGET = dict.fromkeys(("attributes", "size", "turn", "stop", "start", "speed", "late", "tracking_bias"), 1.0)
ANY_TARGET = ONE_TARGET | {"multi": 2.0, "no_target": 2.0}
ALL_VISIBLE = {"attributes": 1.0}
STILL = {"size": 1.0, "relation": 1.0}


@dataclass(frozen=True)
class Shot:
    """One video to write: pictures, object numbers (from 1), and what is said about it.

    Attributes:
        expressions: (sentence, object numbers meant) of each expression.
        things: the objects, number 1 first.
    """

    id: str
    frames: UInt8[np.ndarray, "time height width 3"]
    ids: UInt8[np.ndarray, "time height width"]
    expressions: tuple[tuple[str, tuple[int, ...]], ...]
    things: tuple[Thing, ...]


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
                reader.story(video).scene.things,
            )


def palette() -> list[int]:
    """The 256 colours of VOC and DAVIS: bits of the index dealt to red, green and blue, highest first."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            colours[index, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return [int(value) for value in colours.ravel()]


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


def youtube_vos(out: Path, source: Source, expressions: bool = False) -> None:
    """`train` with all masks, `valid` with first ones (none for Ref-YouTube-VOS); every fifth frame number."""
    for split, ours in (("train", "train"), ("valid", "val")):
        meta: dict[str, Any] = {}
        for shot in source.shots(ours, ONE_TARGET):
            stems = names(len(shot.frames), 5)
            write_frames(out / split / "JPEGImages" / shot.id, shot.frames, stems)
            seen = {n: [s for s, i in zip(stems, shot.ids, strict=True) if (i == n).any()] for n in np.unique(shot.ids)}
            seen.pop(0, None)
            objects = {str(n): {"category": shot.things[n - 1].shape, "frames": frames} for n, frames in seen.items()}
            meta[shot.id] = {"objects": objects}
            if split == "train":
                write_ids(out / split / "Annotations" / shot.id, shot.ids, stems)
            elif not expressions:
                first = sorted({frames[0] for frames in seen.values()})
                write_ids(out / split / "Annotations" / shot.id, shot.ids[[stems.index(f) for f in first]], first)
        if split == "train" or not expressions:
            write_json(out / split / "meta.json", {"videos": meta})


def ref_youtube_vos(out: Path, source: Source) -> None:
    """YouTube-VOS with expressions; `valid` lists the test videos too, as some downloads do."""
    youtube_vos(out, source, expressions=True)

    def table(split: str, first: int = 0) -> dict[str, Any]:
        videos = {}
        for shot in source.shots(split, ONE_TARGET, first):
            said = {
                str(n): {"exp": text} | ({"obj_id": str(meant[0])} if split == "train" else {})
                for n, (text, meant) in enumerate(shot.expressions)
            }
            videos[shot.id] = {"expressions": said, "frames": names(len(shot.frames), 5)}
        return videos

    hidden = table("val", source.videos)
    for shot in source.shots("val", ONE_TARGET, source.videos):
        write_frames(out / "valid/JPEGImages" / shot.id, shot.frames, names(len(shot.frames), 5))
    for split, videos in (("train", table("train")), ("valid", table("val") | hidden), ("test", hidden)):
        write_json(out / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})


def _tracks(shot: Shot, first: int) -> dict[str, list[dict[str, Any] | None]]:
    """`mask_dict.json` entries of all things of a shot, numbered from `first`."""
    masks = {n: shot.ids == n for n in range(1, len(shot.things) + 1)}
    return {str(first + n - 1): [rle(mask) if mask.any() else None for mask in track] for n, track in masks.items()}


def mevis(out: Path, source: Source) -> None:
    """`train` and `valid_u` with masks, `valid` without; expressions may mean several objects or none (v2)."""
    for split, ours, first in (("train", "train", 0), ("valid_u", "val", 0), ("valid", "val", source.videos)):
        tracks: dict[str, Any] = {}
        videos: dict[str, Any] = {}
        for shot in source.shots(ours, ANY_TARGET, first):
            stems, start = names(len(shot.frames)), len(tracks)
            write_frames(out / split / "JPEGImages" / shot.id, shot.frames, stems)
            said: dict[str, Any] = {}
            for number, (text, meant) in enumerate(shot.expressions):
                known = {"obj_id": [n - 1 for n in meant], "anno_id": [start + n - 1 for n in meant]}
                said[str(number)] = {"exp": text, **({} if split == "valid" else known)}
            videos[shot.id] = {"expressions": said, "frames": stems}
            tracks |= _tracks(shot, start)
        write_json(out / split / "meta_expressions.json", {"videos": videos})
        if split != "valid":
            write_json(out / split / "mask_dict.json", tracks)


def revos(out: Path, source: Source) -> None:
    """Video ids with slashes, one mask file for both splits, type 2 where nothing is meant."""
    tracks: dict[str, Any] = {}
    foreground: dict[str, Any] = {}
    for split, ours in (("train", "train"), ("valid", "val")):
        videos: dict[str, Any] = {}
        for number, shot in enumerate(source.shots(ours, ANY_TARGET)):
            id, stems, start = f"SHAPES/{split}/{shot.id}", names(len(shot.frames)), len(tracks)
            write_frames(out / "JPEGImages" / id, shot.frames, stems)
            said = {}
            for n, (text, meant) in enumerate(shot.expressions):
                anno, kind = [start + m - 1 for m in meant], 2 if not meant else n % 2
                said[str(n)] = {"exp": text, "obj_id": [m - 1 for m in meant], "anno_id": anno, "type_id": kind}
            size = {"height": source.size, "width": source.size, "vid_id": number}
            videos[id] = {"expressions": said, "frames": stems, **size}
            tracks |= _tracks(shot, start)
            masks = shot.ids > 0
            ratio = [float(mask.mean()) for mask in masks]
            foreground[id] = {"masks_rle": [rle(mask) for mask in masks], "foreground_ratio": ratio}
        write_json(out / f"meta_expressions_{split}_.json", {"videos": videos})
    write_json(out / "mask_dict.json", tracks)
    write_json(out / "mask_dict_foreground.json", foreground)


def davis(out: Path, source: Source) -> None:
    """DAVIS-2017, semi-supervised and unsupervised annotations alike."""
    for split, ours in (("train", "train"), ("val", "val")):
        ids = []
        for shot in source.shots(ours, ALL_VISIBLE):
            stems = names(len(shot.frames))
            write_frames(out / "JPEGImages/480p" / shot.id, shot.frames, stems)
            for kind in ("Annotations", "Annotations_unsupervised"):
                write_ids(out / kind / "480p" / shot.id, shot.ids, stems)
            ids.append(shot.id)
        (out / "ImageSets/2017").mkdir(parents=True, exist_ok=True)
        (out / "ImageSets/2017" / f"{split}.txt").write_text("".join(f"{id}\n" for id in ids))


def ref_davis(out: Path, source: Source) -> None:
    """The original download: the DAVIS tree and four text files, two annotators, first frame and full video."""
    davis(out / "DAVIS", source)
    rows: dict[str, list[str]] = {}
    for ours in ("train", "val"):
        for shot in source.shots(ours, ALL_VISIBLE):
            random = np.random.default_rng(len(shot.id))
            for number, thing in enumerate(shot.things, start=1):
                for annotator in (1, 2):
                    for kind in ("", "_full_video"):
                        file = f"Davis17_annot{annotator}{kind}.txt"
                        rows.setdefault(file, []).append(f'{shot.id} {number} "{word(said(thing), random)}"')
    semantics = {
        shot.id: {str(n): thing.shape for n, thing in enumerate(shot.things, start=1)}
        for ours in ("train", "val")
        for shot in source.shots(ours, ALL_VISIBLE)
    }
    for file, lines in rows.items():
        encoding = "latin-1" if "annot2" in file else "utf-8"
        (out / "davis_text_annotations").mkdir(parents=True, exist_ok=True)
        (out / "davis_text_annotations" / file).write_text("\n".join(lines) + "\n", encoding=encoding)
    write_json(out / "davis_semantics.json", semantics)


def sav(out: Path, source: Source) -> None:
    """SA-V `val`: every frame as JPEG, each object's masks on every fourth, one folder an object."""
    from PIL import Image

    ids = []
    for shot in source.shots("val", ALL_VISIBLE):
        stems = names(len(shot.frames))
        write_frames(out / "sav_val/JPEGImages_24fps" / shot.id, shot.frames, stems)
        for number in range(1, len(shot.things) + 1):
            folder = out / "sav_val/Annotations_6fps" / shot.id / f"{number - 1:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            for position in range(0, len(stems), 4):
                mask = (shot.ids[position] == number).astype(np.uint8) * 255
                Image.fromarray(mask).save(folder / f"{stems[position]}.png")
        ids.append(shot.id)
    (out / "sav_val/sav_val.txt").write_text("".join(f"{id}\n" for id in ids))


def refcoco(out: Path, source: Source) -> None:
    """The refer API's files: `refs(unc).p`, `instances.json`, and pictures under COCO's names."""
    refs: list[dict[str, Any]] = []
    tables: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    sentence = 0
    splits = (("train", "train", 0), ("val", "val", 0), ("testA", "test", 0), ("testB", "test", source.videos))
    for split, ours, first in splits:
        for shot in source.shots(ours, STILL, first, frames=1):
            image = len(tables["images"]) + 1
            file = f"COCO_train2014_{image:012d}"
            write_frames(out / "images/train2014", shot.frames, [file])
            size = {"height": source.size, "width": source.size}
            tables["images"].append({"id": image, "file_name": f"{file}.jpg", **size})
            start = len(tables["annotations"])
            tables["annotations"] += _coco(shot, image, start)
            for text, meant in shot.expressions:
                entry = tables["annotations"][start + meant[0] - 1]
                said = {"sent_id": sentence, "raw": text.capitalize() + ".", "sent": text, "tokens": text.split()}
                refs.append(
                    {"ref_id": len(refs), "ann_id": entry["id"], "category_id": entry["category_id"]}
                    | {"image_id": image, "file_name": f"{file}_{len(refs)}.jpg", "split": split}
                    | {"sent_ids": [sentence], "sentences": [said]}
                )
                sentence += 1
    tables["categories"] = [{"id": 1, "name": "shape", "supercategory": "shape"}]
    write_json(out / "refcoco/instances.json", tables | {"info": {}, "licenses": []})
    (out / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def _coco(shot: Shot, image: int, start: int) -> list[dict[str, Any]]:
    """Annotations of all things on the first frame, as uncompressed run lengths."""
    rows = []
    for number in range(1, len(shot.things) + 1):
        mask = shot.ids[0] == number
        flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
        edges = np.flatnonzero(np.diff(flat))
        counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
        where = np.argwhere(mask)
        (y0, x0), (y1, x1) = (where.min(0), where.max(0) + 1) if len(where) else ((0, 0), (0, 0))
        rows.append(
            {"id": start + number, "image_id": image, "category_id": 1, "iscrowd": 0, "area": int(mask.sum())}
            | {"bbox": [int(x0), int(y0), int(x1 - x0), int(y1 - y0)]}
            | {"segmentation": {"size": list(mask.shape), "counts": [int(n) for n in counts]}}
        )
    return rows


LAYOUTS = {
    layout.__name__: layout for layout in (davis, mevis, ref_davis, ref_youtube_vos, refcoco, revos, sav, youtube_vos)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="rvos sample", description=__doc__)
    parser.add_argument("--layout", required=True, choices=sorted(LAYOUTS), help="whose official layout")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to; must be empty or new")
    parser.add_argument("--videos", type=int, default=4, help="videos (pictures) in each split")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels")
    parser.add_argument("--frames", type=int, default=8, help="frames a video")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.out.exists() and any(given.out.iterdir()):
        parser.error(f"--out {given.out} is not empty: give a new folder")
    given.out.mkdir(parents=True, exist_ok=True)
    LAYOUTS[given.layout](given.out, Source(given.videos, given.size, given.frames, given.seed))
    print(f"wrote {given.layout} with {given.videos} videos a split to {given.out}")
