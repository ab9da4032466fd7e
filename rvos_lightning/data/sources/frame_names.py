"""Names of films and frames: which files they are, in what order, and what numbers say of frames that are lost."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from rvos_lightning.data.limits import limit

FILMS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".gif", ".ts", ".mts", ".h264")
"""Suffixes, in lower case, of what is read as a film."""

NUMBERED = re.compile(r"(.*?)(\d+)")


def natural(name: str) -> list[int | str]:
    """A key that sorts numbers inside names by value ("2" before "10"); text and numbers take turns, text first."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def lost_between(stems: Sequence[str]) -> list[str]:
    """Names that numbered frames leave out between their neighbours; empty where no step is the usual one.

    Args:
        stems: file names without suffixes, in order.
    """
    found = [match for stem in stems if (match := NUMBERED.fullmatch(stem)) is not None]
    if len(stems) < 4 or len(found) < len(stems) or len({match[1] for match in found}) > 1:
        return []
    numbers = [int(match[2]) for match in found]
    usual = Counter(after - before for before, after in pairwise(numbers)).most_common(1)[0][0]
    if usual < 1:
        return []
    gaps = [range(a + usual, b, usual) for a, b in pairwise(numbers) if (b - a) % usual == 0]
    if sum(map(len, gaps)) > limit("video_frames"):
        return []  # a date or a time among them: these numbers count something else
    gone = [number for gap in gaps for number in gap]
    return [f"{found[0][1]}{n:0{len(found[0][2])}d}" for n in gone]
