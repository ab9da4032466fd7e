"""Plain masks: `<video>/<frame>.png` with object numbers, or `<video>/<object>/<frame>.png`.

Ours put a table `objects.csv` beside, which says what the numbers are.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.footage import Footage, find, name_of
from rvos_lightning.data.labels.sentences import write_sentences
from rvos_lightning.data.labels.video import DrawnObject, LabelledVideo, Losses, decode, encode, plain_name, plain_names
from rvos_lightning.data.readers.annotation_files import read_text
from rvos_lightning.data.sources.file_tree import left_by_desktops
from rvos_lightning.data.sources.mask_pictures import NO_NUMBERS, decode_ids, palette
from rvos_lightning.data.sources.rle import Rle

VOID = 255
TABLE, COLUMNS = "objects.csv", ("video", "number", "object", "category", "annotator")
LEFT_OUT = "pixels of {} masks hold 255 beside object numbers: void, which counts as background here"
MOST = 254


def read(source: Path, frames: Path, losses: Losses) -> Iterator[LabelledVideo]:
    """One video for each folder of masks below `source`, or `source` itself.

    Raises:
        DataError: no PNG files, masks of no frame, of another size, or with values that are no object numbers.
    """
    known = _table(source / TABLE) if (source / TABLE).is_file() else {}
    folders = [source] if source.is_dir() and _masks(source) else _folders(source)
    if not folders:
        raise DataError(
            f"{source}: neither PNG masks nor folders of them. Give the folder that holds the videos' folders."
        )
    for folder in folders:
        footage = find(frames, folder.name)
        inside = _masks(folder)
        if inside and (objects := _folders(folder)):
            raise DataError(f"{folder}: holds masks ({inside[0].name}) and folders ({objects[0].name}); keep one form.")
        drawn = _numbered(inside, footage, losses) if inside else _separate(folder, footage)
        if not drawn:
            raise DataError(f"{folder}: no object in any of its masks. Draw some, or take the folder away.")
        named = {}
        for key, masks in drawn.items():
            name, category, who = known.get((folder.name, key), (key, None, None))
            if name in named:
                raise DataError(f"{source / TABLE}: two objects of video {folder.name} are called {name!r}.")
            named[name] = DrawnObject(masks, category, who)
        name = plain_name(name_of(source, frames) if folder == source else folder.name)
        files = tuple(f"{name}/{file}" for file in footage.files)
        yield LabelledVideo(name, footage.frames, footage.size, named, {}, files, footage.pictures, footage.film)


def _folders(folder: Path) -> list[Path]:
    return (
        sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        if folder.is_dir()
        else []
    )


def _masks(folder: Path) -> list[Path]:
    files = [one for one in folder.iterdir() if not left_by_desktops(one.name) and one.is_file()]
    if strange := sorted(one for one in files if one.suffix.lower() in NO_NUMBERS):
        raise DataError(f"{strange[0]}: masks must be PNG, where a value is an object's number. Save it as PNG.")
    return sorted(one for one in files if one.suffix.lower() == ".png")


def _position(path: Path, footage: Footage) -> int:
    if path.stem not in footage.frames:
        raise DataError(
            f"{path}: named after no frame; the frames are called {footage.frames[0]} to {footage.frames[-1]}. "
            "A mask bears its frame's name."
        )
    return footage.frames.index(path.stem)


def _ids(path: Path, footage: Footage) -> np.ndarray:
    try:
        ids = decode_ids(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}). Check the path and its permissions.") from error
    if ids.shape != tuple(footage.size):
        have, want = ids.shape, footage.size
        raise DataError(f"{path}: a mask of {have[1]}x{have[0]} pixels on a frame of {want[1]}x{want[0]}.")
    return ids


def _numbered(files: Sequence[Path], footage: Footage, losses: Losses) -> dict[str, dict[int, Rle | None]]:
    """Objects of pictures with numbers; every picture is about all of them."""
    found: dict[int, dict[int, Rle]] = {}
    looked = []
    for path in files:
        ids, position = _ids(path, footage), _position(path, footage)
        looked.append(position)
        for number in np.flatnonzero(np.bincount(ids.ravel(), minlength=256)).tolist():
            if number:
                found.setdefault(number, {})[position] = encode(ids == number)
    if VOID in found and len(found) > 1:
        losses.say(LEFT_OUT, len(found.pop(VOID)))
    return {str(number): {at: own.get(at) for at in sorted(looked)} for number, own in sorted(found.items())}


def _separate(folder: Path, footage: Footage) -> dict[str, dict[int, Rle | None]]:
    found = {}
    names = plain_names({place: place.name for place in _folders(folder)})
    for place, name in names.items():
        own = {}
        for path in _masks(place):
            ids = _ids(path, footage)
            if len(np.unique(ids[ids > 0])) > 1:
                raise DataError(
                    f"{path}: more than one value besides 0; in a folder an object, a mask holds that object."
                )
            own[_position(path, footage)] = encode(ids > 0)
        if own:
            found[name] = dict(sorted(own.items()))
    return found


def _table(path: Path) -> dict[tuple[str, str], tuple[str, str | None, str | None]]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    if list(rows.fieldnames or ()) != list(COLUMNS):
        raise DataError(f"{path}: its first line must be {','.join(COLUMNS)}; take the file away if it is not ours.")
    return {
        (row["video"], row["number"]): (plain_name(row["object"]), row["category"] or None, row["annotator"] or None)
        for row in rows
    }


def write(videos: Sequence[LabelledVideo], out: Path, losses: Losses) -> None:
    """Palette PNGs with object numbers, or a folder an object where one number a pixel would lose something.

    Beside them `objects.csv`, and sentences in a CSV file.
    """
    out.mkdir()
    rows = []
    for video in videos:
        planes = _planes(video)
        apart = planes is None
        losses.say("{} videos have one folder an object, as a picture of numbers would lose some of their masks", apart)
        names = {key: key if apart else str(number) for number, key in enumerate(video.objects, start=1)}
        rows += [
            (video.id, names[key], key, one.category or "", one.annotator or "") for key, one in video.objects.items()
        ]
        for frame, plane in (planes or {}).items():
            _save(out / video.id / f"{video.frames[frame]}.png", plane)
        for key, one in video.objects.items() if apart else ():
            for frame, mask in one.masks.items():
                _save(out / video.id / key / f"{video.frames[frame]}.png", decode([mask], video.size))
    with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    losses.say("{} sentences went to sentences.csv", write_sentences(out / "sentences.csv", videos))
    losses.say("frames a second of {} videos were left out", sum(video.fps is not None for video in videos))


def _planes(video: LabelledVideo) -> dict[int, UInt8[np.ndarray, "height width"]] | None:
    """Object numbers of each frame; None where they cannot hold all that is drawn."""
    objects = list(video.objects.values())
    same = len({frozenset(one.masks) for one in objects}) <= 1
    if not same or len(objects) > MOST or not all(any(one.masks.values()) for one in objects):
        return None
    planes = {}
    for frame in sorted(objects[0].masks) if objects else ():
        planes[frame] = np.zeros(video.size, np.uint8)
        for number, one in enumerate(objects, start=1):
            inside = decode([one.masks[frame]], video.size) > 0
            if planes[frame][inside].any():
                return None
            planes[frame][inside] = number
    return planes


def _save(path: Path, plane: UInt8[np.ndarray, "height width"]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(plane)
    image.putpalette(palette())
    image.save(path)
