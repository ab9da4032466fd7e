"""Run-length masks as COCO writes them, with the traps of the mask library closed.

The library's `decode([])`, and runs that do not fill the picture, return uninitialised memory, `decode` raises on
lists of counts, and polygon lists with parts of four numbers are taken for boxes. Here empty input gives no mask,
every form is made compressed first, such parts are dropped, and decoding is our own.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

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
    """Writes the union of masks (1 inside, 0 outside) into `out`; no masks write zeros.

    Four times as fast as decoding with the library, and runs that do not fill the picture cannot leave
    uninitialised memory in it.

    Raises:
        DataError: a mask's runs do not fill the picture.
    """
    import cv2

    if not rles:
        out[...] = 0
        return
    union: UInt8[np.ndarray, "pixels"] | None = None
    for rle in rles:
        lengths = runs(rle["counts"])
        try:
            plane = np.repeat(np.arange(len(lengths), dtype=np.uint8) & 1, lengths)
        except ValueError as error:  # a negative run
            raise DataError(f"a damaged run-length mask ({error}). Get the annotation file again.") from error
        if len(plane) != out.size:
            raise DataError(
                f"a run-length mask of {len(plane)} pixels for a picture of {out.size}. Get the file again."
            )
        union = plane if union is None else np.bitwise_or(union, plane, out=union)
    cv2.transpose(union.reshape(out.shape[::-1]), dst=out)  # columns to rows, in blocks


def runs(counts: bytes) -> Int64[np.ndarray, "runs"]:
    """Run lengths of compressed counts, outside first.

    A run is stored as the difference to the run two before it (from the fourth on), in 5-bit groups, lowest first;
    the sixth bit means that more groups follow, the fifth bit of the last one is the sign.
    """
    data = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    values, _ = _numbers(data, (data & 0x20) == 0)
    np.cumsum(values[1::2], out=values[1::2])
    np.cumsum(values[2::2], out=values[2::2])
    return values


def _numbers(
    data: Int64[np.ndarray, "bytes"], last: Bool[np.ndarray, "bytes"]
) -> tuple[Int64[np.ndarray, "numbers"], Int64[np.ndarray, "numbers"]]:
    """The numbers that groups of bytes make up, `last` marking each one's last byte, and where they start."""
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    spans = ends - starts + 1
    shift = np.minimum(5 * (np.arange(len(data)) - np.repeat(starts, spans)[: len(data)]), 60)
    values = np.add.reduceat((data & 0x1F) << shift, starts) if len(starts) else np.zeros(0, np.int64)
    values -= np.where(data[ends] & 0x10, np.int64(1) << np.minimum(5 * spans, 62), 0)
    return values, starts


def measure(counts: list[bytes]) -> tuple[Int64[np.ndarray, "masks"], Int64[np.ndarray, "masks"]]:
    """Pixels covered by all runs, and pixels inside, of compressed counts, without decoding a mask.

    Runs are stored as differences (see `runs`), so their sum is a weighted sum of the stored numbers: each counts once
    for every run of its parity from there on.
    """
    data = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    if not len(data):
        return np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    last = (data & 0x20) == 0
    last[np.cumsum(lengths)[lengths > 0] - 1] = True  # a cut-off number ends with its mask
    values, starts = _numbers(data, last)
    owner = np.repeat(np.arange(len(counts)), lengths)[starts]
    number = np.bincount(owner, minlength=len(counts))
    index = np.arange(len(values)) - np.repeat(np.cumsum(number) - number, number)
    weight = np.where(index == 0, 1, (number[owner] - 1 - index) // 2 + 1)
    pixels = np.bincount(owner, weight * values, len(counts)).astype(np.int64)
    area = np.bincount(owner, weight * values * (index % 2), len(counts)).astype(np.int64)
    return pixels, area
