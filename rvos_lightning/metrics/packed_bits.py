"""Counting J and F on a CPU: 64 pixels a word, only the box around both masks, many pairs in one array.

A pair's crop is laid out word column by word column (`[2, words, rows]`), so a vertical shift is a slice along
contiguous rows and a carry between words is a slice along columns. Crops of many pairs lie one after another,
a gap of `radius` empty rows between them; numpy's cost per call is thus shared by the pairs of a block.
"""

import math
from dataclasses import dataclass

import numpy as np

WORD = 64
BLOCK_WORDS = 1 << 14  # both masks of a block: 128 KiB, so that the handful of arrays in use stay in second-level cache


@dataclass
class _Packed:
    """Both masks of every pair as words; bit `width` repeats the last column, which is F's border rule."""

    words: np.ndarray  # [2, pairs, height, words], truth first
    inside: np.ndarray  # [words], bits of true columns
    bottom: int  # index of the last row


@dataclass
class _Crops:
    """Box of every pair in rows and words, stops exclusive; and whether both of its masks have pixels."""

    top: np.ndarray
    stop: np.ndarray
    left: np.ndarray
    width: np.ndarray
    both: np.ndarray


def packed_counts(target: np.ndarray, prediction: np.ndarray, radius: int) -> np.ndarray:
    """`region_boundary.COUNTS` of boolean masks [pairs, height, width] as int64 [pairs, 8]."""
    counts = np.zeros((len(target), 8), np.int64)
    height, width = target.shape[1:]
    step = max(1, (1 << 23) // max(1, height * width))  # packs pairs while their pixels are still in cache
    for start in range(0, len(target), step):
        packed = _pack(target[start : start + step], prediction[start : start + step])
        crops = _crop(packed)
        for block in _blocks(crops, radius):
            counts[start + block] = _count_block(packed, crops, block, radius)
    return counts


def _pack(target: np.ndarray, prediction: np.ndarray) -> _Packed:
    pairs, height, width = target.shape
    words = width // WORD + 1
    rows = np.zeros((2, pairs, height, words * 8), np.uint8)
    for side, masks in enumerate((target, prediction)):
        rows[side, :, :, : (width + 7) // 8] = np.packbits(masks, axis=-1, bitorder="little")
    packed = rows.view("<u8")
    last = packed[..., (width - 1) // WORD] >> np.uint64((width - 1) % WORD) & np.uint64(1)
    packed[..., width // WORD] |= last << np.uint64(width % WORD)
    inside = np.full(words, ~np.uint64(0))
    inside[-1] = (np.uint64(1) << np.uint64(width % WORD)) - np.uint64(1)
    return _Packed(packed, inside, height - 1)


def _crop(packed: _Packed) -> _Crops:
    """The box of both masks, one row more above and one column more on the left: there may be boundary."""
    truth, predicted = packed.words
    union = truth | predicted
    columns = np.bitwise_or.reduce(union, axis=1)
    rows = np.bitwise_or.reduce(union, axis=2) != 0
    used = columns != 0
    top, stop = rows.argmax(1), rows.shape[1] - rows[:, ::-1].argmax(1)
    first, after = used.argmax(1), used.shape[1] - used[:, ::-1].argmax(1)
    touches = columns[np.arange(len(columns)), first] & np.uint64(1) != 0
    left = np.maximum(first - touches, 0)
    width = np.where(used.any(1), after - left, 0)
    both = _any(truth) & _any(predicted)
    return _Crops(np.maximum(top - 1, 0), stop, left, width, both)


def _any(words: np.ndarray) -> np.ndarray:
    return words.reshape(len(words), -1).any(1)


def _blocks(crops: _Crops, radius: int) -> list[np.ndarray]:
    """Pairs with anything to count, alike in width and in whether they need a dilation, in blocks of cache size."""
    order = np.lexsort((crops.width, crops.both))
    order = order[crops.width[order] > 0]
    blocks: list[list[int]] = []
    room, kind = 0, None
    for pair in order.tolist():
        need = 2 * int(crops.width[pair]) * int(crops.stop[pair] - crops.top[pair] + radius)
        if need > room or bool(crops.both[pair]) != kind:
            blocks.append([])
            room, kind = BLOCK_WORDS, bool(crops.both[pair])
        blocks[-1].append(pair)
        room -= need
    return [np.array(block) for block in blocks]


def _count_block(packed: _Packed, crops: _Crops, block: np.ndarray, radius: int) -> np.ndarray:
    masks, inside, offsets = _lay_out(packed, crops, block, radius)
    boundary = _boundary(masks) & inside
    masks &= inside
    area = _count(masks, offsets)
    inter = _count(masks[0] & masks[1], offsets)
    nb = _count(boundary, offsets)
    matched = np.zeros_like(nb)
    if crops.both[block[0]]:
        matched = _count(boundary & _dilate(boundary, radius)[::-1], offsets)
    return np.stack([inter, area[0] + area[1] - inter, *nb, *matched, *area], axis=1)


def _lay_out(
    packed: _Packed, crops: _Crops, block: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops one after another [2, words, rows], which bits are pixels of theirs [words, rows], and first rows."""
    heights = crops.stop[block] - crops.top[block]
    ends = np.cumsum(heights + radius)
    offsets = ends - heights - radius
    words = int(crops.width[block].max())
    masks = np.zeros((2, words, int(ends[-1])), np.uint64)
    inside = np.zeros((words, int(ends[-1])), np.uint64)
    places = (block, offsets, heights, crops.top[block], crops.left[block], crops.width[block])
    for pair, offset, height, top, left, width in zip(*(place.tolist() for place in places), strict=True):
        source = packed.words[:, pair, top : top + height, left : left + width]
        masks[:, :width, offset : offset + height] = source.swapaxes(1, 2)
        inside[:width, offset : offset + height] = packed.inside[left : left + width, None]
        if top + height > packed.bottom:  # the border rule again: the last row repeats below itself
            masks[:, :width, offset + height] = source[:, -1]
    return masks, inside, offsets


def _boundary(masks: np.ndarray) -> np.ndarray:
    """Pixels that differ from their east, south or south-east neighbour (half a pixel towards the origin)."""
    east = masks >> np.uint64(1)
    east[:, :-1] |= masks[:, 1:] << np.uint64(WORD - 1)
    differs = masks ^ east
    differs[..., :-1] |= masks[..., :-1] ^ masks[..., 1:]
    differs[..., :-1] |= masks[..., :-1] ^ east[..., 1:]
    return differs


def _dilate(boundary: np.ndarray, radius: int) -> np.ndarray:
    """Union of the disk dx^2 + dy^2 <= r^2 around every set bit: row by row of the disk, narrow rows first."""
    grown = np.zeros_like(boundary)
    wide, reach = boundary, 0
    for dy in range(radius, -1, -1):
        while reach < math.isqrt(radius * radius - dy * dy):
            step = min(math.isqrt(radius * radius - dy * dy) - reach, 2 * reach + 1, WORD - 1)
            wide, reach = _widen(wide, step), reach + step
        grown[..., dy:] |= wide[..., : wide.shape[-1] - dy]
        if dy:
            grown[..., :-dy] |= wide[..., dy:]
    return grown


def _widen(bits: np.ndarray, step: int) -> np.ndarray:
    """Every row united with itself moved `step` pixels to the left and to the right."""
    near, far = np.uint64(step), np.uint64(WORD - step)
    wide = bits << near
    wide |= bits
    wide |= bits >> near
    wide[:, 1:] |= bits[:, :-1] >> far
    wide[:, :-1] |= bits[:, 1:] << far
    return wide


def _count(bits: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Set bits of [..., words, rows] per crop: [..., crops] as int64."""
    return np.add.reduceat(_popcount(bits).sum(axis=-2, dtype=np.int64), offsets, axis=-1)


def _popcount(bits: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(bits)
    return np.unpackbits(np.ascontiguousarray(bits).view(np.uint8).reshape(*bits.shape, 8), axis=-1).sum(-1)
