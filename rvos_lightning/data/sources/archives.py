"""Archives read in place: what zips and tars share, and zips."""

import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.limits import within
from rvos_lightning.data.readers.annotation_files import safe_path

STORED, DEFLATED = 0, 8  # the two compression methods of zip files in use
ENCRYPTED = 1  # flag of a zip member
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
AFTER = b"\xff"  # sorts behind every byte of UTF-8


NOTES = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX")
"""What Macs and Windows put into folders, and Macs into zips."""


def left_by_desktops(name: str) -> bool:
    """Whether a file holds the notes of a Mac or of Windows on a folder or on its namesake, not data."""
    last = name.rpartition("/")[2]
    return name.startswith("__MACOSX/") or "/__MACOSX/" in name or last.startswith("._") or last in NOTES


def member_name(member: zipfile.ZipInfo) -> str:
    """A member's name with slashes; some programs of Windows write backslashes."""
    dos = member.create_system == 0 and "/" not in member.filename
    return member.filename.replace("\\", "/") if dos else member.filename


class FileTree(ABC):
    """Files below one place; names are relative, with slashes, and cannot leave it.

    Attributes:
        place: the folder or the archive.
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

    @abstractmethod
    def source(self, folder: str) -> Path:
        """What a folder's files lie in, whose date tells of changes: the folder, or the archive in its place."""


class Archive(FileTree):
    """An archive whose members are found in arrays, so that a worker holds no object a member.

    A sub-class fills the table of names before anything is read.

    Args:
        place: the archive.
        inside: the folder within it that takes the place of the tree's root.
    """

    def __init__(self, place: Path, inside: str = "") -> None:
        self.place, self.inside = place, inside
        self.prefix = f"{inside}/".encode() if inside else b""
        self.table = np.empty(0, "S1")
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
        first, last = self.span(self.prefix)
        return last - first

    def exists(self, name: str) -> bool:
        """See `FileTree.exists`."""
        return self.row(safe_path(name, self.place)) is not None

    def names(self, folder: str = "") -> list[str]:
        """See `FileTree.names`; of a folder below, one member is looked at, however many it holds."""
        prefix = self.prefix + (f"{folder}/".encode() if folder else b"")
        at, last = self.span(prefix)
        found = set()
        while at < last:
            child, slash, _ = bytes(self.table[at])[len(prefix) :].partition(b"/")
            found.add(child.decode(errors="surrogateescape"))
            at = self.span(prefix + child + b"/")[1] if slash else at + 1
        return sorted(found)

    def source(self, folder: str) -> Path:
        """See `FileTree.source`."""
        return self.place

    def files(self) -> Iterator[str]:
        """Names of all files below the tree's root, sorted as bytes."""
        first, last = self.span(self.prefix)
        return (bytes(name)[len(self.prefix) :].decode(errors="surrogateescape") for name in self.table[first:last])

    def row(self, name: str) -> int | None:
        """Where a member stands in the table; None if there is none."""
        key = self.prefix + name.encode(errors="surrogateescape")
        if len(key) > self.table.itemsize:  # a longer key would make NumPy widen, so copy, the whole table
            return None
        row = int(np.searchsorted(self.table, key))
        return row if row < len(self.table) and self.table[row] == key else None

    def span(self, prefix: bytes) -> tuple[int, int]:
        """First and last row, exclusive, of the members whose names begin with a folder and a slash, or with ""."""
        if not prefix:
            return 0, len(self.table)
        if len(prefix) >= self.table.itemsize:
            return 0, 0
        first, last = np.searchsorted(self.table, [prefix, prefix + AFTER])
        return int(first), int(last)

    def bytes_at(self, start: int, length: int) -> bytes:
        """Bytes of the archive itself; neither threads nor processes share a position in it."""
        # one descriptor a process, as a forked worker outlives its parent's
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), os.open(self.place, os.O_RDONLY))
        return os.pread(self._handle[1], length, start)


class Zip(Archive):
    """A zip archive read in place."""

    def __init__(self, place: Path, inside: str = "") -> None:
        """Reads the archive's directory.

        Raises:
            DataError: no zip, encrypted, or with a name twice.
        """
        super().__init__(place, inside)
        prefix = self.prefix.decode()
        try:
            with zipfile.ZipFile(place) as archive:
                within("zip_members", len(archive.infolist()), str(place))
                named = [(member_name(member), member) for member in archive.infolist()]
        except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeError, struct.error) as error:
            raise DataError(f"{place}: not a readable zip file ({error}). Download it again.") from error
        files = [(n, m) for n, m in named if n.startswith(prefix) and not n.endswith("/") and not left_by_desktops(n)]
        if locked := next((name for name, member in files if member.flag_bits & ENCRYPTED), None):
            raise DataError(f"{place}: {locked!r} is encrypted. Unpack the archive with its password.")
        files.sort(key=lambda file: file[0].encode())
        self.table = np.array([name.encode() for name, _ in files], dtype=np.bytes_)
        refuse_doubled(self.table, place)
        facts = [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for _, m in files]
        self._facts = np.array(facts, dtype=np.int64).reshape(-1, 5)

    def read(self, name: str) -> bytes:
        """See `FileTree.read`."""
        row = self.row(safe_path(name, self.place))
        if row is None:
            raise DataError(f"{self.place}: no member {name!r}. The archive is incomplete; get it again.")
        start, packed, size, checksum, method = (int(value) for value in self._facts[row])
        within("zip_member_bytes", max(packed, size), f"{self.place}: {name!r}")
        try:
            header = LOCAL_HEADER.unpack(self.bytes_at(start, LOCAL_HEADER.size))
            data = self.bytes_at(start + LOCAL_HEADER.size + header[-2] + header[-1], packed)
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


def refuse_doubled(names: np.ndarray, place: Path) -> None:
    """Refuse a sorted table of members in which a name stands twice.

    Raises:
        DataError: names it.
    """
    if len(doubled := np.flatnonzero(names[1:] == names[:-1])):
        raise DataError(
            f"{place}: {names[doubled[0]].decode(errors='replace')!r} is in it twice. Pack the archive again."
        )
