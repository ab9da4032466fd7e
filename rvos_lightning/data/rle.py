"""Run-length masks as COCO writes them, with the traps of the mask library closed.

`decode([])` returns uninitialised memory, `decode` raises on lists of counts, and polygon lists with parts of four
numbers are taken for boxes; here empty input gives no mask, every form is made compressed first, and such parts
are dropped before the library sees them.
"""

from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from rvos_lightning.data.reader import DataError

Rle = dict[str, Any]  # {"size": [height, width], "counts": bytes}


def compressed(rle: Any, place: str) -> Rle:
    """Any RLE dict (counts as text, bytes, or a list of run lengths) with compressed bytes.

    Raises:
        DataError: not an RLE; names the place.
    """
    from pycocotools import mask as library

    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if not isinstance(size, list | tuple) or len(size) != 2 or min(size) < 1 or counts is None:
        raise DataError(f"{place}: not a run-length mask (needs `size` [height, width] and `counts`): {str(rle)[:80]}.")
    height, width = int(size[0]), int(size[1])
    if isinstance(counts, list):
        if sum(counts) != height * width:
            raise DataError(
                f"{place}: runs cover {sum(counts)} pixels, but the size {height}x{width} has another number."
            )
        return library.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}


def polygons(parts: Any, size: tuple[int, int]) -> Rle | None:
    """The union of polygon parts (flat x, y lists) as one RLE; None when no part is a polygon.

    Parts with fewer than six numbers or an odd number of them are no polygons and are dropped.
    """
    from pycocotools import mask as library

    usable = [part for part in parts if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
    return library.merge(library.frPyObjects(usable, *size)) if usable else None


def segmentation(value: Any, size: tuple[int, int], place: str) -> Rle | None:
    """What COCO annotation files hold under `segmentation`, polygons or RLE, as one RLE; None if unusable."""
    return polygons(value, size) if isinstance(value, list) else compressed(value, place)


def union_into(rles: list[Rle], out: UInt8[np.ndarray, "height width"]) -> None:
    """Writes the union of masks (1 inside, 0 outside) into `out`; no masks write zeros."""
    import cv2
    from pycocotools import mask as library

    if not rles:
        out[...] = 0
        return
    column_major = library.decode(rles[0] if len(rles) == 1 else library.merge(rles))
    cv2.transpose(column_major.T, dst=out)  # decode fills columns; a blocked transpose is ten times a strided copy


def measure(counts: list[bytes]) -> tuple[Int64[np.ndarray, "masks"], Int64[np.ndarray, "masks"]]:
    """Pixels covered by all runs, and pixels inside, of compressed counts, without decoding a mask.

    The library trusts counts: runs that cover less than the picture leave uninitialised memory in the mask. A run is
    stored as the difference to the run two before it, in 5-bit groups, lowest first, the sixth bit meaning "more",
    so a sum of runs is a weighted sum of the stored numbers: each counts once for every later run of its parity.
    """
    data = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    if not len(data):
        return np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    last = (data & 0x20) == 0
    last[np.cumsum(lengths)[lengths > 0] - 1] = True  # a cut-off number ends with its mask
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    spans = np.diff(np.append(starts, len(data)))
    shift = np.minimum(5 * (np.arange(len(data)) - np.repeat(starts, spans)), 60)
    values = np.add.reduceat((data & 0x1F) << shift, starts)
    ends = starts + spans - 1
    negative = (data[ends] & 0x10) != 0
    values[negative] -= np.int64(1) << np.minimum(5 * spans[negative], 62)

    owner = np.repeat(np.arange(len(counts)), lengths)[starts]
    runs = np.bincount(owner, minlength=len(counts))
    index = np.arange(len(values)) - np.repeat(np.cumsum(runs) - runs, runs)
    weight = (runs[owner] - 1 - index) // 2 + 1
    contribution = np.where(index == 0, 1, weight) * values
    pixels = np.bincount(owner, contribution, len(counts)).astype(np.int64)
    area = np.bincount(owner, contribution * (index % 2), len(counts)).astype(np.int64)
    return pixels, area
