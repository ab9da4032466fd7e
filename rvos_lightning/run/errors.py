"""Turns a parser's error into a few lines: key, value, what was expected, the nearest valid names.

Works from the message and from what the user typed; nothing of the parser is touched.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rvos_lightning.run.bounds import makers
from rvos_lightning.run.catalogue import USUAL_CALLBACKS, parts
from rvos_lightning.run.words import typed as typed_in

UNKNOWN = (
    r"Option '(?P<key>[^']+)' is not accepted",
    r"does not accept option '(?P<key>[^']+)'",
    r"unrecognized arguments: --(?P<key>[^ =]+)",
    r'Key "(?P<key>[^"]+)" is not (?:expected|required)',
)
WRONG = r'Parser key "(?P<key>[^"]+)":\s*(?P<reasons>.*)'
MISSING = r"the following arguments are required: (?:(?:fit|validate|test|predict)\.)?(?P<key>[^\s,]+)"
NUMBER = r"Expected an? <class '(?:int|float)'>"
STRAY = r"unrecognized arguments: (?P<words>[^-].*)"
PACKAGE = r"No module named '(?P<name>[\w.]+)'|pip install (?P<pip>[\w-]+)"
SECTIONS = (
    "model", "data", "trainer", "objectives", "callbacks", "seed_everything", "ckpt_path", "config", "hub", "untrained",
    "skip_done", "limits",
)  # fmt: skip
GROUPS = {"objectives": "losses", "callbacks": "callbacks", "model.metrics": "metrics"}
"""Key of a dictionary of named parts -> their kind."""
FILLED_BY = {
    "data": "data sets", "network": "networks", "segmenter": "segmenters", "adapter": "adapters",
    "prompter": "prompters", "memory": "memories", "text": "text encoders", "scheduler": "schedules",
    "logger": "loggers", "optimizer": "optimizers",
}  # fmt: skip
"""Last part of a key that holds one part -> its kind."""
LIBRARIES = {
    "optimizer": "torch.optim", "scheduler": "torch.optim.lr_scheduler", "logger": "lightning.pytorch.loggers",
}  # fmt: skip
"""Last part of such a key -> module of others' classes that it takes by their short names."""


class FewLines:
    """What makes a parser's errors a few plain lines; to be put before the parser's class.

    Attributes:
        typed: the words of the command line.
        said: dotted keys and values of what the words and their files say, in their order.
    """

    typed: Sequence[str] = ()
    said: Sequence[tuple[str, Any]] = ()

    @classmethod
    def listen(cls, words: Sequence[str]) -> None:
        """Note what was typed; files are read now, as the parser works in the folder of the one that it reads."""
        cls.typed, cls.said = list(words), list(typed_in(words))

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Print key, value, what was expected and the nearest valid names; exit with status 2."""
        self.exit(2, explain(message, self.typed, dict(self.said)) + "\n")  # type: ignore[attr-defined]


def explain(message: str, args: Sequence[str], said: Mapping[str, Any]) -> str:
    """A readable version of a parser's error message.

    Args:
        message: the parser's own words.
        args: the command line.
        said: what it and its files say, from which full key names and values are found.
    """
    typed = {**{f"callbacks.{name}": each for name, each in USUAL_CALLBACKS.items()}, **said}
    for pattern in UNKNOWN:
        if match := re.search(pattern, message):
            return _unknown(match["key"], typed)
    if match := re.search(STRAY, message):
        return _stray(match["words"].split(), list(args))
    if match := re.search(MISSING, message):
        return _required(match["key"], typed)
    if match := re.search(WRONG, message, flags=re.DOTALL):
        return _wrong(match["key"], match["reasons"], typed)
    if match := re.search(r"argument --(\S+): expected one argument", message):
        return f"error: --{match[1]} needs a value; the options of a part: --{match[1]}.help CLASS (rvos parts)"
    return f"error: {message.strip()}"


def taken_from_nothing(said: Sequence[tuple[str, Any]]) -> str | None:
    """An error about a flag that takes away a callback or loss that is not there, and so would do nothing."""
    for group in ("callbacks", "objectives"):
        given = [(key.split(".")[1], value) for key, value in said if key.startswith(f"{group}.")]
        known = [*dict.fromkeys(name for name, value in given if value not in ("null", "None"))]
        known += list(USUAL_CALLBACKS) if group == "callbacks" else []
        if lost := next((name for name, _ in given if name not in known), None):
            near = difflib.get_close_matches(lost, known, n=3, cutoff=0.4) or known
            return f"error: {group} has no {lost!r} to take away\n  nearest   {', '.join(near)}"
    return None


def _unknown(key: str, typed: dict[str, Any]) -> str:
    full = _full_name(key.removesuffix(".class_path").removeprefix("init_args.").replace(".init_args", ""), typed)
    if (group := _group_of(full)) and (text := _in_group(group, typed)):
        return text
    if full.split(".")[0] not in SECTIONS:
        full = full.split(".")[0]
    parent, _, name = full.rpartition(".")
    valid = _valid_names(parent, typed)
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.4)
    if not parent:
        near = [key for key in typed if key.endswith(f".{name}")][:3] or near
    lines = [f"error: unknown key {full}", f"  value     {_shown(typed.get(full))}"]
    if valid and (len(valid) < 20 or not near):
        lines.append(f"  expected  one of: {', '.join(valid)}")
    if near:
        lines.append(f"  nearest   {', '.join(near)}")
    return "\n".join(lines)


def _stray(words: Sequence[str], args: Sequence[str]) -> str:
    """Words that belong to no flag: the rest of a sentence without quotes, most likely."""
    before = list(args[: args.index(words[0])]) if words[0] in args else []
    flag = next((word for word in reversed(before) if word.startswith("--")), None)
    if flag is None or "=" in flag:
        return f"error: {words[0]!r} belongs to no flag: write --KEY VALUE, and quotes around a value with spaces"
    first = before[len(before) - before[::-1].index(flag) :]
    value = " ".join([*(re.sub(r'^\["(.*)"\]$', r"\1", word) for word in first), *words])  # of a sentence made a list
    return f"error: {words[0]!r} belongs to no flag: a value with spaces needs quotes: {flag} '{value}'"


def _required(key: str, typed: dict[str, Any]) -> str:
    if key.endswith("model.network"):
        return "error: no recipe: give one by -c configs/NAME.yaml (rvos parts recipes), or a run by --run FOLDER"
    if key == "data":
        return "error: no data set: give one by -c configs/data/NAME.yaml, or by --data CLASS (rvos parts data)"
    name = key.rpartition(".")[2]
    for place, value in typed.items():
        given = typed.get(f"{place.removesuffix('.class_path')}.{name}") not in (None, "null", "None")
        wanted = isinstance(value, str) and not given and _needs(value, name)
        if wanted:
            owner = place.removesuffix(".class_path")
            return f"error: {value.rpartition('.')[2]} needs {name}: give --{owner}.{name}"
    return f"error: {key} is missing: give --{key}"


def _needs(class_path: str, name: str) -> bool:
    try:
        found = inspect.signature(_class(class_path)).parameters.get(name)
    except (ImportError, AttributeError, ValueError, TypeError, KeyError):  # the value is no class at all
        return False
    return found is not None and found.default is inspect.Parameter.empty


def _wrong(key: str, reasons: str, typed: dict[str, Any]) -> str:
    full = _full_name(key, typed)
    if (group := _group_of(full)) and (text := _in_group(group, typed)):
        return text
    value = typed.get(full)
    if isinstance(value, dict):
        value = value.get("class_path", value)
    if match := re.search(PACKAGE, reasons):
        name = match["pip"] or match["name"]
        return f"error: {full} {_shown(value)} needs the package {name}: pip install {name}"
    lines = [f"error: wrong value for {full}", f"  value     {_shown(value)}"]
    if choices := _choices(reasons):
        near = difflib.get_close_matches(str(value), choices, n=3, cutoff=0.4)
        lines.append(f"  expected  one of: {', '.join(choices)}")
    else:
        near = _near_classes(value, full) if isinstance(value, str) and _is_no_class(reasons) else []
        lines.append(f"  expected  {_expected(reasons)}{_whole(reasons, value)}")
    if near:
        lines.append(f"  nearest   {', '.join(near)}")
    return "\n".join(lines)


def _group_of(key: str) -> str | None:
    return next((group for group in GROUPS if key == group or key.startswith(f"{group}.")), None)


def _in_group(group: str, typed: dict[str, Any]) -> str | None:
    """The entry of a group whose class is missing or does not exist."""
    names = dict.fromkeys(key[len(group) + 1 :].split(".")[0] for key in typed if key.startswith(f"{group}."))
    classes = {name: [typed.get(f"{group}.{name}"), typed.get(f"{group}.{name}.class_path")] for name in names}
    for name, values in classes.items():
        # a class by flag does not replace the class_path of a file in `typed`: either may be the one that is wrong
        named = [value for value in values if isinstance(value, str)]
        known = [other for other, its in classes.items() if its != [None, None] and other != name]
        if not named and f"{group}.{name}" not in typed:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
            return (
                f"error: {group} has no {name!r}\n  expected  a name that is there, or a class for a new one: "
                f"--{group}.{name} CLASS (rvos parts {GROUPS[group].split()[0]})\n  nearest   {', '.join(near)}"
            )
        for value in named:
            if value not in ("null", "None") and not _exists(value):
                return f"error: {group}.{name}: no class {value}\n  nearest   {', '.join(_near_classes(value, group))}"
    return None


def _exists(class_path: str) -> bool:
    if "." not in class_path:
        return class_path in parts() or bool(
            getattr(importlib.import_module("lightning.pytorch.callbacks"), class_path, None)
        )
    try:
        return _class(class_path) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def _is_no_class(reasons: str) -> bool:
    return not re.search(NUMBER, reasons) and any(
        sign in reasons for sign in ("has no attribute", "Import of", "No module named", "ubclass", "import path")
    )


def _near_classes(value: str, key: str) -> list[str]:
    module, _, name = value.rpartition(".")
    if near := difflib.get_close_matches(name, _public_names(module) if module else (), n=3, cutoff=0.6):
        return [f"{module}.{n}" for n in near]
    place = key.rpartition(".")[2]
    kind = GROUPS.get(key) or FILLED_BY.get(place)
    known = [n for n, some in parts().items() if any(kind in (None, part.kind) for part in some)]
    known += [n for n in _public_names(LIBRARIES[place]) if n[0].isupper()] if place in LIBRARIES else []
    return difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:6]


def _choices(reasons: str) -> list[str]:
    literals = re.findall(r"Literal\[([^\]]*)\]", reasons)
    return list(dict.fromkeys(word.strip().strip("'\"") for inner in literals for word in inner.split(",")))


def _expected(reasons: str) -> str:
    """The useful part of a page about types."""
    if bounds := re.findall(r"Input should be ([^\[]+) \[type=(?!bool)", reasons):  # a number with bounds
        return f"a number {bounds[0]}" if "equal" in bounds[0] else bounds[0].removeprefix("a valid ")
    found = [line.strip(" -") for line in reasons.partition("Errors:")[2].splitlines() or reasons.splitlines()]
    found = [line for line in found if line] or [line.strip(" -") for line in reasons.splitlines()]
    useful = [line for line in found if not re.match(r"Expected a(n)? (path but|<class 'NoneType'>)", line)] or found
    useful = [line for line in useful if re.match(NUMBER, line)] or useful
    text = re.sub(r"\. Got value:.*", "", " ".join(useful[:3])).replace("<class '", "").replace("'>", "")
    return re.sub(r"^Expected an? ", "", text)[:300]


def _whole(reasons: str, value: Any) -> str:
    try:
        whole = float(value).is_integer() and re.search(r"\bint\b", reasons)
    except (TypeError, ValueError, OverflowError):
        return ""
    return f": write {int(float(value))}" if whole else ""


def _full_name(key: str, typed: dict[str, Any]) -> str:
    """The typed key that ends in `key`: the last one, as later words win."""
    matches = [name for name in typed if name == key or name.endswith(f".{key}")]
    return matches[-1] if matches else key


def _class(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    if not module and name in parts():
        module, name = parts()[name][0].module, parts()[name][0].name
    elif not module:
        module = next((each for each in LIBRARIES.values() if name in _public_names(each)), "")
    return getattr(importlib.import_module(module), name)


def _valid_names(parent: str, typed: dict[str, Any]) -> list[str]:
    """Constructor arguments of whatever class the parent key holds."""
    if not parent:
        return list(SECTIONS)
    fixed = {"model": "rvos_lightning.core.module.RVOSModule", "trainer": "lightning.pytorch.Trainer"}
    class_path = typed.get(f"{parent}.class_path", typed.get(parent, fixed.get(parent)))
    if isinstance(class_path, dict):
        class_path = fixed.get(parent)
    if not isinstance(class_path, str):
        return []
    try:
        found = [inspect.signature(maker).parameters for maker in makers(_class(class_path))]
    except (ImportError, AttributeError, ValueError, TypeError, KeyError):
        return []
    return list(dict.fromkeys(n for names in found for n in names if n not in ("self", "args", "kwargs", "params")))


def _public_names(module: str) -> list[str]:
    try:
        return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    except ImportError:
        return []


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."
