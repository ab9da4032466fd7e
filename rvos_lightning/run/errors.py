"""Turns a parser's error into a few lines: key, value, what was expected, the nearest valid names.

Works from the message and from what the user typed; nothing of the parser is touched.
"""

import difflib
import importlib
import inspect
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rvos_lightning.run.words import typed as typed_in

UNKNOWN = (
    r"Option '(?P<key>[^']+)' is not accepted",
    r"does not accept option '(?P<key>[^']+)'",
    r"unrecognized arguments: --(?P<key>[^ =]+)",
    r'Key "(?P<key>[^"]+)" is not (?:expected|required)',
)
WRONG = r'Parser key "(?P<key>[^"]+)":\s*(?P<reasons>.*)'
SECTIONS = ("model", "data", "trainer", "objectives", "callbacks", "seed_everything", "ckpt_path", "config")


def explain(message: str, args: Sequence[str]) -> str:
    """A readable version of a parser's error message.

    Args:
        message: the parser's own words.
        args: the command line, from which full key names and values are found.
    """
    typed = dict(typed_in(args))
    for pattern in UNKNOWN:
        if match := re.search(pattern, message):
            return _unknown(match["key"], typed)
    if match := re.search(WRONG, message, flags=re.DOTALL):
        return _wrong(match["key"], match["reasons"], typed)
    return f"error: {message.strip()}"


def mendable(error: BaseException) -> bool:
    """Whether our own code raised this for the user to mend, so that a traceback would only hide the message."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = {Path(__file__).parents[1], Path(__file__).parents[2] / "callbacks"}
    return isinstance(error, ValueError) and bool(frames) and not ours.isdisjoint(Path(frames[-1].filename).parents)


def _unknown(key: str, typed: dict[str, Any]) -> str:
    full = _full_name(key.removesuffix(".class_path").removesuffix(".init_args"), typed)
    if full.split(".")[0] not in SECTIONS:
        full = full.split(".")[0]
    parent, _, name = full.rpartition(".")
    valid = _valid_names(parent, typed)
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.4)
    lines = [f"error: unknown key {full}", f"  value     {_shown(typed.get(full))}"]
    if valid and (len(valid) < 20 or not near):
        lines.append(f"  expected  one of: {', '.join(valid)}")
    if near:
        lines.append(f"  nearest   {', '.join(near)}")
    return "\n".join(lines)


def _wrong(key: str, reasons: str, typed: dict[str, Any]) -> str:
    full = _full_name(key, typed)
    value = typed.get(full)
    if isinstance(value, dict):
        value = value.get("class_path", value)
    found = [line.strip(" -") for line in reasons.splitlines() if line.strip(" -")]
    useful = [line for line in found if not line.startswith("Expected a path but")] or found
    expected = re.sub(r"\. Got value:.*", "", " ".join(useful[:3])).replace("<class '", "").replace("'>", "")
    expected = re.sub(r"^Expected an? ", "", expected)
    lines = [f"error: wrong value for {full}", f"  value     {_shown(value)}", f"  expected  {expected}"]
    if isinstance(value, str) and "has no attribute" in reasons:
        module, _, name = value.rpartition(".")
        if near := difflib.get_close_matches(name, _public_names(module), n=3, cutoff=0.4):
            lines.append(f"  nearest   {', '.join(f'{module}.{n}' for n in near)}")
    return "\n".join(lines)


def _full_name(key: str, typed: dict[str, Any]) -> str:
    """The typed key that ends in `key`: the last one, as later words win."""
    matches = [name for name in typed if name == key or name.endswith(f".{key}")]
    return matches[-1] if matches else key


def _valid_names(parent: str, typed: dict[str, Any]) -> list[str]:
    """Constructor arguments of whatever class the parent key holds."""
    if not parent:
        return list(SECTIONS)
    fixed = {"model": "rvos_lightning.core.module.RVOSModule", "trainer": "lightning.pytorch.Trainer"}
    class_path = typed.get(f"{parent}.class_path", typed.get(parent, fixed.get(parent)))
    if isinstance(class_path, dict):
        class_path = fixed.get(parent)
    if not isinstance(class_path, str) or "." not in class_path:
        return []
    module, _, name = class_path.rpartition(".")
    try:
        owner = getattr(importlib.import_module(module), name)
        found = [inspect.signature(ancestor.__init__).parameters for ancestor in _taking_kwargs(owner)]
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
    return list(dict.fromkeys(n for names in found for n in names if n not in ("self", "args", "kwargs")))


def _taking_kwargs(owner: type) -> Iterator[type]:
    """The class, then its ancestors for as long as each passes keyword arguments on."""
    for ancestor in owner.__mro__:
        if "__init__" in vars(ancestor):
            yield ancestor
            if "kwargs" not in inspect.signature(ancestor.__init__).parameters:
                return


def _public_names(module: str) -> list[str]:
    try:
        return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    except ImportError:
        return []


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."
