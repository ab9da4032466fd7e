"""Single fields of HDF5 and MATLAB files, read so that a damaged or hostile file is one clear error.

MATLAB's version 5 is taken apart here: SciPy's reader trusts the sizes in a file and can end the process on a damaged
one. The layout is MathWorks' "MAT-File Format"; only plain numeric and logical arrays are read.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rvos_lightning.data.limits import limit, within
from rvos_lightning.data.reader import DataError

KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, PACKED = 14, 15
HEADER = 128
NUMERIC = range(6, 16)  # array classes: double to uint64


def hdf5_fields(data: bytes, names: Sequence[str], place: str) -> list[np.ndarray]:
    """Whole datasets of an HDF5 file by name.

    Raises:
        DataError: no HDF5 file, a field missing or no numbers, beyond the limit, or stored outside the file.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            return [_dataset(file, name, place) for name in names]
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds for damage; all mean the same to a user
        said = "" if "<_io" in str(error) else f" ({error})"
        raise DataError(f"{place}: not a readable HDF5 file with fields {', '.join(names)}{said}.") from error


def _dataset(file: Any, name: str, place: str) -> np.ndarray:
    import h5py

    if name not in file:
        raise DataError(f"{place}: no field {name!r}; it holds {', '.join(sorted(file)[:8])}. Get the file again.")
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f"{place}: field {name!r} is a link. Data must lie in the file itself; get the original.")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
        raise DataError(f"{place}: field {name!r} holds no numbers. Get the file again.")
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{place}: field {name!r} is stored outside the file. Get the original file.")
    within("hdf5_values", int(dataset.size), f"{place}, field {name!r}")
    return np.asarray(dataset)


def mat_field(data: bytes, name: str, place: str) -> np.ndarray:
    """A numeric array of a MATLAB file of version 5 (axes as in MATLAB) or 7.3 (HDF5, axes reversed back).

    Raises:
        DataError: another kind of file, damaged, beyond the limit, or without the field.
    """
    if b"\x89HDF\r\n\x1a\n" in (data[:8], data[512:520]):
        return hdf5_fields(data, [name], place)[0].T
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or len(data) < HEADER:
        raise DataError(f"{place}: not a MATLAB file of version 5 or 7.3 ({len(data)} bytes). Get it again.")
    try:
        return _search(data, order, name, place)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{place}: not a readable MATLAB file ({error}). Get it again.") from error


class _Element(NamedTuple):
    kind: int
    body: bytes
    end: int


def _element(data: bytes, at: int, order: str) -> _Element:
    """The element at a place: its type, its bytes, and where the next one begins."""
    kind, size = struct.unpack_from(order + "II", data, at)
    if kind >> 16:  # up to four bytes lie in the tag itself
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise ValueError(f"{size} bytes in a small element")
        return _Element(kind, data[at + 4 : at + 4 + size], at + 8)
    if at + 8 + size > len(data):
        raise ValueError("it is cut off")
    end = at + 8 + size
    return _Element(kind, data[at + 8 : end], end if kind == PACKED else end + -size % 8)


def _search(data: bytes, order: str, name: str, place: str) -> np.ndarray:
    at, held = HEADER, []
    while at + 8 <= len(data):
        kind, body, at = _element(data, at, order)
        if kind == PACKED:
            most = 8 * limit("hdf5_values")
            unpacker = zlib.decompressobj()
            body = unpacker.decompress(body, most)
            if unpacker.unconsumed_tail:
                within("hdf5_values", most + 1, place)
            kind, body, _ = _element(body, 0, order)
        if kind == MATRIX:
            found = _array(body, order, name, held, place)
            if found is not None:
                return found
    raise DataError(f"{place}: no field {name!r}; it holds {', '.join(held[:8]) or 'nothing'}. Get it again.")


def _array(body: bytes, order: str, name: str, held: list[str], place: str) -> np.ndarray | None:
    flags = _element(body, 0, order)
    sides = _element(body, flags.end, order)
    title = _element(body, sides.end, order)
    shown = title.body.decode("latin-1")
    held.append(shown)
    if shown != name:
        return None
    (first,) = struct.unpack_from(order + "I", flags.body)
    if (first & 0xFF) not in NUMERIC or first & 0x800:
        raise DataError(f"{place}: field {name!r} is no array of real numbers. Get it again.")
    shape = np.frombuffer(sides.body, order + "i4").tolist()
    if not 2 <= len(shape) <= 4 or min(shape) < 0:
        raise ValueError(f"field {name!r} of shape {shape}")
    count = int(np.prod([int(side) for side in shape], dtype=object))
    within("hdf5_values", count, f"{place}, field {name!r}")
    real = _element(body, title.end, order)
    if real.kind not in KINDS:
        raise ValueError(f"field {name!r} of type {real.kind}")
    values = np.frombuffer(real.body, order + KINDS[real.kind])
    if len(values) != count:
        raise ValueError(f"field {name!r} has {len(values)} values for the shape {shape}")
    return values.reshape(shape, order="F")
