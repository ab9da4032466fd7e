"""Files and folders that are whole or not there: written beside their place and moved, also when the disk is full."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rvos_lightning.data.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""The system's numbers for disks on which nothing can be written any more."""

NO_PLACE = (*FULL, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
REMEDY = "Make room or give permission there, or write elsewhere; what was there before is kept."


class WriteError(DataError):
    """A file cannot be written; names it and why."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when all has gone well.

    Its name is always the same, so that what a kill leaves is overwritten by the next attempt.

    Raises:
        WriteError: no room, or no permission.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")  # encoders go by the suffix
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, not yet made, to fill; it takes the place of `folder`, which may be empty.

    What a kill has left of earlier attempts is removed.

    Raises:
        WriteError: no room, or no permission.
    """
    partial = folder.with_name(f".{folder.stem}.partial{folder.suffix}")
    with writing(folder):
        try:
            _remove(partial)
            folder.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
        finally:
            _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file: a full or read-only disk is one clear error.

    Raises:
        WriteError: no room, or no permission.
    """
    try:
        yield
    except Exception as error:  # encoders have kinds of their own, with the system's number
        if getattr(error, "errno", None) not in NO_PLACE or _read_elsewhere(error, path):
            raise
        raise WriteError(f"{path}: cannot be written ({os.strerror(error.errno)}). {REMEDY}") from error


def _read_elsewhere(error: Exception, path: Path) -> bool:
    """Whether it is another file that may not be opened, one that is read to write this."""
    name = getattr(error, "filename", None)
    if getattr(error, "errno", None) in FULL or not isinstance(name, str):
        return False
    place, here = Path(name).absolute(), path.absolute()
    return place not in here.parents and here.parent not in place.parents
