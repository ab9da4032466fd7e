"""Arrays in one file that every process maps: nothing is parsed twice, nothing copied to workers.

Anything may precede the arrays in the file; a table of contents stands at its end.
"""

import hashlib
import json
import os
import secrets
import struct
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.whole import WriteError

VERSION = 1
MAGIC = b"RLESTORE"
BESIDE = ".rvos_lightning"
"""Folder beside the sources, in which what is derived from them lies."""
OLD = 24 * 3600.0
"""Seconds after which a half-written file is nobody's any more."""
TAIL = struct.Struct("<QI8s")  # where the table of contents lies, its length, the magic word


class Tables(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: mapped from the file, by name.
        facts: written along with them.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def write_arrays(file: BinaryIO, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Appends arrays, each on a multiple of 64 bytes, and the table of contents."""
    contents = []
    for name, array in arrays.items():
        file.write(b"\0" * (-file.tell() % 64))
        contents.append([name, array.dtype.str, file.tell(), list(array.shape)])
        file.write(np.ascontiguousarray(array).tobytes())
    start = file.tell()
    text = json.dumps({"version": VERSION, **facts, "tables": contents}).encode()
    file.write(text + TAIL.pack(start, len(text), MAGIC))


def map_arrays(path: Path) -> Tables:
    """The arrays of a file, mapped.

    Raises:
        DataError: not a whole file of this version.
    """
    with path.open("rb") as file:
        whole = file.seek(0, os.SEEK_END) >= TAIL.size
        file.seek(-TAIL.size if whole else 0, os.SEEK_END)
        start, length, magic = TAIL.unpack(file.read(TAIL.size)) if whole else (0, 0, b"")
        try:
            file.seek(start)
            facts = json.loads(file.read(length)) if magic == MAGIC else {}
        except ValueError:
            facts = {}
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise DataError(f"{path}: not a store of version {VERSION}. Delete it; it is built anew.")
    try:
        # a plain array over the map: memmap's own indexing is many times slower
        arrays = {
            name: np.memmap(path, np.dtype(kind), "r", offset, tuple(shape)).view(np.ndarray)
            if shape[0]
            else np.empty(shape, kind)
            for name, kind, offset, shape in facts["tables"]
        }
    except (LookupError, TypeError, ValueError, OverflowError) as error:  # whatever wrong facts make of a map
        raise DataError(f"{path}: damaged ({error}). Delete it; it is built anew.") from error
    return Tables(arrays, facts)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Writes a file beside its final place and moves it there, so that no reader ever sees half of one.

    Args:
        path: by `cache_path`; where that is beside the data and there is no room, the user's cache takes it.
        write: may be called a second time.

    Returns:
        Where it is.

    Raises:
        WriteError: there is no room or no permission.
    """
    try:
        _write_at(path, write)
        return path
    except WriteError:
        if path.parent.name != BESIDE:
            raise
    other = _in_home(path.parent.parent) / path.name
    warnings.warn(f"{path.parent}: not writable or full; kept in {other.parent}", stacklevel=2)
    _write_at(other, write)
    return other


def _write_at(path: Path, write: Callable[[BinaryIO], object]) -> None:
    _clear_away(path)
    name = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not tempfile: what it makes only its owner may read, and data sets are shared
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def _unwritable(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"{path}: cannot be written ({error.strerror}). Make room or give permission there, or export "
        "XDG_CACHE_HOME=FOLDER where the data set's folder is read-only."
    )


def _clear_away(path: Path) -> None:
    """What a kill has left of earlier attempts; younger ones may be another process at work."""
    with suppress(OSError):
        for old in path.parent.glob(f".{path.name}.*"):
            if time.time() - old.stat().st_mtime > OLD:
                old.unlink()


def cache_path(sources: Sequence[Path], suffix: str, cache: Path | None = None, tag: str = "") -> Path:
    """Where something derived from files is kept; the name changes with the files' names, sizes and dates."""
    digest = hashlib.sha256(f"{VERSION} {tag}".encode())
    for source in sources:
        try:
            facts = source.stat()
        except OSError as error:
            raise DataError(f"{source}: missing. Put the file there or point `root` at the right folder.") from error
        digest.update(f"\n{source.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    first = sources[0]
    name = f"{first.stem}.{tag + '.' if tag else ''}{digest.hexdigest()[:16]}{suffix}"
    if cache is not None:
        return Path(cache) / name
    beside, home = first.parent / BESIDE / name, _in_home(first.parent) / name
    writable = os.access(beside.parent if beside.parent.exists() else first.parent, os.W_OK)
    return beside if beside.exists() or (writable and not home.exists()) else home


def _in_home(folder: Path) -> Path:
    """The place in the user's cache of what belongs beside the files of a folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "rvos_lightning" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
