"""Numbers and words that a folder of recordings states in its README."""

import re
from pathlib import Path
from typing import Any


def readme(folder: Path) -> str:
    """The README's text on one line; empty where there is none."""
    path = folder / "README.md"
    return re.sub(r"\s+", " ", path.read_text()) if path.exists() else ""


def stated(text: str, pattern: str, default: Any) -> Any:
    """What the pattern's groups hold, of the type of `default`, which is returned where the text has no such thing."""
    match = re.search(pattern, text)
    if match is None:
        return default
    if isinstance(default, tuple):
        return tuple(type(default[0])(group) for group in match.groups())
    return type(default)(match[1])
