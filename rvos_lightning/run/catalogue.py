"""What there is to choose from, found in the source files without importing them: classes by the seam they fill."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from rvos_lightning.run.words import network_of

ROOT = Path(__file__).parents[2]
KINDS = {
    "Network": "networks",
    "Segmenter": "segmenters",
    "Adapter": "adapters",
    "Prompter": "prompters",
    "Memory": "memories",
    "TextEncoder": "text encoders",
    "Objective": "losses",
    "Callback": "callbacks",
    "Checkpoint": "callbacks",
    "ModelCheckpoint": "callbacks",
    "VideoData": "data sets",
    "ClipSampling": "samplings",
    "Augmentation": "augmentations",
    "UserFactory": "users",
    "FrameRows": "metrics",
    "Logger": "loggers",
    "LRScheduler": "schedules",
    "LambdaLR": "schedules",
}
"""Base class -> what people call its subclasses; the nearest ancestor decides."""

USUAL_CALLBACKS = {
    "best": "callbacks.BestCheckpoint",
    "last": "callbacks.LastCheckpoint",
    "film": "callbacks.FilmStrip",
    "leakage": "callbacks.Leakage",
    "scores": "callbacks.Scores",
    "curves": "callbacks.Curves",
    "start": "callbacks.StartTable",
    "progress": "callbacks.Progress",
    "throughput": "callbacks.Throughput",
    "overlay": "callbacks.Overlay",
    "watch": "callbacks.StuckRank",  # before the next: says that this rank leaves while that one asks for its return
    "requeue": "callbacks.Requeue",
}
"""What watches every run unless a configuration takes it away: name -> class."""


@dataclass
class Part:
    """One class.

    Attributes:
        name: of the class.
        module: that defines it.
        bases: names of its parents.
        summary: first line of its docstring.
        unfilled: names of abstract methods that it declares.
        filled: names of everything else it defines.
        arguments: of its constructor, as written.
        variants: values of its constructor's argument `variant`.
    """

    name: str
    module: str
    bases: list[str]
    summary: str
    unfilled: set[str]
    filled: set[str]
    arguments: list[str] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    kind: str | None = None


@lru_cache(maxsize=1)
def parts() -> dict[str, list[Part]]:
    """Name -> the public classes of that name which fill a seam."""
    found = [part for path in sources() for part in classes(path)]
    by_name: dict[str, list[Part]] = {}
    for part in found:
        by_name.setdefault(part.name, []).append(part)
    for part in found:
        part.kind = kind_of(part, by_name, frozenset())
    usable = {id(part) for part in found if part.kind and not missing(part, by_name)}
    return {name: kept for name, some in by_name.items() if (kept := [part for part in some if id(part) in usable])}


def sources() -> Iterator[Path]:
    """Every file of the package and of `callbacks`."""
    for package in ("rvos_lightning", "callbacks"):
        yield from sorted((ROOT / package).rglob("*.py"))


def classes(path: Path) -> Iterator[Part]:
    """The public classes of a file."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    tree = ast.parse(path.read_text())
    literals = imported_literals(tree) | dict(assigned(tree))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield described(node, module, literals)


def described(node: ast.ClassDef, module: str, literals: dict[str, list[str]]) -> Part:
    """One class, from its syntax."""
    bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
    made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    words = made.args.args[1:] + made.args.kwonlyargs if made else []
    shown = (ast.get_docstring(node) or "").strip().split("\n\n")[0].replace("\n", " ")
    variants = [
        value
        for word in words
        if word.arg == "variant" and word.annotation is not None
        for value in literal(word.annotation) or literals.get(ast.unparse(word.annotation), [])
    ]
    defined = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    unfilled = {name for name, n in defined.items() if any("abstract" in ast.unparse(d) for d in n.decorator_list)}
    arguments = [ast.unparse(word) for word in words]
    return Part(node.name, module, bases, shown, unfilled, set(defined) - unfilled, arguments, variants)


def imported_literals(tree: ast.Module) -> dict[str, list[str]]:
    """`Literal`s that come from a file beside."""
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rvos_lightning."):
            path = ROOT / Path(*(node.module or "").split(".")).with_suffix(".py")
            wanted = {alias.name for alias in node.names if alias.name[:1].isupper()}
            if wanted and path.exists():
                found |= {name: values for name, values in assigned(ast.parse(path.read_text())) if name in wanted}
    return found


def assigned(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Names that a file gives to a `Literal`, and its values."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (values := literal(node.value)):
            yield node.targets[0].id, values


def literal(node: ast.expr) -> list[str]:
    """The values of a `Literal[...]`, else nothing."""
    if not (isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal")):
        return []
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return [str(entry.value) for entry in inner if isinstance(entry, ast.Constant)]


def kind_of(part: Part, by_name: dict[str, list[Part]], seen: frozenset[str]) -> str | None:
    """The seam that the nearest ancestor names."""
    for base in part.bases:
        if base in KINDS:
            return KINDS[base]
        for parent in by_name.get(base, ()):
            if base not in seen and (kind := kind_of(parent, by_name, seen | {base})):
                return kind
    return None


def missing(part: Part, by_name: dict[str, list[Part]]) -> set[str]:
    """Abstract methods that neither the class nor a nearer ancestor fills: only a subclass can be named."""
    above = [missing(parent, by_name) for base in part.bases if base != part.name for parent in by_name.get(base, ())]
    return part.unfilled | set().union(*above) - part.filled


def files(root: Path = Path("configs")) -> dict[str, dict[str, str]]:
    """ "recipes" (files that give a network, and so run alone) and "overlays", each: path -> first line."""
    found: dict[str, dict[str, str]] = {"recipes": {}, "overlays": {}}
    for path in sorted(root.rglob("*.yaml")):
        first = path.read_text().partition("\n")[0]
        kind = "recipes" if network_of(path) else "overlays"
        found[kind][str(path)] = first.lstrip("# ") if first.startswith("#") else ""
    return found
