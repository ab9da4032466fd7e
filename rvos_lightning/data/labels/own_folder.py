"""A split of one's own videos as a folder: written from, and read into, labelled videos."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.footage import picture_size
from rvos_lightning.data.labels.own import (
    FILE,
    FRAMES,
    MASKS,
    OwnObject,
    OwnVideo,
    read_annotations,
    videos_in,
    write_annotations,
)
from rvos_lightning.data.labels.video import PICTURES, DrawnObject, LabelledVideo, decode, encode, plain_name
from rvos_lightning.data.limits import open_picture
from rvos_lightning.data.readers.annotation_files import read_json
from rvos_lightning.data.sources.file_tree import FileTree, Folder, open_tree
from rvos_lightning.data.sources.mask_pictures import Size, decode_ids
from rvos_lightning.data.whole import whole_folder


def write_split(folder: Path, videos: Sequence[LabelledVideo]) -> None:
    """A split's folder, made aside and moved to its place when it is whole.

    Raises:
        DataError: the folder holds something, two videos have one name, frames cannot be read, or the layout has no
            place for what is said of them.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already, and nothing is overwritten. Give a new --out or --split.")
    names = Counter(video.id for video in videos)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise DataError(f"{folder}: two videos are called {twice!r}; rename one of them in its tool or folder.")
    with whole_folder(folder) as partial:
        for name in (FRAMES, MASKS):
            (partial / name).mkdir(parents=True)
        write_annotations(partial / FILE, iter([_write(partial, video) for video in videos]))
        videos_in(read_json(partial / FILE), folder)  # what a tool may say and our layout does not is no split of ours


def _write(folder: Path, video: LabelledVideo) -> OwnVideo:
    film = None
    if video.film is not None:
        film = f"{video.id}{video.film.suffix.lower()}"
        shutil.copyfile(video.film, folder / FRAMES / film)
    else:
        (folder / FRAMES / video.id).mkdir()
    for frame, path in zip(video.frames, video.pictures, strict=video.film is None):
        if (have := picture_size(path)) != tuple(video.size):
            raise DataError(
                f"{path}: {have[1]}x{have[0]} pixels, but its annotations are for {video.size[1]}x{video.size[0]}. "
                "Frames and annotations belong to different copies, or one was resized."
            )
        shutil.copyfile(path, folder / FRAMES / video.id / f"{frame}{path.suffix}")
    for key, drawn in video.objects.items():
        _write_masks(folder / MASKS / video.id / key, video, drawn)
    objects = {key: OwnObject(one.category, one.annotator) for key, one in video.objects.items()}
    return OwnVideo(video.id, () if film else video.frames, film, video.fps, objects, dict(video.sentences))


def _write_masks(folder: Path, video: LabelledVideo, drawn: DrawnObject) -> None:
    import cv2

    folder.mkdir(parents=True)
    for position, mask in sorted(drawn.masks.items()):
        plane = decode([mask], video.size) * np.uint8(255)
        (folder / f"{video.frames[position]}.png").write_bytes(cv2.imencode(".png", plane)[1].tobytes())


def read_split(folder: Path) -> Iterator[LabelledVideo]:
    """The videos of a split's folder, masks as run lengths.

    Raises:
        DataError: not in the layout; `rvos check` says all that is wrong.
    """
    listed = read_annotations(folder / FILE)
    frames, masks = open_tree(folder, FRAMES), open_tree(folder, MASKS)
    if frames is None:
        raise DataError(f"{folder / FRAMES}: missing: the frames of this split.")
    for video in listed:
        yield _read(video, frames, masks)


def _read(video: OwnVideo, frames: FileTree, masks: FileTree | None) -> LabelledVideo:
    files: tuple[str, ...] = ()
    film = None
    names = video.frames
    if video.film is not None:
        from rvos_lightning.data.labels.footage import of_film

        if not isinstance(frames, Folder):
            raise DataError(f"{frames.place}: the film {video.film} lies in an archive; unpack it.")
        found = of_film(Path(frames.path(video.film)))
        names, size, film = found.frames, found.size, frames.place / video.film
    else:
        there = set(frames.names(video.id))
        ends = [end for end in PICTURES if f"{names[0]}{end}" in there]
        if not ends:
            raise DataError(f"{frames.place}/{video.id}: no picture of frame {names[0]}.")
        files = tuple(f"{video.id}/{name}{ends[0]}" for name in names)
        with open_picture(frames.read(files[0]), f"{frames.place}/{files[0]}") as image:
            size = (image.height, image.width)
    objects = {
        key: DrawnObject(_masks(f"{video.id}/{key}", names, size, masks), one.category, one.annotator)
        for key, one in video.objects.items()
    }
    known = tuple(frames.place / name for name in files) if isinstance(frames, Folder) else ()
    return LabelledVideo(video.id, names, size, objects, video.sentences, files, known, film, video.fps)


def _masks(key: str, frames: Sequence[str], size: Size, tree: FileTree | None) -> dict:
    there = set(tree.names(key)) if tree is not None else set()
    found = {}
    for position, frame in enumerate(frames):
        if tree is not None and f"{frame}.png" in there:
            place = f"{tree.place}/{key}/{frame}.png"
            ids = decode_ids(tree.read(f"{key}/{frame}.png"), place)
            if ids.shape != tuple(size):
                raise DataError(f"{place}: {ids.shape[1]}x{ids.shape[0]} pixels on frames of {size[1]}x{size[0]}.")
            found[position] = encode(ids > 0)
    return found


def shares(videos: Sequence[LabelledVideo], split: str) -> dict[str, list[LabelledVideo]]:
    """`train`, or `train=8,val=1,test=1`: which videos go where, by a fixed shuffle of their names.

    Raises:
        DataError: a split twice, shares that are no positive numbers, or more splits than videos.
    """
    import hashlib

    pieces = [piece.partition("=") for piece in split.split(",")]
    parts = {name.strip(): share or "1" for name, _, share in pieces}
    try:
        weights = {plain_name(name): float(weight) for name, weight in parts.items()}
    except ValueError:
        weights = {}
    plain = len(weights) == len(pieces) and all(plain_name(name) == name for name in parts)
    if not plain or not all(0 < weight < math.inf for weight in weights.values()):
        raise DataError(f"--split {split}: give a name (train), or names with shares: train=8,val=1,test=1")
    if len(videos) < len(weights):
        raise DataError(f"--split {split}: {len(videos)} videos cannot fill {len(weights)} splits.")
    mixed = sorted(videos, key=lambda video: hashlib.sha256(video.id.encode()).digest())
    total, ends = sum(weights.values()), np.cumsum(list(weights.values()))
    cuts = [round(len(mixed) * end / total) for end in ends]
    for index in range(len(cuts)):  # none stays empty
        cuts[index] = min(max(cuts[index], index + 1), len(mixed) - (len(cuts) - 1 - index))
    starts = [0, *cuts[:-1]]
    return {name: sorted(mixed[a:b], key=lambda v: v.id) for name, a, b in zip(weights, starts, cuts, strict=True)}
