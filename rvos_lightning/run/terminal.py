"""Tables for a terminal, or for a file."""

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

Step = TypeVar("Step")

ELSEWHERE = 160
"""Columns where nobody says how many there are: rich would take 80 and cut names."""


def console() -> "Console":
    """Standard output, as wide as the terminal, or as `COLUMNS` says; wide where it goes into a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else ELSEWHERE)


def tracked(steps: Iterable[Step], words: str, total: int) -> Iterable[Step]:
    """The same, with a progress bar where standard error is a terminal."""
    if not sys.stderr.isatty():
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, words, total, console=Console(stderr=True))
