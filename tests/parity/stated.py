"""Numbers and words that a folder of recordings states in its README, and how its inputs' names begin."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OWN = Path(__file__).parents[1] / "golden"


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


def slices(text: str) -> tuple:
    """A python slice as text, '[:, ::71, ...]', as an index."""
    parts = [part.strip() for part in text.strip("[]").split(",")]
    return tuple(
        ... if part == "..." else slice(*(int(n) if n else None for n in part.split(":"))) if ":" in part else int(part)
        for part in parts
    )


def prefix(text: str, fits: Callable[[str], bool | None]) -> str:
    """How the names of a folder's inputs begin: of all that the README calls so, the first that fits its numbers.

    Args:
        text: of the README; may be that of another set, or empty.
        fits: whether inputs drawn below a prefix are those behind a recorded array; None where it holds none.
    """
    rules = (r"`(\w+:)NAME`", r"TAG of this folder: `(\w+)`", r"`(\w+:)`")
    named = [f"{found.removesuffix(':')}:" for rule in rules for found in re.findall(rule, text)]
    candidates = dict.fromkeys([*named, "input:", "hidden:"])
    return next(filter(fits, candidates), next(iter(candidates)))


def check_kinds(folder: Path, kinds: Sequence[str]) -> None:
    """Every recording's name begins like one of the kinds that are tested, and our own set has all of them.

    Args:
        folder: of the recordings of one system.
        kinds: that tests beside this one read.
    """
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    recordings = [name for name in names if name != "README.md"]
    assert recordings, f"no recordings in {folder}"
    unread = [name for name in recordings if not name.startswith(tuple(kinds))]
    assert not unread, f"{folder}: no test reads {unread}"
    absent = [kind for kind in kinds if not any(name.startswith(kind) for name in names)]
    assert not absent or folder.parent != OWN, f"{folder}: no recording of {absent}"
