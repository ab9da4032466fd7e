"""Every limit on what a file may declare, in one place; checked before memory is taken.

A small file can ask for any amount of memory. What a sound data set needs lies far below these numbers. For one that
needs more every verb takes a flag, which a configuration file may hold, too: `--limits.picture_pixels 400000000`. In
Python, set the environment variable, `RVOS_PICTURE_PIXELS=400000000`; the flag does the same for one command.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rvos_lightning.data.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

LIMITS: dict[str, tuple[int, str]] = {
    "picture_pixels": (100_000_000, "pixels of one picture or mask"),
    "zip_member_bytes": (1 << 30, "bytes of one file in a zip, unpacked"),
    "zip_members": (20_000_000, "files in one zip"),
    "tar_member_bytes": (1 << 30, "bytes of one file in a tar"),
    "tar_members": (20_000_000, "files in one tar"),
    "hdf5_values": (1 << 28, "values of one field of an HDF5 or MATLAB file"),
    "video_frames": (1_000_000, "frames that a table gives one video"),
    "rle_bytes": (1 << 24, "bytes of one run-length mask"),
    "polygon_numbers": (1 << 20, "coordinates of one polygon"),
    "pickle_bytes": (256 << 20, "bytes of a pickle of references"),
    "worker_seconds": (50, "seconds without a batch from the loader workers"),
    "json_depth": (64, "levels of nesting in a JSON file or pickle"),
}
"""Name -> (number, what it counts)."""

POLYGON_MARGIN = 4
"""Polygon coordinates lie within so many picture sides of the picture."""


def limit(name: str) -> int:
    """A limit, as a flag or the environment sets it.

    Raises:
        DataError: the variable holds no positive number.
    """
    given = os.environ.get(variable(name))
    if given is None:
        return LIMITS[name][0]
    value = _number(given)
    if value < 1:
        raise DataError(f"{variable(name)}={given}: expected a number from 1 ({LIMITS[name][1]})")
    return value


def variable(name: str) -> str:
    """The environment variable that sets a limit."""
    return f"RVOS_{name.upper()}"


def raised_by(name: str, value: object) -> str:
    """How a limit is raised, for messages."""
    return f"--limits.{name} {value} (in Python: export {variable(name)}={value})"


@contextmanager
def raised(given: Mapping[str, Any]) -> Iterator[None]:
    """Other limits for a while, in this process and those it starts.

    Args:
        given: name -> number.

    Raises:
        DataError: no such limit, or no positive number.
    """
    before = {variable(name): os.environ.get(variable(name)) for name in given}
    for name, value in given.items():
        if name not in LIMITS:
            near = get_close_matches(name, LIMITS, n=3, cutoff=0.4)
            hint = f"\n  nearest   {', '.join(near)}" if near else ""
            raise DataError(f"no limit {name!r}\n  expected  one of: {', '.join(LIMITS)}{hint}")
        if _number(value) < 1:
            raise DataError(f"wrong value for limits.{name}\n  value     {value}\n  expected  a number from 1")
    try:
        os.environ.update({variable(name): str(_number(value)) for name, value in given.items()})
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            os.environ.update({} if value is None else {key: value})


def _number(value: Any) -> int:
    """A whole number from what somebody typed; 0 for what is none."""
    try:
        return int(float(value))
    except (ValueError, OverflowError, TypeError):
        return 0


def within(name: str, value: int, place: str) -> None:
    """Refuse what is beyond a limit.

    Raises:
        DataError: names place, number, limit, and how to raise it.
    """
    most = limit(name)
    if value > most:
        raise DataError(
            f"{place}: declares {value:,} {LIMITS[name][1]}, more than {most:,}. "
            f"The file is damaged; if it is meant: {raised_by(name, value)}"
        )


@contextmanager
def open_picture(data: bytes, place: str) -> Iterator["Image.Image"]:
    """A picture whose header has been looked at; nothing is decoded yet.

    Raises:
        DataError: no readable image, or one beyond the limit; also for what goes wrong inside, as decoding is lazy.
    """
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own guard would refuse what a user allows
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit("picture_pixels"))
    try:
        with Image.open(io.BytesIO(data)) as image:
            within("picture_pixels", image.width * image.height, place)
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{place}: declares more than {limit('picture_pixels'):,} pixels. "
            f"The file is damaged; if it is meant: {raised_by('picture_pixels', 'NUMBER')}"
        ) from error
    except (OSError, SyntaxError, ValueError, IndexError, TypeError, EOFError, OverflowError) as error:
        raise DataError(f"{place}: {no_picture(data, error)}") from error


def no_picture(data: bytes, error: Any) -> str:
    """Why bytes are no picture."""
    if data.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer, not the picture itself. Run `git lfs pull` in its repository."
    reason = "" if error is None or "<_io" in str(error) else f": {error}"
    return f"not a readable image ({len(data)} bytes{reason}). Unpack or download the file again."
