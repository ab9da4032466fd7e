"""The dependency table of the design, sizes of files and functions, and who owns the name `callbacks`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [ROOT / "rvos_lightning", ROOT / "callbacks"]
FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
SYSTEMS = sorted(path.name for path in (ROOT / "rvos_lightning" / "systems").iterdir() if path.is_dir())

# layer -> first-party modules it may import (prefixes); every layer may import its own
CORE = "rvos_lightning.core."
ALLOWED = {
    "core.movable": (),
    "core.types": (CORE + "movable",),
    "core.seams": (CORE + "types",),
    "core.bounds": (),
    "core.optim": (CORE + "bounds",),
    "core.network": (CORE + "types", CORE + "seams", "rvos_lightning.parts.layers"),
    "core.inference": (CORE + "types", CORE + "seams", "rvos_lightning.parts.layers"),
    "core.evaluation": (
        CORE,
        "rvos_lightning.run.sharding",
        "rvos_lightning.metrics",
        "rvos_lightning.data.lightning_module",
    ),
    "core.checkpointed": (CORE, "rvos_lightning.parts.weights", "rvos_lightning.run.continuation"),
    "core.module": (
        CORE,
        "rvos_lightning.metrics.rows",
        "rvos_lightning.parts.starting",
        "rvos_lightning.parts.tuning",
        "rvos_lightning.run.continuation",
        "rvos_lightning.run.sharding",
    ),
    "parts": (
        CORE + "types",
        CORE + "seams",
        CORE + "bounds",
        "rvos_lightning.systems",
    ),  # official maps by name, at run time
    "data": (CORE + "types", CORE + "bounds", "rvos_lightning.metrics"),  # a reader states its protocol
    "metrics": (
        CORE + "types",
        CORE + "bounds",
        "rvos_lightning.data.limits",
        "rvos_lightning.data.whole",
        "rvos_lightning.data.reader",
        "rvos_lightning.data.sources.archives",
    ),  # limits are stated once, and what zips of other systems are like
}


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "callbacks":
        return "callbacks"
    if len(parts) > 2 and parts[1] == "systems":
        return f"systems.{parts[2]}"
    if len(parts) > 2 and parts[1] == "core":
        return f"core.{parts[2]}"
    return parts[1] if len(parts) > 1 else "package"


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in ("rvos_lightning", "callbacks")}


def allowed(layer: str, name: str) -> bool:
    if layer.startswith("systems."):
        own = f"rvos_lightning.{layer}"
        shared = (
            "core.types",
            "core.seams",
            "core.bounds",
            "core.network",
            "parts",
            "data.reader",
            "data.shapes.moving_shapes",
        )
        return name.startswith((own, *(f"rvos_lightning.{n}" for n in shared)))
    if layer == "callbacks":
        system = name.split(".")[2:3] if name.startswith("rvos_lightning.systems.") else []
        return not name.startswith(("rvos_lightning.run.cli", "rvos_lightning.run.lightning_cli")) and (
            not system or name.endswith(".outputs")
        )
    if layer in ALLOWED:
        return name.startswith((f"rvos_lightning.{layer}", *ALLOWED[layer]))
    return not name.startswith("callbacks")  # the command line and its neighbours


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path):
    layer = layer_of(path)
    wrong = sorted(name for name in imported(path) if not allowed(layer, name))
    assert not wrong, f"{path.relative_to(ROOT)} ({layer}) must not import {wrong}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400, f"{path.name} has {len(source.splitlines())} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length < 60, f"{path.name}:{node.lineno} {node.name} has {length} lines"


def test_files_have_names_that_mean_something():
    assert not {"utils", "misc", "common", "base", "manager"} & {path.stem for path in FILES}


def test_callbacks_is_ours():
    import callbacks

    assert Path(callbacks.__file__).parent == ROOT / "callbacks"


def test_nothing_heavy_is_imported_by_the_front_door():
    import subprocess
    import sys

    heavy = ("torch", "lightning", "jsonargparse")
    code = f"import sys, rvos_lightning.run.cli; print(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_no_name_is_undefined():
    """Our linter's rule for it is off, as shape strings look like names to it; here they do not count."""
    import json
    import subprocess
    import sys

    words = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "json"]
    said = subprocess.run([*words, *map(str, PACKAGES)], capture_output=True, text=True, cwd=ROOT).stdout
    wrong = [
        f"{found['filename']}:{node.lineno} {node.id}"
        for found in json.loads(said)
        for node in ast.walk(ast.parse(Path(found["filename"]).read_text()))
        if isinstance(node, ast.Name)
        and (node.lineno, node.col_offset + 1) == (found["location"]["row"], found["location"]["column"])
    ]
    assert not wrong


def test_no_self_where_shapes_are_checked():
    """`make test-types` decorates methods one by one, and there beartype refuses `Self`: name the class."""
    checked = [path for path in FILES if {"parts", "systems", "metrics", "foundations"} & set(path.parts)]
    assert checked and [path for path in checked if "import Self" in path.read_text()] == []
