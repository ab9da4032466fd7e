"""A folder of files, or a zip or tar of the same folder read in place, behind one small interface."""

import os
from functools import lru_cache
from pathlib import Path

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.readers.annotation_files import safe_path
from rvos_lightning.data.sources.archives import Archive, FileTree, Zip, left_by_desktops
from rvos_lightning.data.sources.table_file import BESIDE
from rvos_lightning.data.sources.tar import Tar, packed_beside

OPEN_ARCHIVES = 128
"""Archives of single folders kept open by one process."""

KINDS: dict[str, type[Archive]] = {".zip": Zip, ".tar": Tar}
"""What is read in place, by suffix; the first found is taken."""


def data_in(folder: str | Path) -> list[str]:
    """Names directly in a folder, without desktops' notes and what we keep there."""
    return [name for name in os.listdir(folder) if name != BESIDE and not left_by_desktops(name)]


class Folder(FileTree):
    """An ordinary folder, in which any folder may be replaced by a zip or tar of the same name.

    The folder itself may be a link; what lies below must stay below.
    """

    def __init__(self, place: Path) -> None:
        """`place` is resolved once."""
        self.place = place
        self.resolved = os.path.realpath(place)
        self._places: dict[str, str | None] = {}  # of archives, by the folder that each stands for

    def path(self, name: str) -> str:
        """Where a file lies.

        Raises:
            DataError: the name, or a symbolic link on the way, leaves the folder.
        """
        path = os.path.realpath(os.path.join(self.resolved, safe_path(name, self.place)))
        if not path.startswith(self.resolved + os.sep):
            raise DataError(
                f"{self.place / name}: a link leads out of {self.resolved}. "
                f"Link the whole folder {self.place.name} instead of entries inside it."
            )
        return path

    def read(self, name: str) -> bytes:
        """See `FileTree.read`."""
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except FileNotFoundError as error:
            archive, rest = self._archive_of(name)
            if archive is not None:
                return archive.read(rest)
            raise DataError(f"{self.place / name}: missing file. Unpack the archive again or check `root`.") from error
        except OSError as error:
            raise DataError(
                f"{self.place / name}: unreadable ({error.strerror}). Check disk and permissions."
            ) from error

    def exists(self, name: str) -> bool:
        """See `FileTree.exists`."""
        path = self.path(name)
        if os.path.isfile(path):
            return True
        if os.path.isdir(path):
            raise DataError(f"{self.place / name}: a folder where a file is due. Unpack the archive again.")
        archive, rest = self._archive_of(name)
        return archive is not None and archive.exists(rest)

    def names(self, folder: str = "") -> list[str]:
        """See `FileTree.names`."""
        path = self.path(folder) if folder else self.resolved
        if os.path.isdir(path):
            if (there := data_in(path)) or not folder:
                return sorted({name[:-4] if name.endswith(tuple(KINDS)) else name for name in there})
        archive, rest = self._archive_of(f"{folder}/")
        return archive.names(rest.rstrip("/")) if archive is not None else []

    def source(self, folder: str) -> Path:
        """See `FileTree.source`; the archive may also stand for a folder above."""
        path = Path(self.path(folder))
        archive = None if path.is_dir() else self._archive_of(f"{folder}/")[0]
        return path if archive is None else archive.place

    def _archive_of(self, name: str) -> tuple[Archive | None, str]:
        """The archive that stands for a folder on the way to `name`, and the name inside it."""
        parts = name.split("/")
        for depth in range(len(parts) - 1, 0, -1):
            folder = "/".join(parts[:depth])
            if folder not in self._places:
                places = (self.path(f"{folder}{kind}") for kind in KINDS)
                self._places[folder] = next((place for place in places if os.path.isfile(place)), None)
            place = self._places[folder]
            archive = None if place is None or not os.path.isfile(place) else _opened(place, os.path.getmtime(place))
            if archive is not None:
                return archive, "/".join(parts[depth:])
        return None, name


def open_tree(root: Path, relative: str) -> FileTree | None:
    """The folder `root/relative`, or a zip or tar in its place or in the place of a folder on the way to it.

    `train/JPEGImages` is found as a folder, in `train/JPEGImages.tar`, or in `train.tar`, there with or without
    the folders on the way to it; likewise in zips. An empty folder gives way to an archive.
    """
    folder = root / relative
    if folder.is_dir() and data_in(folder):
        return Folder(folder)
    parts = relative.split("/")
    for depth in range(len(parts), 0, -1):
        for kind in KINDS:
            place = root.joinpath(*parts[: depth - 1], f"{parts[depth - 1]}{kind}")
            tree = _open_archive(place, "/".join(parts[depth:]), relative) if place.is_file() else None
            if tree is not None:
                return tree
    return Folder(folder) if folder.is_dir() else None


def packed_tree(root: Path, relative: str) -> Path | None:
    """A compressed tar in the place of a folder or of one on the way to it; none can be read in place."""
    parts = relative.split("/")
    places = (root.joinpath(*parts[:depth]) for depth in range(len(parts), 0, -1))
    return next((packed for place in places if (packed := packed_beside(place)) is not None), None)


@lru_cache(maxsize=OPEN_ARCHIVES)
def _opened(place: str, modified: float) -> Archive | None:
    """An archive that is read again and again; another one after it has changed."""
    return _open_archive(Path(place), "")


def _open_archive(place: Path, rest: str, relative: str = "") -> Archive | None:
    """Folder `rest` of an archive: within the folder the archive is named after, or deeper, or without any."""
    kind = KINDS[place.suffix]
    for inside in dict.fromkeys((f"{place.stem}/{rest}".rstrip("/"), relative or rest)):
        tree = kind(place, inside)
        if len(tree):
            return tree
    # packed with the path to it, as `tar cf train.tar /data/train` does
    above = next(kind(place).files(), "").split("/")[:-1]
    for anchor, below in ((place.stem, rest), (relative.rpartition("/")[2], "")):
        if anchor in above:
            tree = kind(place, "/".join([*above[: above.index(anchor) + 1], *filter(None, [below])]))
            if len(tree):
                return tree
    tree = kind(place, rest)
    return tree if len(tree) else None
