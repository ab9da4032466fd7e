"""Tables for a terminal, or for a file."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

ELSEWHERE = 160
"""Columns where nobody says how many there are: rich would take 80 and cut names."""


def console() -> "Console":
    """Standard output, as wide as the terminal, or as `COLUMNS` says; wide where it goes into a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else ELSEWHERE)
