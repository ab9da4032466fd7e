"""Run-length masks as COCO writes them, with the traps of the mask library closed.

The library's `decode([])`, and runs that do not fill the picture, return uninitialised memory, `decode` raises on
lists of counts, and polygon lists with parts of four numbers are taken for boxes. Here empty input gives no mask,
every form is made compressed first, such parts are dropped, and decoding is our own.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.limits import POLYGON_MARGIN, within

MOST_GROUPS = 7  # 35 bits: more than any picture's pixels
DAMAGED = -1
Rle = dict[str, Any]  # {"size": [height, width], "counts": bytes}


def compressed(rle: Any, place: str) -> Rle:
    """Any RLE dict (counts as text, bytes, or a list of run lengths) with compressed bytes.

    Raises:
        DataError: not an RLE; names the place.
    """
    from pycocotools import mask as library

    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(_whole(side, 1) for side in size):
        raise DataError(f"{place}: not a run-length mask (needs `size` [height, width] and `counts`): {str(rle)[:80]}.")
    height, width = int(size[0]), int(size[1])
    within("picture_pixels", height * width, place)
    if isinstance(counts, list):
        within("rle_bytes", len(counts), place)
        if not all(_whole(each, 0) for each in counts):
            raise DataError(f"{place}: runs must be whole numbers from 0: {str(counts)[:80]}. Get the file again.")
        if sum(counts) != height * width:
            raise DataError(
                f"{place}: runs cover {sum(counts)} pixels, but the size {height}x{width} has another number."
            )
        return library.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(counts, str | bytes):
        raise DataError(f"{place}: `counts` must be text or a list of runs, found {type(counts).__name__}.")
    within("rle_bytes", len(counts), place)
    data = counts.encode() if isinstance(counts, str) else counts
    return {"size": [height, width], "counts": data}


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31


def polygons(parts: Any, size: tuple[int, int], place: str = "a polygon") -> Rle | None:
    """The union of polygon parts (flat x, y lists) as one RLE; None when no part is a polygon.

    Parts with fewer than six numbers or an odd number of them are no polygons and are dropped.

    Raises:
        DataError: coordinates that are no finite numbers, or far outside the picture.
    """
    from pycocotools import mask as library

    within("picture_pixels", size[0] * size[1], place)
    usable = [part for part in parts if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
    for part in usable:
        within("polygon_numbers", len(part), place)
        least, most = -POLYGON_MARGIN * max(size), (1 + POLYGON_MARGIN) * max(size)
        values = np.array(part, dtype=None if _flat(part) else object)
        if values.dtype.kind not in "iuf" or not ((values >= least) & (values <= most)).all():
            raise DataError(
                f"{place}: a polygon whose coordinates are no numbers near the picture of {size[0]}x{size[1]} "
                f"(height x width): {str(part)[:60]}. Get the annotation file again."
            )
    return library.merge(library.frPyObjects(usable, *size)) if usable else None


def _flat(part: list[Any]) -> bool:
    return not any(isinstance(each, list | dict) for each in part)


def segmentation(value: Any, size: tuple[int, int], place: str) -> Rle | None:
    """What COCO annotation files hold under `segmentation`, polygons or RLE, as one RLE; None if unusable."""
    return polygons(value, size, place) if isinstance(value, list) else compressed(value, place)


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
        if lengths.min(initial=0) < 0 or lengths.max(initial=0) > out.size or int(lengths.sum()) != out.size:
            raise DataError(
                f"a run-length mask of {int(lengths.sum())} pixels for a picture of {out.size}. Get the file again."
            )
        plane = np.repeat(np.arange(len(lengths), dtype=np.uint8) & 1, lengths)
        union = plane if union is None else np.bitwise_or(union, plane, out=union)
    cv2.transpose(union.reshape(out.shape[::-1]), dst=out)  # columns to rows, in blocks


def runs(counts: bytes) -> Int64[np.ndarray, "runs"]:
    """Run lengths of compressed counts, outside first.

    A run is stored as the difference to the run two before it (from the fourth on), in 5-bit groups, lowest first;
    the sixth bit means that more groups follow, the fifth bit of the last one is the sign.
    """
    data = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = (data & 0x20) == 0
    cut = len(data) > 0 and not last[-1]
    last[-1:] = True
    values, starts = _numbers(data, last)
    if cut or _broken(data, last, starts).any():
        raise DataError("a run-length mask whose text is cut off or damaged. Get the annotation file again.")
    np.cumsum(values[1::2], out=values[1::2])
    np.cumsum(values[2::2], out=values[2::2])
    return values


def _broken(
    data: Int64[np.ndarray, "bytes"], last: Bool[np.ndarray, "bytes"], starts: Int64[np.ndarray, "numbers"]
) -> Bool[np.ndarray, "numbers"]:
    """Numbers that no picture needs, or of signs that are none."""
    if not len(starts):
        return np.zeros(0, bool)
    spans = np.flatnonzero(last) - starts + 1
    strange = np.bitwise_or.reduceat((data < 0) | (data > 63), starts)
    return strange | (spans > MOST_GROUPS)


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

    Pixels are `DAMAGED` for counts that hold a negative run, or text that is cut off or of no known sign.
    """
    data = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    sizes = np.fromiter(map(len, counts), np.int64, len(counts))
    if not len(data):
        return np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    last = (data & 0x20) == 0
    ends = np.cumsum(sizes)[sizes > 0] - 1
    cut = np.flatnonzero(~last[ends])
    last[ends] = True  # a cut-off number ends with its mask
    values, starts = _numbers(data, last)
    owner = np.repeat(np.arange(len(counts)), sizes)[starts]
    broken = _broken(data, last, starts)
    values[broken] = 0
    number = np.bincount(owner, minlength=len(counts))
    index = np.arange(len(values)) - np.repeat(np.cumsum(number) - number, number)
    for kind in (index % 2 == 1, (index % 2 == 0) & (index > 0)):  # differences to the run two before
        values[kind] = _summed(values[kind], owner[kind])
    damaged = np.zeros(len(counts), bool)
    damaged[owner[broken | (values < 0) | (values >= 1 << 31)]] = True
    damaged[np.flatnonzero(sizes)[cut]] = True
    pixels = np.bincount(owner, values, len(counts)).astype(np.int64)
    area = np.bincount(owner, values * (index % 2), len(counts)).astype(np.int64)
    return np.where(damaged, DAMAGED, pixels), np.where(damaged, 0, area)


def _summed(values: Int64[np.ndarray, "numbers"], owner: Int64[np.ndarray, "numbers"]) -> Int64[np.ndarray, "numbers"]:
    """Sums from each owner's first number on."""
    if not len(values):
        return values
    total = np.cumsum(values)
    first = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    before = total[first] - values[first]
    return total - np.repeat(before, np.diff(np.append(first, len(values))))
