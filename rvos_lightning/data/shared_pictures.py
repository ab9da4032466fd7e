"""Pictures that are trained on in one split and scored in another: RefCOCO and its relatives share those of COCO."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Rule = Literal["refuse", "leave_out", "allow"]
"""What to do about pictures that are trained on and in a validation or test split: refuse to run, leave them out of
training, or go on, which reports then say."""


class Pictures(NamedTuple):
    """The pictures of a split.

    Attributes:
        name: of data set and split.
        ids: their numbers in COCO.
    """

    name: str
    ids: frozenset[int]


def ids_of(pictures: Iterable[Pictures]) -> frozenset[int]:
    """All of them."""
    return frozenset().union(*(each.ids for each in pictures))


def overlaps(trained: Iterable[Pictures], judged: Iterable[Pictures]) -> list[str]:
    """Of every pair that shares pictures: how many, and the first."""
    trained = list(trained)
    found = []
    for split in judged:
        for source in trained:
            if shared := split.ids & source.ids:
                found.append(
                    f"{len(shared):,} of the {len(split.ids):,} pictures of {split.name} are in {source.name}, "
                    f"e.g. COCO {min(shared)}"
                )
    return found
