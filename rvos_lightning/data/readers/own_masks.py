"""What can be wrong with masks that somebody drew: names, kinds of files, sizes, and values that are no labels."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rvos_lightning.data.problems import Problem
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.mask_pictures import NO_NUMBERS, Size, decode_ids

BLOCKS = ("train", "validate")
SHOWN = 6
MOST_STRANGERS = 2  # values that no expression means, in masks of which 255 is the object


def mask_files(place: Path) -> dict[str, Path]:
    """The mask of each frame by its stem: of a folder's PNG files (suffix in any case), or one PNG."""
    return {path.stem: path for path in _pictures(place)}


def _pictures(place: Path) -> list[Path]:
    files = [place] if place.is_file() else sorted(place.iterdir())
    return [path for path in files if path.suffix.lower() == ".png" and not path.name.startswith(".")]


def _no_numbers(path: Path) -> bool:
    return path.suffix.lower() in NO_NUMBERS and not path.name.startswith(".")


def mask_problems(
    place: Path, frames: Sequence[str], size: Size, labels: Sequence[Sequence[int]], decoded: dict[Path, set[int]]
) -> Iterator[Problem]:
    """Everything that would leave masks unread, or empty, without a word.

    Args:
        place: folder of masks, or one mask.
        frames: names of the video's frames.
        size: (height, width) of the frames.
        labels: those of every expression that points here.
        decoded: values of masks looked at before; filled.
    """
    files = mask_files(place)
    if not files:
        others = sorted(path.name for path in place.iterdir()) if place.is_dir() else [place.name]
        what = f"no PNG file in it; found {', '.join(others[:SHOWN]) or 'nothing'}"
        yield Problem(str(place), what, "Save masks as PNG; JPEG changes values, so numbers are lost.", BLOCKS)
        return
    strange = sorted(path.name for path in place.iterdir() if _no_numbers(path)) if place.is_dir() else []
    if strange:
        what = f"{len(strange)} files are no PNG, the first: {strange[0]}"
        yield Problem(str(place), what, "Masks of one folder are PNG files: save them as such, or move them.", BLOCKS)
    named_twice = [path for path in _pictures(place) if files[path.stem] != path]
    if named_twice:
        what = f"two masks of one frame: {named_twice[0].name} and {files[named_twice[0].stem].name}"
        yield Problem(str(place), what, "Keep the one that is meant.", BLOCKS)
    strangers = [stem for stem in files if stem not in set(frames)]
    if strangers:
        named = ", ".join(files[stem].name for stem in strangers[:SHOWN])
        what = f"{len(strangers)} of {len(files)} masks are named after no frame: {named}"
        yield Problem(str(place), what, renaming(list(files), frames), BLOCKS)
    elif len(files) < len(frames) and place.is_dir():
        what = f"{len(frames) - len(files)} of {len(frames)} frames have no mask, the first: "
        what += next(frame for frame in frames if frame not in files)
        yield Problem(str(place), what, "They count as not annotated; draw them again if they were lost.")
    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(lambda path: _look(path, size, decoded), files.values()))
    problems = [each for each in looked if isinstance(each, Problem)]
    yield from problems
    held = [each for each in looked if isinstance(each, set)]
    found = sorted(set().union(*held))
    yield from _mixed(place, held, labels)
    soft = sorted(set(found) - {0} - {label for own in labels for label in own})
    if len(soft) > MOST_STRANGERS and any(255 in own for own in labels):
        what = f"grey values {_few(soft)} besides 0 and 255: soft edges, which belong to no label"
        yield Problem(str(place), what, "Threshold the masks (value > 127) and save them again.", BLOCKS)
    for own in labels if not problems and len(strangers) < len(files) else ():
        lost = [label for label in own if label not in found]
        if lost:
            what = f"labels {lost} are in none of its {len(files)} masks, which hold the values {_few(found)}"
            yield Problem(str(place), what, _relabelling(found), BLOCKS)


def _mixed(place: Path, held: Sequence[set[int]], labels: Sequence[Sequence[int]]) -> Iterator[Problem]:
    """Masks of two makers in one folder: some number objects, in others whatever is marked is 255."""
    meant = {label for own in labels for label in own}
    if 255 in meant or not any(values & meant for values in held):
        return
    odd = sum(values <= {0, 255} and 255 in values for values in held)
    if odd:
        what = f"{odd} of {len(held)} masks hold 0 and 255 only, others the labels {_few(sorted(meant))}"
        yield Problem(str(place), what, "Save all of them with the same numbers.", BLOCKS)
    strange = sorted(set().union(*held) - meant - {0, 255})
    if strange:
        where = sum(bool(values & set(strange)) for values in held)
        what = f"the values {_few(strange)} in {where} of {len(held)} masks are in no expression's `labels`"
        yield Problem(str(place), what, "Harmless if they are other objects.")


def _look(path: Path, size: Size, decoded: dict[Path, set[int]]) -> set[int] | Problem:
    try:
        if path not in decoded:
            ids = decode_ids(path.read_bytes(), str(path))
            if ids.shape != tuple(size):
                have, want = f"{ids.shape[1]}x{ids.shape[0]}", f"{size[1]}x{size[0]}"
                return Problem(
                    str(path), f"mask of {have} pixels on a frame of {want}", "save it at the frame's size.", BLOCKS
                )
            decoded[path] = set(np.flatnonzero(np.bincount(ids.ravel(), minlength=256)).tolist())
        return decoded[path]
    except (DataError, OSError) as error:
        return Problem(str(path), str(error).removeprefix(f"{path}: "), "", BLOCKS)


def renaming(stems: Sequence[str], frames: Sequence[str]) -> str:
    """How to name masks, judged by what their names have in common with the frames'."""
    span = f"{frames[0]}.png to {frames[-1]}.png" if len(frames) > 1 else f"{frames[0]}.png"
    numbers = [int(stem) for stem in stems if stem.isdecimal()]
    if frames[0].isdecimal() and len(numbers) == len(stems):
        if min(numbers) == int(frames[0]) + 1 and max(numbers) == int(frames[-1]) + 1:
            return f"They are numbered from {min(numbers)}, the frames from {int(frames[0])}: rename them to {span}."
        if set(numbers) <= {int(frame) for frame in frames}:
            return f"Their numbers have other leading zeros than the frames': rename them to {span}."
    return f"A mask bears its frame's name: {span}."


def _relabelling(found: Sequence[int]) -> str:
    inside = [value for value in found if value]
    if not inside:
        return "All masks are empty: draw them, or give `labels: []` where the expression means nothing."
    return (
        f"Set `labels` to the values that are meant (e.g. [{inside[-1]}]), or save masks with object numbers 1, 2, ..."
    )


def _few(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:SHOWN])) + (f", ... ({len(values)} values)" if len(values) > SHOWN else "")
