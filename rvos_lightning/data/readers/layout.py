"""What a layout must contain, refused or reported in the same words."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rvos_lightning.data.problems import Problem, Refused, blocks_of
from rvos_lightning.data.sources.file_tree import FileTree, left_by_desktops, open_tree, packed_tree
from rvos_lightning.data.sources.frame_names import lost_between
from rvos_lightning.data.sources.tar import COMPRESSED, REMEDY, unpacking


def missing(path: Path, what: str, split: str, blocks: tuple[str, ...] | None = None) -> Problem:
    """The problem of a file or folder that is not there."""
    nearest = next((parent for parent in path.parents if parent.exists()), path.anchor)
    names = sorted(entry.name for entry in Path(nearest).iterdir())[:8] if Path(nearest).is_dir() else []
    remedy = f"Unpack it there or point `root` elsewhere; {nearest} holds: {', '.join(names) or 'nothing'}."
    return Problem(str(path), f"missing: {what}", remedy, blocks_of(split) if blocks is None else blocks)


def frame_problems(
    video: str, frames: Sequence[str], masks: Iterable[str], split: str, folder: str = ""
) -> Iterator[Problem]:
    """Frames that a listing of files shows to be lost: gaps in the numbers, masks without a frame.

    A reader that takes a video's frames from its folder would otherwise read a shorter video.

    Args:
        video: id.
        frames: stems of the frame files, sorted.
        masks: names of the video's mask files; other files are passed over.
        split: of the data set.
        folder: where the frames lie, for the message.
    """
    place, remedy = f"{folder or 'frames'} of video {video}", "Unpack the frames again, or leave the video out."
    there = set(frames)
    alone = sorted(stem for name in masks if name.lower().endswith(".png") and (stem := name[:-4]) not in there)
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        yield Problem(place, f"no frame {alone[0]}{more}, of which there is a mask", remedy, blocks_of(split))
        return
    if gone := lost_between(frames):
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        yield Problem(place, f"frame {gone[0]}{more} missing between its neighbours", remedy, blocks_of(split))


def without_notes(paths: Iterable[Path]) -> list[Path]:
    """Paths in order, without the notes of desktops (`._name`, `Thumbs.db`)."""
    return sorted(path for path in paths if not left_by_desktops(path.name))


def needed_tree(root: Path, relative: str, split: str, what: str = "the frames") -> FileTree:
    """A folder, or a zip or tar in its place, that the split cannot do without.

    Raises:
        Refused: it is not there, or only as a compressed tar.
    """
    tree = open_tree(root, relative)
    if tree is None:
        packed = packed_tree(root, relative)
        if packed is not None and (command := unpacking(packed)) is not None:
            raise Refused([Problem(str(packed), COMPRESSED, f"{REMEDY} {command}", blocks_of(split))])
        raise Refused([missing(root / relative, f"{what} of split {split} (folder, zip or tar)", split)])
    return tree


def needed_file(root: Path, names: tuple[str, ...], split: str, what: str) -> Path:
    """The first of some names, with wildcards, that exists below `root`.

    Raises:
        Refused: none does.
    """
    for name in names:
        found = without_notes(root.glob(name)) if any(sign in name for sign in "*?[") else [root / name]
        if found and found[0].is_file():
            return found[0]
    raise Refused([missing(root / names[0], what, split)])
