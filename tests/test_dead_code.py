"""Whatever is public has a caller outside the tests: code, a YAML file, a page of documentation, or the front door."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("rvos_lightning", "callbacks") for path in (ROOT / package).rglob("*.py"))
PAGES = [ROOT / "pyproject.toml", *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("rvos_lightning/**/*.md")]
PAGES += [path for folder in ("configs", "slurm") for path in (ROOT / folder).rglob("*") if path.is_file()]
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def words_of(node: ast.AST) -> Counter[str]:
    """Every identifier that is read inside a node, also by import, by attribute and inside plain text as a path."""
    found: Counter[str] = Counter()
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            found[child.id] += 1
        elif isinstance(child, ast.Attribute):
            found[child.attr] += 1
        elif isinstance(child, ast.alias):
            found[child.name.split(".")[-1]] += 1
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            found.update(re.findall(r"\w+", child.value) if re.fullmatch(r"[\w.\[\], |]+", child.value) else ())
    return found


def options(trees: dict[Path, ast.Module]) -> set[str]:
    """Classes a configuration may name: below a class of ours that something asks for (a seam)."""
    bases = {
        node.name: {word for base in node.bases for word in words_of(base)}
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    return {name for name, above in bases.items() if above & bases.keys() or above & FOREIGN}


FOREIGN = {"Callback", "LightningDataModule", "Strategy", "CheckpointIO", "Metric", "LRScheduler", "LambdaLR"}


def uncalled(trees: dict[Path, ast.Module], pages: str) -> list[str]:
    """`file:line name` of every public definition that only its own body or nothing mentions."""
    everywhere = sum((words_of(tree) for tree in trees.values()), Counter())
    everywhere.update(re.findall(r"\w+", pages))
    chosen = options(trees)
    return [
        f"{path.name}:{node.lineno} {node.name}"
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_") and node.name not in chosen
        if everywhere[node.name] <= words_of(node)[node.name]
    ]


def test_every_public_function_and_class_has_a_caller():
    trees = {path: ast.parse(path.read_text()) for path in FILES}
    assert uncalled(trees, "\n".join(page.read_text() for page in PAGES)) == []


@pytest.mark.parametrize(
    ("source", "pages", "dead"),
    [
        ("def lost(): return lost()", "", ["x.py:1 lost"]),
        ("class Lost: pass", "", ["x.py:1 Lost"]),
        ("def used(): ...\nused()", "", []),
        ("def shown(): ...", "call `shown(3)`", []),
        ("class Seam: ...\nclass Option(Seam): ...", "", []),
        ("def named(): ...\nBY = 'package.named'", "", []),
        ("def lost(): ...\nx = 'a sentence: lost.'", "", ["x.py:1 lost"]),
    ],
)
def test_it_would_notice(source, pages, dead):
    assert uncalled({Path("x.py"): ast.parse(source)}, pages) == dead
