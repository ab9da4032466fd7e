"""A system as others get it: a folder with configuration, weights and card; nothing in it is run unless it is ours.

A configuration names classes, and what is named gets imported and called. One that came from elsewhere may therefore
name classes of this package and of torch's optimizers and layers alone, and no file that came along with it.
"""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rvos_lightning.run.words import read_yaml

WEIGHTS = "model.safetensors"
FILES = ("config.yaml", WEIGHTS, "README.md", "scores.json", "start.json", "*.csv", "*.png")
"""What is put into such a folder, and all that is ever fetched."""

OURS = ("rvos_lightning.", "callbacks.", "torch.optim.", "torch.nn.")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
LARGEST = 1_000_000
"""Bytes of a configuration, and values in it."""

KEPT = ("seed_everything", "trainer", "model", "data", "objectives")
"""What of a configuration others can use; who watches, where it writes and what it may reach is their own affair."""

PULLED = Path("hub")
"""Where pulled folders lie: `hub/<owner>/<name>`."""


class HubError(ValueError):
    """A folder that is not what it should be, or that names what is not ours; says what and the remedy."""


def is_hub_folder(folder: Path) -> bool:
    """Whether configuration and weights lie there as `rvos push` puts them."""
    return (folder / WEIGHTS).is_file() and (folder / "config.yaml").is_file()


def find(name: str | Path) -> Path | None:
    """The folder that a path, or the name of something pulled, means; None where there is none."""
    places = [Path(name), *([PULLED / name] if NAME.fullmatch(str(name)) else [])]
    return next((place for place in places if is_hub_folder(place)), None)


def check(folder: Path, trust: bool = False) -> dict[str, Any]:
    """The configuration of such a folder, if it names nothing foreign and decides nothing about this machine.

    Args:
        folder: with `config.yaml`.
        trust: foreign classes are meant.

    Raises:
        HubError: no configuration, or one that names what is not ours, or says more than a pushed one does.
    """
    path = folder / "config.yaml"
    if path.is_file() and path.stat().st_size > LARGEST:
        raise HubError(f"{path}: {path.stat().st_size:,} bytes are no configuration")
    config = read_yaml(path)
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise HubError(f"{folder}/config.yaml: no configuration of a system (it gives no model)")
    for number, (key, value) in enumerate(() if trust else leaves("", config)):
        if number > LARGEST:  # a small file can stand for any number of values
            raise HubError(f"{path}: more than {LARGEST:,} values are no configuration")
        if (what := foreign(folder, key, value)) is not None:
            raise HubError(
                f"{folder}/config.yaml: {key} {what}: read it, and give --trust if you trust who wrote it "
                "(from Python: trust=True)"
            )
    if not trust and (more := beyond_a_system(config)):
        raise HubError(
            f"{path}: sets {more}, which is for whoever runs it to say: remove it, or give --trust if you trust who "
            "wrote it (from Python: trust=True)"
        )
    return config


def beyond_a_system(config: dict[str, Any]) -> str | None:
    """The first key with which a configuration would decide about this machine: folders, network, limits, loggers."""
    trainer = config.get("trainer") or {}
    strange = [str(key) for key in config if key not in KEPT]
    if isinstance(trainer, dict):
        named = {key: value for key, value in trainer.items() if key != "precision"}
        strange += [f"trainer.{key}" for key, value in named.items() if isinstance(value, str | list | dict)]
    return strange[0] if strange else None


def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is no mapping or list; keys of mappings, too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            inside = f"{key}.{name}" if key else str(name)
            yield f"{inside} (its name)", str(name)
            yield from leaves(inside, inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(f"{key}[{number}]", inner)
    else:
        yield key, value


def foreign(folder: Path, key: str, value: Any) -> str | None:
    """What a value names that is not ours; None if nothing."""
    if not isinstance(value, str):
        return None
    if key.split(".")[-1] == "class_path" and not defined_here(value):
        return f"names the class {value}, which is not of this package"
    if re.search(r"\$\{[^}]*:", value):
        return f"asks the surroundings ({value})"
    if DOTTED.fullmatch(value) and find_spec(value.split(".")[0]) is not None and not defined_here(value):
        return f"names {value}, which is not of this package"
    if "\0" in value:
        return "holds a zero byte"
    inside = folder.resolve()
    for place in (Path(value), folder / value) if value and len(value) < 1000 else ():
        if inside in place.resolve().parents and place.exists():
            return f"names a file that came with it ({value})"
    return None


@lru_cache(maxsize=1024)
def defined_here(dotted: str) -> bool:
    """Whether a path names a class or function of these packages.

    What one of their modules has merely imported can be named by a path through that module; it does not count.
    """
    if not dotted.startswith(OURS) or not DOTTED.fullmatch(dotted):
        return False
    *above, name = dotted.split(".")
    if above[0] == "torch":  # has read nothing yet that decides whether hub libraries may reach the network
        return _of_torch(".".join(above), name)
    spec = find_spec(above[0])
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    places = [Path(folder, *above[1:]) for folder in folders]
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
    return bool(files) and name in _names(files[0])


def _of_torch(module: str, name: str) -> bool:
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and f"{found.__module__}.".startswith(OURS)


@lru_cache(maxsize=256)
def _names(file: Path) -> frozenset[str]:
    """Classes and functions of a module, read and not run; of a package also those it hands on by a table of names."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    tables = [node.value for node in body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    keys = [key for table in tables for key in table.keys] if file.name == "__init__.py" else []
    handed = {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return frozenset(node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)) | handed
