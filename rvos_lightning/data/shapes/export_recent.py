"""MovingShapes in the layouts of data sets published since 2024: LVOS, Long-RVOS, MOSE v2, Ref-SAV, YoURVOS."""

from pathlib import Path
from typing import Any

import numpy as np

from rvos_lightning.data.shapes.shots import (
    ALL_VISIBLE,
    ANY_TARGET,
    ONE_TARGET,
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


def mose_v2(out: Path, source: Source) -> None:
    """`train` with all masks, `valid` with the first frame's; one tar a split, meta files beside them."""
    for split, ours in (("train", "train"), ("valid", "val")):
        meta: dict[str, Any] = {}
        for shot in source.shots(ours, ALL_VISIBLE):
            stems = names(len(shot.frames))
            write_frames(out / split / "JPEGImages" / shot.id, shot.frames, stems)
            shown = len(stems) if split == "train" else 1
            write_ids(out / split / "Annotations" / shot.id, shot.ids[:shown], stems[:shown])
            labels = [int(n) for n in np.unique(shot.ids[:shown]) if n]
            height, width = shot.ids.shape[1:]
            meta[shot.id] = {"length": len(stems), "height": height, "width": width, "objects": labels}
        write_json(out / f"meta_{split}.json", {"videos": meta})
        pack(out / split, split)


def lvos(out: Path, source: Source) -> None:
    """Frames 00000001, 00000006, ...; an object's range begins where it first shows; half of `val` is unseen."""
    unseen = []
    for split in ("train", "val", "test"):
        meta: dict[str, Any] = {}
        for number, shot in enumerate(source.shots(split, ONE_TARGET)):
            stems = [f"{1 + 5 * position:08d}" for position in range(len(shot.frames))]
            write_frames(out / split / "JPEGImages" / shot.id, shot.frames, stems)
            objects = {}
            for label in (int(n) for n in np.unique(shot.ids) if n):
                first = int(np.flatnonzero((shot.ids == label).any((1, 2)))[0])
                span = {"start": 1 + 5 * first, "end": 1 + 5 * len(stems), "frame_nums": len(stems) - first}
                objects[str(label)] = {"frame_range": {name: str(value) for name, value in span.items()}}
            shown = slice(None) if split != "test" else slice(1)
            write_ids(out / split / "Annotations" / shot.id, shot.ids[shown], stems[shown])
            meta[shot.id] = {"objects": objects}
            unseen += [shot.id] if split == "val" and number % 2 else []
        write_json(out / split / f"{split}_meta.json", {"videos": meta})
    (out / "unseen_videos.txt").write_text("".join(f"{name}\n" for name in unseen))


def long_rvos(out: Path, source: Source) -> None:
    """A sentence of each type in turn; no mask file where an object is not to be seen."""
    types = ("static", "dynamic", "static+dynamic")
    for split, ours in (("train", "train"), ("valid", "val"), ("test", "test")):
        videos: dict[str, Any] = {}
        for shot in source.shots(ours, ONE_TARGET):
            stems = names(len(shot.frames))
            write_frames(out / split / "JPEGImages" / shot.id, shot.frames, stems)
            for label in range(1, len(shot.things) + 1):
                shown = np.flatnonzero((shot.ids == label).any((1, 2)))
                folder = out / split / "Annotations" / shot.id / str(label)
                write_object(folder, shot.ids[shown] == label, [stems[position] for position in shown])
            said = {
                str(n): {"exp": text, "obj_id": meant[0], "type": types[(len(videos) + n) % len(types)]}
                for n, (text, meant) in enumerate(shot.expressions)
            }
            videos[shot.id] = {"expressions": said, "frames": stems}
        write_json(out / split / "meta_expressions.json", {"videos": videos})


def yourvos(out: Path, source: Source) -> None:
    """`test`; every fifth frame number; masks in the spans that show the object."""
    videos: dict[str, Any] = {}
    for shot in source.shots("test", ONE_TARGET):
        stems = names(len(shot.frames), 5)
        write_frames(out / "test/JPEGImages" / shot.id, shot.frames, stems)
        said: dict[str, Any] = {}
        for number, (text, meant) in enumerate(shot.expressions):
            shown = (shot.ids == meant[0]).any((1, 2))
            edges = np.flatnonzero(np.diff(np.r_[False, shown, False])).reshape(-1, 2)
            own = np.where(shot.ids == meant[0], shot.ids, 0)[shown]
            folder = out / "test/Annotations" / shot.id / str(number)
            write_ids(folder, own, [stem for stem, there in zip(stems, shown, strict=True) if there])
            spans = [[5 * int(first), 5 * (int(end) - 1)] for first, end in edges]
            said[str(number)] = {"exp": text, "obj_id": meant[0], "span": spans}
        videos[shot.id] = {"expressions": said, "frames": stems}
    write_json(out / "meta_expressions/test/meta_expressions.json", {"videos": videos})


def ref_sav(out: Path, source: Source) -> None:
    """Captions on SA-V's training layout, its frames extracted; the checked part as MeViS has it."""
    content: dict[str, Any] = {}
    films = out / "sam_v_full/sav_train"
    for shot in source.shots("train", ONE_TARGET):
        write_frames(films / "JPEGImages" / shot.id, shot.frames, names(len(shot.frames), 4))
        things = range(1, len(shot.things) + 1)
        masks = [[rle(ids == number) for number in things] for ids in shot.ids]
        counts = {"video_frame_count": float(4 * len(shot.frames) - 3), "masklet_num": len(things)}
        record = {"video_id": shot.id, **counts, "masklet_id": [n - 1 for n in things], "masklet": masks}
        write_json(films / "sav_000" / f"{shot.id}_manual.json", record)
        place = f"sav_000/sav_train/sav_000/{shot.id}"
        said: dict[str, Any] = {}
        for text, meant in shot.expressions:
            own = said.setdefault(
                str(meant[0] - 1), {"formated": f"In the video, {text} can be seen.", "short_caps": []}
            )
            own["short_caps"].append(text)
        content[shot.id] = {"video_path": f"{place}.mp4", "anno_path": f"{place}_manual.json", "objects": said}
    write_json(out / "Ref-SAV.json", content)
    videos: dict[str, Any] = {}
    tracks: dict[str, Any] = {}
    for shot in source.shots("val", ANY_TARGET):
        stems, start = names(len(shot.frames)), len(tracks)
        write_frames(out / "ref_sav_eval/videos" / shot.id, shot.frames, stems)
        expressions = {
            str(n): {"exp": text, "obj_id": [k - 1 for k in meant], "anno_id": [start + k - 1 for k in meant]}
            for n, (text, meant) in enumerate(shot.expressions)
        }
        videos[shot.id] = {"expressions": expressions, "frames": stems}
        tracks |= tracks_of(shot, start)
    write_json(out / "ref_sav_eval/meta_expressions_valid.json", {"videos": videos})
    write_json(out / "ref_sav_eval/mask_dict.json", tracks)


RECENT = (long_rvos, lvos, mose_v2, ref_sav, yourvos)
"""To be listed with the others."""
