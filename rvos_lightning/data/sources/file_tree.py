"""A folder of files, or a zip of the same folder read in place, behind one small interface."""

import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from rvos_lightning.data.limits import within
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.readers.annotation_files import safe_path

STORED, DEFLATED = 0, 8  # the two compression methods of zip files in use
OPEN_ZIPS = 32  # archives of single videos kept open by one process
ENCRYPTED = 1  # flag of a zip member
LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def left_by_macos(name: str) -> bool:
    """Whether a file holds a Mac's notes on its namesake, not data."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


class FileTree(ABC):
    """Files below one place; names are relative, with slashes, and cannot leave it.

    Attributes:
        place: the folder or the zip file.
    """

    place: Path

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it is missing or damaged.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            DataError: a folder is in its place.
        """

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders directly below a folder, sorted; empty if there is no such folder."""


class Folder(FileTree):
    """An ordinary folder, in which any folder may be replaced by a zip of the same name.

    The folder itself may be a link; what lies below must stay below.
    """

    def __init__(self, place: Path) -> None:
        """`place` is resolved once."""
        self.place = place
        self.resolved = os.path.realpath(place)
        self._zips: dict[str, "Zip | None"] = {}

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
            archive, rest = self._zip_of(name)
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
        archive, rest = self._zip_of(name)
        return archive is not None and archive.exists(rest)

    def names(self, folder: str = "") -> list[str]:
        """See `FileTree.names`."""
        path = self.path(folder) if folder else self.resolved
        if os.path.isdir(path):
            there = [name for name in os.listdir(path) if not left_by_macos(name)]
            entries = (n[: -len(".zip")] if n.endswith(".zip") else n for n in there)
            return sorted(set(entries))
        archive, rest = self._zip_of(f"{folder}/")
        return archive.names(rest.rstrip("/")) if archive is not None else []

    def _zip_of(self, name: str) -> tuple["Zip | None", str]:
        """The archive that stands for a folder on the way to `name`, and the name inside it."""
        parts = name.split("/")
        for depth in range(len(parts) - 1, 0, -1):
            folder = "/".join(parts[:depth])
            if folder not in self._zips:
                place = self.path(f"{folder}.zip")
                if len(self._zips) >= OPEN_ZIPS:
                    self._zips.clear()
                self._zips[folder] = _open_zip(Path(place), "") if os.path.isfile(place) else None
            archive = self._zips[folder]
            if archive is not None:
                return archive, "/".join(parts[depth:])
        return None, name


class Zip(FileTree):
    """A zip archive read in place: members are found in arrays, so a worker holds no object a member."""

    def __init__(self, place: Path, inside: str = "") -> None:
        """`inside` is the folder within the archive that takes the place of the tree's root."""
        self.place, self.inside = place, inside
        prefix = f"{inside}/" if inside else ""
        try:
            with zipfile.ZipFile(place) as archive:
                within("zip_members", len(archive.infolist()), str(place))
                members = [m for m in archive.infolist() if m.filename.startswith(prefix) and not m.is_dir()]
        except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeError, struct.error) as error:
            raise DataError(f"{place}: not a readable zip file ({error}). Download it again.") from error
        members = [m for m in members if not left_by_macos(m.filename)]
        if locked := next((m.filename for m in members if m.flag_bits & ENCRYPTED), None):
            raise DataError(f"{place}: {locked!r} is encrypted. Unpack the archive with its password.")
        members.sort(key=lambda m: m.filename[len(prefix) :].encode())
        self._names = np.array([m.filename[len(prefix) :].encode() for m in members], dtype=np.bytes_)
        if len(doubled := np.flatnonzero(self._names[1:] == self._names[:-1])):
            raise DataError(f"{place}: {self._names[doubled[0]].decode()!r} is in it twice. Pack the archive again.")
        facts = [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for m in members]
        self._facts = np.array(facts, dtype=np.int64).reshape(-1, 5)
        self._handle: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Without the open file, which belongs to one process."""
        return {**self.__dict__, "_handle": None}

    def __del__(self) -> None:
        """Closes the file this process opened."""
        handle = getattr(self, "_handle", None)
        if handle is not None and handle[0] == os.getpid():
            os.close(handle[1])

    def __len__(self) -> int:
        """Number of files."""
        return len(self._names)

    def read(self, name: str) -> bytes:
        """See `FileTree.read`."""
        row = self._row(safe_path(name, self.place))
        if row is None:
            raise DataError(f"{self.place}: no member {name!r}. The archive is incomplete; get it again.")
        start, packed, size, checksum, method = (int(value) for value in self._facts[row])
        within("zip_member_bytes", max(packed, size), f"{self.place}: {name!r}")
        try:
            header = LOCAL_HEADER.unpack(os.pread(self._file, LOCAL_HEADER.size, start))
            data = os.pread(self._file, packed, start + LOCAL_HEADER.size + header[-2] + header[-1])
            if method == DEFLATED:
                data = zlib.decompressobj(wbits=-15).decompress(data, size + 1)  # never more than it declares
        except (struct.error, zlib.error, OSError, OverflowError) as error:
            raise DataError(f"{self.place}: {name!r} is damaged ({error}). Get the archive again.") from error
        if method not in (STORED, DEFLATED):
            raise DataError(
                f"{self.place}: {name!r} is packed with method {method}. Pack it again, stored or deflated."
            )
        if len(data) != size or zlib.crc32(data) != checksum:
            raise DataError(f"{self.place}: {name!r} is damaged (checksum). Get the archive again.")
        return data

    def exists(self, name: str) -> bool:
        """See `FileTree.exists`."""
        return self._row(safe_path(name, self.place)) is not None

    def names(self, folder: str = "") -> list[str]:
        """See `FileTree.names`."""
        prefix = f"{folder}/".encode() if folder else b""
        first, last = np.searchsorted(self._names, [prefix, prefix + b"\xff"])
        found = {name[len(prefix) :].split(b"/", 1)[0] for name in self._names[first:last].tolist()}
        return sorted(name.decode() for name in found)

    @property
    def _file(self) -> int:
        # one descriptor a process: a forked worker must not inherit its parent's; pread needs no position
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), os.open(self.place, os.O_RDONLY))
        return self._handle[1]

    def _row(self, name: str) -> int | None:
        key = name.encode()
        row = int(np.searchsorted(self._names, key))
        return row if row < len(self._names) and self._names[row] == key else None


def open_tree(root: Path, relative: str) -> FileTree | None:
    """The folder `root/relative`, or a zip in its place or in the place of a folder on the way to it.

    `train/JPEGImages` is found as a folder, in `train/JPEGImages.zip`, or in `train.zip`, there with or without
    the folder the archive is named after.
    """
    if (root / relative).is_dir():
        return Folder(root / relative)
    parts = relative.split("/")
    for depth in range(len(parts), 0, -1):
        archive = root.joinpath(*parts[: depth - 1], f"{parts[depth - 1]}.zip")
        if not archive.is_file():
            continue
        rest = "/".join(parts[depth:])
        tree = _open_zip(archive, rest)
        if tree is not None:
            return tree
    return None


def _open_zip(archive: Path, rest: str) -> Zip | None:
    """Folder `rest` of an archive, with or without the folder the archive is named after around it."""
    for inside in (f"{archive.stem}/{rest}".rstrip("/"), rest):
        tree = Zip(archive, inside)
        if len(tree):
            return tree
    return None
