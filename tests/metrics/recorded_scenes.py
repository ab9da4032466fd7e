"""Truth and predictions that public evaluation programs were run on; their numbers are in `test_public_programs.py`."""

from pathlib import Path

import numpy as np
from layouts import Scene, make_scene, write_palette, write_picture


def scene(size=(60, 90), time=8) -> Scene:
    """Three videos: boxes that drift; the second object leaves and comes back, the first of the third video is late."""
    made = make_scene(("one", "two", "three"), time, size, seed=3)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for number, (video, masks) in enumerate(made.masks.items()):
        for t in range(time):
            masks[1][t] = ((rows - 20 - t) / 12) ** 2 + ((columns - 25 - 3 * t - 4 * number) / 16) ** 2 < 1
            masks[2][t] = (abs(rows - 40) < 9) & (abs(columns - 60 + 2 * t) < 11 + number) & (t not in (3, 4))
        masks[1] &= ~masks[2]  # one map of numbers holds both
        if video == "three":
            masks[1][:2] = False
            masks[2][6:] = False
    return made


def predicted(mask: np.ndarray, number: int) -> np.ndarray:
    """What a tracker might make of an object: shifted, lost on some frames, seen where it is not, or never found."""
    out = np.roll(mask, (1 + number % 3, 2 - number % 5), (1, 2))
    out[(number + 2) % len(mask)] = False
    if number % 3 == 1:
        out[3, 5:15, 70:85] = True
    if number == 5:
        out[:] = False
    return out


def folders(root: Path, made: Scene, items: dict[str, list[int]], stride: int = 1) -> Path:
    """`<video>/<item>/<frame>.png`, 0 and 255; `items`: object of each item, by video."""
    number = 0
    for video, labels in items.items():
        for item, label in enumerate(labels):
            masks = predicted(made.masks[video][label], number)
            number += 1
            for name, mask in zip(made.names(video, stride), masks, strict=True):
                write_picture(root / video / str(item) / f"{name}.png", mask.astype(np.uint8) * 255)
    return root


def maps(root: Path, made: Scene, names=None) -> Path:
    """`<video>/<frame>.png` with object numbers; the lower number keeps a disputed pixel."""
    number = 0
    for video, own in made.masks.items():
        planes = {label: predicted(mask, number + label) for label, mask in own.items()}
        number += len(own)
        for t, name in enumerate(names or made.names(video)):
            ids = np.zeros(made.size, np.uint8)
            for label in sorted(planes, reverse=True):
                ids[planes[label][t]] = label
            write_palette(root / video / f"{name}.png", ids)
    return root
