"""What a layout must contain, refused or reported in the same words."""

from pathlib import Path

from rvos_lightning.data.problems import Problem, Refused, blocks_of
from rvos_lightning.data.sources.file_tree import FileTree, open_tree


def missing(path: Path, what: str, split: str, blocks: tuple[str, ...] | None = None) -> Problem:
    """The problem of a file or folder that is not there."""
    nearest = next((parent for parent in path.parents if parent.exists()), path.anchor)
    names = sorted(entry.name for entry in Path(nearest).iterdir())[:8] if Path(nearest).is_dir() else []
    remedy = f"Unpack it there or point `root` elsewhere; {nearest} holds: {', '.join(names) or 'nothing'}."
    return Problem(str(path), f"missing: {what}", remedy, blocks_of(split) if blocks is None else blocks)


def needed_tree(root: Path, relative: str, split: str, what: str = "the frames") -> FileTree:
    """A folder, or a zip in its place, that the split cannot do without.

    Raises:
        Refused: it is not there.
    """
    tree = open_tree(root, relative)
    if tree is None:
        raise Refused([missing(root / relative, f"{what} of split {split} (folder or zip)", split)])
    return tree


def needed_file(root: Path, names: tuple[str, ...], split: str, what: str) -> Path:
    """The first of some names, with wildcards, that exists below `root`.

    Raises:
        Refused: none does.
    """
    for name in names:
        found = sorted(root.glob(name)) if any(sign in name for sign in "*?[") else [root / name]
        if found and found[0].is_file():
            return found[0]
    raise Refused([missing(root / names[0], what, split)])
