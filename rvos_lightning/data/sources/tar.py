"""Plain tar archives read in place: one scan writes an index, then every member is one read at its place."""

import tarfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.limits import within
from rvos_lightning.data.readers.annotation_files import safe_path
from rvos_lightning.data.sources.archives import Archive, left_by_desktops, refuse_doubled
from rvos_lightning.data.sources.table_file import cache_path, map_arrays, write_arrays, write_whole

BLOCK = tarfile.BLOCKSIZE
PADDING = 1 << 20
"""Zeros behind the end mark, at most; writers fill their last record, usually to 10 kB."""
PACKED = {
    b"\x1f\x8b": ("gz", "gunzip"),
    b"BZh": ("bz2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zst", "unzstd"),
}
"""Suffix and unpacker of a compressed file, by its first bytes."""
COMPRESSED, REMEDY = "a compressed tar cannot be read in place", "Unpack the compression once, then it can:"
SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")


class Tar(Archive):
    """A plain tar archive.

    The index lies beside it, or in the user's cache where that folder cannot be written, and is made anew when the
    archive changes; a member that is not where the index says is refused.
    """

    def __init__(self, place: Path, inside: str = "") -> None:
        """Finds the index, or scans the archive once: minutes for one of many gigabytes on a slow disk.

        Raises:
            DataError: compressed, cut off, or with members that cannot be read in place.
        """
        super().__init__(place, inside)
        self.index = cache_path([place], ".tarindex")
        if not self.index.is_file():
            self.index = write_whole(self.index, lambda file: _write_index(file, place))
        self._map()

    def _map(self) -> None:
        arrays, _ = map_arrays(self.index)
        self.table = arrays["names"]
        self._starts, self._sizes, self._checks = arrays["starts"], arrays["sizes"], arrays["checks"]

    def __getstate__(self) -> dict[str, object]:
        """Only where archive and index lie: every process maps the index itself."""
        return {"place": self.place, "inside": self.inside, "prefix": self.prefix, "index": self.index}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Maps the index again."""
        self.__dict__.update(state, _handle=None)
        self._map()

    def read(self, name: str) -> bytes:
        """See `FileTree.read`."""
        row = self.row(safe_path(name, self.place))
        if row is None:
            raise DataError(f"{self.place}: no member {name!r}. The archive is incomplete; get it again.")
        size = int(self._sizes[row])
        within("tar_member_bytes", size, f"{self.place}: {name!r}")
        try:
            # the header goes along: it says whether this is still the archive that was indexed
            data = self.bytes_at(int(self._starts[row]) - BLOCK, BLOCK + size)
        except OSError as error:
            raise DataError(f"{self.place}: unreadable ({error.strerror}). Check disk and permissions.") from error
        if len(data) != BLOCK + size or _checksum(data[:BLOCK]) != int(self._checks[row]):
            raise DataError(
                f"{self.place}: {name!r} is not where {self.index.name} says: the archive was changed since, or is "
                "damaged. Get it again if `tar tf` fails; else delete the index."
            )
        return data[BLOCK:]


def unpacking(place: Path) -> str | None:
    """The command that makes a plain archive of a compressed one; None for a file that is not compressed."""
    with place.open("rb") as file:
        start = file.read(8)
    suffix, command = next((how for magic, how in PACKED.items() if start.startswith(magic)), ("", ""))
    if not command:
        return None
    if place.suffix != ".tar":
        return f"{command} '{place}'"
    named = place.with_name(f"{place.name}.{suffix}")  # unpackers go by the suffix
    return f"mv '{place}' '{named}' && {command} '{named}'"


def packed_beside(place: Path) -> Path | None:
    """A compressed tar that stands for a file or folder."""
    return next((path for s in SUFFIXES if (path := place.with_name(place.name + s)).is_file()), None)


def _checksum(header: bytes) -> int:
    """The sum that a member's header declares; -1 where it is none."""
    try:
        return int(header[148:156].split(b"\0")[0].strip() or b"-1", 8)
    except ValueError:
        return -1


def _write_index(file: BinaryIO, place: Path) -> None:
    members = sorted(_scan(place))
    names = np.array([name for name, *_ in members], np.bytes_) if members else np.empty(0, "S1")
    refuse_doubled(names, place)
    facts = np.array([own for _, *own in members], np.int64).reshape(-1, 3)
    arrays = dict(zip(("starts", "sizes", "checks"), facts.T, strict=True))
    write_arrays(file, {"names": names, **arrays}, {"source": str(place)})


def _scan(place: Path) -> list[tuple[bytes, int, int, int]]:
    """Name, start, size and checksum of every file.

    Raises:
        DataError: not a whole plain tar, or one with links to elsewhere or sparse files.
    """
    found: dict[str, tuple[int, int, int]] = {}
    try:
        if (command := unpacking(place)) is not None:
            raise DataError(f"{place}: {COMPRESSED}. {REMEDY} {command}")
        with tarfile.open(place, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # the library keeps every member, a kilobyte each
                name = member.name.removeprefix("./")
                if (
                    member.isdir()
                    or left_by_desktops(name)
                    or not (member.isfile() or member.islnk() or member.issym())
                ):
                    continue
                within("tar_members", len(found) + 1, str(place))
                found_at = _facts(member, found, place)
                key = name if name not in found else f"{name}\0"  # twice: refused below, by name
                found[key] = found_at
            end = archive.offset
    except DataError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{place}: not a readable tar ({error}). Download it again.") from error
    _refuse_unended(place, end)
    return [(name.encode(errors="surrogateescape"), *facts) for name, facts in found.items()]


def _facts(member: tarfile.TarInfo, found: dict[str, tuple[int, int, int]], place: Path) -> tuple[int, int, int]:
    if member.islnk() and (target := member.linkname.removeprefix("./")) in found:
        return found[target]
    if member.islnk() or member.issym():
        raise DataError(
            f"{place}: {member.name!r} is a link to {member.linkname!r}. Pack the files themselves: tar --dereference."
        )
    if member.issparse():
        raise DataError(f"{place}: {member.name!r} is a sparse file. Pack it again without --sparse.")
    return member.offset_data, member.size, member.chksum


def _refuse_unended(place: Path, end: int) -> None:
    """The library takes a cut or garbled header for the end, and looks at nothing behind it."""
    with place.open("rb") as file:
        file.seek(end)
        rest = file.read(PADDING + 1)
    if len(rest) < BLOCK or rest.strip(b"\0"):
        what = "ends without its end mark: it is cut off" if len(rest) < BLOCK else f"is damaged at byte {end}"
        raise DataError(f"{place}: the archive {what}, or several were joined. Get it again, or pack it again.")
    if len(rest) > PADDING:
        raise DataError(f"{place}: more than zeros follow the end mark. Several archives were joined; pack them again.")
