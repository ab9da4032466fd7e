"""Label Studio's run lengths of brush strokes: RGBA pictures row by row, packed bit by bit.

A header (32 bits: number of values, 5: bits of a value less 1, four times 4: bits of a length less 1), then pieces: a
bit that says whether one value repeats or values follow one by one, 2 bits for which of the four lengths, the length
less 1, and the value or values. The mask is where alpha is above 0.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, UInt8

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.limits import within
from rvos_lightning.data.sources.mask_pictures import Size

LENGTHS = (3, 4, 8, 16)  # bits of a length, shortest first
CHANNELS = 4


class _Bits:
    """Whole numbers read off a row of bits, highest bit first."""

    def __init__(self, data: UInt8[np.ndarray, "bytes"]) -> None:
        self.bits, self.at = np.unpackbits(data), 0

    def take(self, width: int, count: int = 1) -> np.ndarray:
        """`count` numbers of `width` bits."""
        end = self.at + width * count
        if end > len(self.bits):
            raise ValueError("it ends too early")
        rows = self.bits[self.at : end].reshape(count, width)
        self.at = end
        return rows @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))

    def one(self, width: int) -> int:
        """A single number."""
        return int(self.take(width)[0])


def decode_brush(values: object, size: Size, place: str) -> Bool[np.ndarray, "height width"]:
    """The mask of a brush.

    Raises:
        DataError: no list of bytes, cut off, or of another number of pixels.
    """
    if not isinstance(values, list) or not all(type(each) is int and 0 <= each < 256 for each in values):
        raise DataError(f"{place}: field 'rle' must list bytes, found {str(values)[:40]}. Export the project again.")
    within("rle_bytes", len(values), place)
    within("picture_pixels", size[0] * size[1], place)
    try:
        flat = np.concatenate([np.zeros(0, np.uint8), *_pieces(np.array(values, np.uint8), size)])
    except ValueError as error:
        raise DataError(f"{place}: damaged brush ({error}). Export the project again.") from error
    return flat.reshape(*size, CHANNELS)[..., CHANNELS - 1] > 0


def _pieces(data: UInt8[np.ndarray, "bytes"], size: Size) -> Iterator[UInt8[np.ndarray, "values"]]:
    bits = _Bits(data)
    total, word = bits.one(32), bits.one(5) + 1
    lengths = [bits.one(4) + 1 for _ in range(4)]
    if total != size[0] * size[1] * CHANNELS:
        raise ValueError(f"{total} values for {size[1]}x{size[0]} pixels of {CHANNELS}")
    done = 0
    while done < total:
        repeats = bits.one(1)
        length = bits.one(lengths[bits.one(2)]) + 1
        if done + length > total:
            raise ValueError("more values than it declares")
        yield (np.repeat(bits.take(word), length) if repeats else bits.take(word, length)).astype(np.uint8)
        done += length


def encode_brush(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """A mask as white, opaque strokes."""
    flat = mask.ravel().astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]) * CHANNELS
    starts = flat[[0, *edges]]
    bits = [f"{len(flat) * CHANNELS:032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in LENGTHS)]
    for inside, run in zip(starts.tolist(), runs.tolist(), strict=True):
        bits += [_piece(min(run - done, 1 << LENGTHS[-1]), 255 * inside) for done in range(0, run, 1 << LENGTHS[-1])]
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def _piece(length: int, value: int) -> str:
    which = next(index for index, width in enumerate(LENGTHS) if length <= 1 << width)
    return f"1{which:02b}{length - 1:0{LENGTHS[which]}b}{value:08b}"
