"""Writes MovingShapes to disk in the official layouts, so that readers of real data can be tried end to end.

`rvos sample --layout mevis --out data/mevis --videos 4`
"""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rvos_lightning.data.labels.own import FILE, FRAMES, MASKS, OwnObject, OwnVideo, write_annotations
from rvos_lightning.data.labels.video import Sentence
from rvos_lightning.data.shapes.export_recent import RECENT
from rvos_lightning.data.shapes.grammar import word
from rvos_lightning.data.shapes.kinds import said
from rvos_lightning.data.shapes.shots import (
    ALL_VISIBLE,
    ANY_TARGET,
    ONE_TARGET,
    STILL,
    Shot,
    Source,
    names,
    pack,
    rle,
    tracks_of,
    write_frames,
    write_ids,
    write_json,
    write_object,
)


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
            tracks |= tracks_of(shot, start)
        write_json(out / split / "meta_expressions.json", {"videos": videos})
        if split != "valid":
            write_json(out / split / "mask_dict.json", tracks)


def mevis_v2(out: Path, source: Source) -> None:
    """MeViS under the names of v2's download, frames in one tar a split."""
    mevis(out, source)
    for split, name in (("train", "v2"), ("valid_u", "v2"), ("valid", "v2_release")):
        (out / split / "meta_expressions.json").rename(out / split / f"meta_expressions_{name}.json")
        pack(out / split / "JPEGImages", "JPEGImages")


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
            tracks |= tracks_of(shot, start)
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
    ids = []
    for shot in source.shots("val", ALL_VISIBLE):
        stems = names(len(shot.frames))
        write_frames(out / "sav_val/JPEGImages_24fps" / shot.id, shot.frames, stems)
        for number in range(1, len(shot.things) + 1):
            folder = out / "sav_val/Annotations_6fps" / shot.id / f"{number - 1:03d}"
            write_object(folder, shot.ids[::4] == number, stems[::4])
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


def own(out: Path, source: Source) -> None:
    """Your own videos: objects that overlap, two annotators, frames that nobody drew on, sentences about nothing."""
    for split in ("train", "val", "test"):
        videos = []
        for shot in source.shots(split, ANY_TARGET):
            stems = names(len(shot.frames))
            write_frames(out / split / FRAMES / shot.id, shot.frames, stems)
            objects: dict[str, OwnObject] = {}
            for number, thing in enumerate(shot.things, start=1):
                objects[str(number)] = OwnObject(thing.shape, ("anna", "ben")[number % 2])
                step = 1 + number % 2  # one annotator drew on every second frame only
                write_object(out / split / MASKS / shot.id / str(number), shot.whole(number)[::step], stems[::step])
            said = {
                str(n): Sentence(text, tuple(map(str, meant)), ("anna", "ben")[n % 2])
                for n, (text, meant) in enumerate(shot.expressions)
            }
            videos.append(OwnVideo(shot.id, tuple(stems), None, 10.0, objects, said))
        write_annotations(out / split / FILE, iter(videos))


LAYOUTS = {
    layout.__name__: layout
    for layout in (davis, mevis, mevis_v2, own, ref_davis, ref_youtube_vos, refcoco, revos, sav, youtube_vos, *RECENT)
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
