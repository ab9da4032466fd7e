"""Damages copies of tiny data sets in every layout and says what became of each: refused clearly, right, or a fault."""

import copy
import hashlib
import io
import json
import os
import shutil
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from films import write_film
from layouts import make_scene, promptable, recent, refer, referring, tarred, write_palette
from layouts.scene import Scene
from PIL import Image

import rvos_lightning.data as data
from rvos_lightning.data.reader import DataError
from rvos_lightning.run.check import diagnose

PICTURES = (".jpg", ".png")
MOST_LINES = 5


class Layout(NamedTuple):
    """How to make a data set and how to open it."""

    make: Callable[[Path, Scene], Any]
    opens: str
    splits: tuple[str, ...]
    options: dict[str, Any] = {}  # noqa: RUF012


def _own(root: Path, scene: Scene, film: bool = False) -> None:
    clips = {}
    root.mkdir(parents=True)
    for video, frames in scene.frames.items():
        path = f"{video}.mp4" if film else video
        if film:
            write_film(root / path, range(len(frames)), (24, 38))
        else:
            referring.write_frames(root, Scene({video: frames}, {}))
        for t in range(len(frames)):
            ids = np.zeros((24, 38), np.uint8) if film else np.zeros(scene.size, np.uint8)
            ids[4:9, t : t + 9] = 1
            write_palette(root / "masks" / video / f"{t:05d}.png", ids)
        entry = {"id": "0", "exp": "the box", "masks": f"masks/{video}", "labels": [1]}
        clips[video] = {"path": path, "expressions": [entry]}
    referring.write_json(root / "expressions.json", clips)


def _zipped(make: Callable[[Path, Scene], Any], folder: str) -> Callable[[Path, Scene], Any]:
    def made(root: Path, scene: Scene) -> None:
        make(root, scene)
        place = root / folder
        with zipfile.ZipFile(place.with_name(place.name + ".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(place.rglob("*")):
                if file.is_file():
                    archive.write(file, str(file.relative_to(place)))
        shutil.rmtree(place)

    return made


def _tarred(make: Callable[[Path, Scene], Any], folder: str, top: str = ".") -> Callable[[Path, Scene], Any]:
    def made(root: Path, scene: Scene) -> None:
        make(root, scene)
        tarred(root / folder, top)

    return made


def _a2d_films(root: Path, scene: Scene) -> None:
    referring.a2d(root, scene, extracted=False)
    (root / "Release" / "clips320H").mkdir(parents=True)
    for video, frames in scene.frames.items():
        write_film(root / "Release" / "clips320H" / f"{video}.mp4", range(len(frames)), scene.size, pix_fmt="yuv444p")


def own_films(root: Path, scene: Scene) -> None:
    referring.own(root, scene, ("val",))
    path = root / "val" / "annotations.json"
    content = json.loads(path.read_text())
    for video, entry in content["videos"].items():
        shutil.rmtree(root / "val" / "frames" / video)
        write_film(
            root / "val" / "frames" / f"{video}.mp4", range(len(entry.pop("frames"))), scene.size, pix_fmt="yuv444p"
        )
        entry["film"] = f"{video}.mp4"
    path.write_text(json.dumps(content))


def _coco(root: Path, scene: Scene) -> None:
    refer.refcoco_coco(root, "train")


LAYOUTS = {
    "mevis": Layout(referring.mevis, "MeViS", ("valid_u",)),
    "mevis zipped": Layout(_zipped(referring.mevis, "valid_u/JPEGImages"), "MeViS", ("valid_u",)),
    "mevis v2": Layout(lambda r, s: referring.mevis(r, s, version=2), "MeViS", ("valid_u",)),
    "mevis v2 hidden": Layout(lambda r, s: referring.mevis(r, s, "valid", True, 2), "MeViS", ("valid",)),
    "mevis hidden": Layout(lambda r, s: referring.mevis(r, s, "valid", hidden=True), "MeViS", ("valid",)),
    "revos": Layout(referring.revos, "ReVOS", ("valid",)),
    "ref_youtube_vos": Layout(referring.ref_youtube_vos, "RefYouTubeVOS", ("train", "valid")),
    "ref_davis": Layout(referring.ref_davis, "RefDAVIS", ("valid",)),
    "ref_davis converted": Layout(referring.ref_davis_converted, "RefDAVIS", ("valid",)),
    "a2d": Layout(referring.a2d, "A2DSentences", ("test",)),
    "a2d text": Layout(lambda r, s: referring.a2d(r, s, prepared=False), "A2DSentences", ("test",)),
    "a2d films": Layout(_a2d_films, "A2DSentences", ("test",)),
    "jhmdb": Layout(referring.jhmdb, "JHMDBSentences", ("test",)),
    "davis": Layout(lambda r, s: referring.davis_tree(r, s, "Annotations"), "DAVIS", ("val",)),
    "davis zipped": Layout(
        _zipped(lambda r, s: referring.davis_tree(r, s, "Annotations"), "Annotations"), "DAVIS", ("val",)
    ),
    "sav train": Layout(promptable.sav_train, "SAV", ("train",)),
    "sav val": Layout(promptable.sav_val, "SAV", ("val",)),
    "youtube_vos": Layout(promptable.youtube_vos, "YouTubeVOS", ("train", "valid")),
    "mose": Layout(promptable.mose, "MOSE", ("train", "valid")),
    "mose tarred": Layout(_tarred(promptable.mose, "train"), "MOSE", ("train", "valid")),
    "mose v2": Layout(recent.mose_v2, "MOSE", ("train", "valid"), {"version": 2}),
    "lvos": Layout(recent.lvos, "LVOS", ("val",)),
    "long_rvos": Layout(recent.long_rvos, "LongRVOS", ("valid",)),
    "long_rvos tarred": Layout(_tarred(recent.long_rvos, "valid/Annotations"), "LongRVOS", ("valid",)),
    "yourvos": Layout(recent.yourvos, "YoURVOS", ("test",)),
    "ref_sav": Layout(recent.ref_sav, "RefSAV", ("train",), {"captions": "both"}),
    "ref_sav checked": Layout(recent.ref_sav_eval, "RefSAV", ("valid",)),
    "pumavos": Layout(promptable.pumavos, "PUMaVOS", ("all",)),
    "lvvis": Layout(promptable.lvvis, "LVVIS", ("val",)),
    "esd": Layout(promptable.esd, "ESD", ("train", "test")),
    "sa1b": Layout(promptable.sa1b, "SA1B", ("train",)),
    "sa1b tarred": Layout(_tarred(promptable.sa1b, "sa_000000"), "SA1B", ("train",)),
    "refcoco": Layout(lambda r, s: refer.refcoco(r), "RefCOCO", ("train", "testA")),
    "refcoco coco": Layout(_coco, "RefCOCO", ("train",)),
    "grefcoco": Layout(lambda r, s: refer.grefcoco(r), "GRefCOCO", ("val",)),
    "ref_zom": Layout(lambda r, s: refer.ref_zom(r), "RefZOM", ("test",)),
    "own videos": Layout(referring.own, "OwnVideos", ("train", "val")),
    "own videos hidden": Layout(lambda r, s: referring.own(r, s, ("test",), ("test",)), "OwnVideos", ("test",)),
    "own videos zipped": Layout(
        _zipped(lambda r, s: referring.own(r, s, ("val",)), "val/masks"), "OwnVideos", ("val",)
    ),
    "own films": Layout(own_films, "OwnVideos", ("val",)),
    "own frames": Layout(_own, "ClipWithMasks", ()),
    "own film": Layout(lambda r, s: _own(r, s, film=True), "ClipWithMasks", ()),
}


def make(name: str, root: Path) -> Path:
    """A sound data set of two videos of six frames."""
    LAYOUTS[name].make(root, make_scene())
    return root


# damage: each changes one file and says whether other content may come of it ------------------------------------------

Damage = Callable[[Path, np.random.Generator], None]


def cut(path: Path, draw: np.random.Generator) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * draw.uniform(0.1, 0.9))])


def empty(path: Path, draw: np.random.Generator) -> None:
    path.write_bytes(b"")


def noise(path: Path, draw: np.random.Generator) -> None:
    path.write_bytes(draw.bytes(max(64, path.stat().st_size)))


def pointer(path: Path, draw: np.random.Generator) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n")


def page(path: Path, draw: np.random.Generator) -> None:
    path.write_bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")


def lost(path: Path, draw: np.random.Generator) -> None:
    path.unlink()


def folder(path: Path, draw: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


def link_out(path: Path, draw: np.random.Generator) -> None:
    """A link to another sound file outside the root: what it shows must not be read."""
    place = Path(os.environ["MUTATIONS_OUTSIDE"]) / f"{hashlib.sha256(str(path).encode()).hexdigest()[:8]}{path.suffix}"
    shutil.move(path, place)
    path.symlink_to(place)


def flip(path: Path, draw: np.random.Generator) -> None:
    whole = bytearray(path.read_bytes())
    for _ in range(3 if whole else 0):
        whole[int(draw.integers(len(whole)))] ^= int(draw.integers(1, 256))
    path.write_bytes(whole)


def beside(path: Path, draw: np.random.Generator) -> None:
    path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")


def mark(path: Path, draw: np.random.Generator) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def _save(path: Path, pixels: np.ndarray, kind: str | None = None) -> None:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind or {".jpg": "JPEG", ".png": "PNG"}[path.suffix])
    path.write_bytes(data.getvalue())


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def other_size(path: Path, draw: np.random.Generator) -> None:
    _save(path, np.pad(_pixels(path), [(0, 3), (0, 2)] + [(0, 0)] * (_pixels(path).ndim - 2), mode="edge"))


def huge(path: Path, draw: np.random.Generator) -> None:
    """A header that declares more pixels than the limit, over few bytes; the test sets a small limit."""
    _save(path, np.zeros((80, 90), np.uint8))


def colours(path: Path, draw: np.random.Generator) -> None:
    _save(path, (draw.random((*_pixels(path).shape[:2], 3)) * 255).astype(np.uint8))


def as_jpeg(path: Path, draw: np.random.Generator) -> None:
    with Image.open(path) as image:
        _save(path, np.array(image.convert("RGB")), "JPEG")


def deep(path: Path, draw: np.random.Generator) -> None:
    path.write_text("[" * 3000)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*at, key))


VALUES = (None, "text", "", -1, 0, 2.5, True, [], {}, [None], {"a": 1}, 10**12, [[[1]]], "../../x", [1, "a"])


def other_value(path: Path, draw: np.random.Generator) -> None:
    content = json.loads(path.read_text())
    places = [place for place in _places(content) if place]
    if not places:
        return
    place = places[int(draw.integers(len(places)))]
    holder: Any = content
    for key in place[:-1]:
        holder = holder[key]
    choice = int(draw.integers(len(VALUES) + 1))
    if choice == len(VALUES):
        del holder[place[-1]]
    else:
        holder[place[-1]] = copy.deepcopy(VALUES[choice])
    path.write_text(json.dumps(content))


def other_line(path: Path, draw: np.random.Generator) -> None:
    lines = path.read_text(errors="replace").splitlines() or [""]
    lines[int(draw.integers(len(lines)))] = ("", "nothing", "a,b,c,d,e,f,g,h,i,j", "../../x 1", "\x00")[
        draw.integers(5)
    ]
    path.write_text("\n".join(lines))


DESTROY: tuple[Damage, ...] = (cut, empty, noise, pointer, page, folder, lost, link_out)
HARMLESS: tuple[Damage, ...] = (beside,)
LOOSE: tuple[Damage, ...] = (flip,)  # other content may come of it, but no fault

KINDS: dict[str, tuple[tuple[Damage, ...], tuple[Damage, ...], tuple[Damage, ...]]] = {
    ".json": (DESTROY + (deep,), (*HARMLESS, mark), (*LOOSE, *[other_value] * 12)),
    ".png": (DESTROY + (huge,), HARMLESS, (*LOOSE, other_size, colours, as_jpeg)),
    ".jpg": (DESTROY + (huge, other_size), HARMLESS, (*LOOSE, colours)),
    ".txt": ((cut, noise, folder, lost), (*HARMLESS, mark), (*LOOSE, other_line, other_line, empty, page, pointer)),
    ".csv": ((noise, folder, lost), (*HARMLESS, mark), (*LOOSE, other_line, other_line, cut, empty, page, pointer)),
    ".tar": (DESTROY + (cut, cut), HARMLESS, LOOSE * 8),
}
"""By suffix: what must be refused, what must change nothing, and what may change content."""
OTHERS = (DESTROY, HARMLESS, LOOSE * 3)


def plan(root: Path, draw: np.random.Generator) -> Iterator[tuple[Path, Damage, str]]:
    """A file of each kind and each folder level, with every damage that it can suffer."""
    files = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file())
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        groups.setdefault((file.parts[0] if file.suffix in PICTURES else str(file.parent), file.suffix), []).append(
            file
        )
    for (_, suffix), own in groups.items():
        must, same, may = KINDS.get(suffix, OTHERS)
        for kind, damages in (("refuse", must), ("same", same), ("any", may)):
            for damage in damages:
                yield own[int(draw.integers(len(own)))], damage, kind


# what became of it ----------------------------------------------------------------------------------------------------


def module(name: str, root: Path) -> Any:
    """The data module of a layout, with exactly its splits."""
    layout = LAYOUTS[name]
    made = getattr(data, layout.opens)(root, **layout.options)
    if layout.splits:
        roles = dict(zip(("train", "val", "predict"), (None, None, None), strict=True)) | {"test": None}
        named = {"train": "train"}
        for split in layout.splits:
            roles[named.get(split, "val" if roles["val"] is None else "predict")] = split
        made.splits = roles
    return made


def content(made: Any, splits: tuple[str, ...]) -> str:
    """A digest of everything that the readers give."""
    total = hashlib.sha256()
    for split in splits or ("val",):
        reader = made.open(split) if splits else made.reader(split)
        for index, video in enumerate(reader.videos):
            total.update(repr((video.id, video.frames)).encode())
            total.update(reader.read_frames(index, range(len(video.frames))).numpy().tobytes())
        for index, item in enumerate(reader.items):
            total.update(repr((item.video, item.id, item.expression, item.objects, item.subsets)).encode())
            truth = reader.read_masks(index, range(len(reader.videos[item.video].frames)))
            for part in truth or ():
                total.update(part.numpy().tobytes())
    return total.hexdigest()


class Outcome(NamedTuple):
    """`verdict`: clear, same, other, traceback, silent."""

    verdict: str
    said: str


def printed(made: Any, root: Path) -> frozenset[str]:
    """What the doctor prints: findings, and how many videos, items and masks there are."""
    findings, facts = diagnose(made, False)
    counts = [fact.partition(", annotations sha256")[0] for fact in facts]  # files have changed, of course
    return frozenset(line.replace(str(root), "ROOT") for line in (*(str(f.problem) for f in findings), *counts))


def judge(name: str, root: Path, sound: tuple[str, frozenset[str]], kind: str) -> Outcome:
    """What the doctor and the readers make of a damaged data set, compared with the sound one."""
    made, splits = module(name, root), LAYOUTS[name].splits
    try:
        findings = printed(made, root)
    except BaseException:  # the doctor may not end by an error of its own
        return Outcome("traceback", traceback.format_exc())
    new = sorted(findings - sound[1])
    try:
        found = content(module(name, root), splits)
    except DataError as error:
        clear = str(error).count("\n") <= MOST_LINES and "<_io" not in str(error)
        return Outcome("clear" if clear else "traceback", str(error))
    except BaseException:
        return Outcome("traceback", traceback.format_exc())
    unforeseen = [line for line in new if "Report this" in line or "report this" in line]
    if unforeseen:
        return Outcome("traceback", unforeseen[0])
    if found == sound[0]:
        return Outcome("clear" if new else "same", "; ".join(new))
    if new:
        return Outcome("clear", new[0])
    return Outcome("silent" if kind != "any" else "other", "")
