"""Counting J and F on a CPU: 64 pixels a word, only the box around both masks, many pairs in one array.

Crops lie one after another, each followed by `radius` empty rows, word column by word column (`[words, 2, rows]`,
truth and prediction in the middle). Flattened, a vertical shift and a carry between words are then both one slice
of one long vector, nothing reaches a neighbour, and numpy's cost per call is shared by all pairs of a block.
"""

import math
from dataclasses import dataclass

import numpy as np

WORD = 64
STEP_PIXELS = 1 << 23  # pixels of one side packed in one go, so that their words are still in cache when cropped
BLOCK_WORDS = 1 << 16  # words of both masks in a block: fewer calls, and the few arrays in use stay in cache


@dataclass
class _Boxes:
    """One box a pair, in rows and in words; stops exclusive, a box without words where there is nothing to count."""

    top: np.ndarray
    stop: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def __getitem__(self, pairs: np.ndarray) -> "_Boxes":
        return _Boxes(self.top[pairs], self.stop[pairs], self.left[pairs], self.right[pairs])

    def rows(self) -> list[tuple[int, int, int, int]]:
        """(top, stop, left, right) of every pair as plain numbers."""
        return list(zip(*(a.tolist() for a in (self.top, self.stop, self.left, self.right)), strict=True))


def packed_counts(target: np.ndarray, prediction: np.ndarray, radius: int) -> np.ndarray:
    """`region_boundary.COUNTS` of boolean masks [pairs, height, width] as int64 [pairs, 8]."""
    counts = np.zeros((len(target), 8), np.int64)
    height, width = target.shape[1:]
    step = max(1, STEP_PIXELS // max(1, height * width))
    for start in range(0, len(target), step):
        words = _pack(target[start : start + step], prediction[start : start + step])
        union, near = _boxes(words, radius)
        for block in _blocks(union, radius):
            counts[start + block] = _count_block(words, block, union[block], near[block], radius, width)
    return counts


def _pack(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Words [2, pairs, height, words]; bit `width` repeats the last column, which is F's border rule."""
    pairs, height, width = target.shape
    rows = np.zeros((2, pairs, height, (width // WORD + 1) * 8), np.uint8)
    for side, masks in enumerate((target, prediction)):
        if width % 8 == 0:  # twice as fast as row by row
            packed = np.packbits(masks, bitorder="little").reshape(pairs, height, width // 8)
        else:
            packed = np.packbits(masks, axis=-1, bitorder="little")
        rows[side, :, :, : packed.shape[-1]] = packed
    words = rows.view("<u8")
    last = words[..., (width - 1) // WORD] >> np.uint64((width - 1) % WORD) & np.uint64(1)
    words[..., width // WORD] |= last << np.uint64(width % WORD)
    return words


def _boxes(words: np.ndarray, radius: int) -> tuple[_Boxes, _Boxes]:
    """The box of every boundary pixel of both masks, and the box in which the two may come within `radius`."""
    _, pairs, height, width = words.shape
    filled = (words != 0).reshape(2, pairs, height * width)
    columns = np.unpackbits(_fold(words).view(np.uint8), axis=-1, bitorder="little")
    top, left = filled.argmax(-1) // width - 1, columns.argmax(-1) - 1  # boundaries reach one pixel up and left
    bottom = height - 1 - filled[..., ::-1].argmax(-1) // width
    right = width * WORD - 1 - columns[..., ::-1].argmax(-1)
    used = columns.any(-1)
    lowest = [np.where(used, edge, np.iinfo(edge.dtype).max).min(0) for edge in (top, left)]
    highest = [np.where(used, edge, -1).max(0) for edge in (bottom, right)]
    union = _box(lowest[0], highest[0], lowest[1], highest[1], used.any(0))
    edges = top.max(0) - radius, bottom.min(0) + radius, left.max(0) - radius, right.min(0) + radius
    near = _box(*edges, used.all(0))
    near.top, near.left = np.maximum(near.top, union.top), np.maximum(near.left, union.left)
    near.stop, near.right = np.minimum(near.stop, union.stop), np.minimum(near.right, union.right)
    return union, near


def _box(top: np.ndarray, bottom: np.ndarray, left: np.ndarray, right: np.ndarray, valid: np.ndarray) -> _Boxes:
    """Rows and words of inclusive pixel edges; empty unless valid."""
    edges = np.maximum(top, 0), bottom + 1, np.maximum(left, 0) // WORD, right // WORD + 1
    return _Boxes(*(np.where(valid, edge, 0) for edge in edges))


def _fold(words: np.ndarray) -> np.ndarray:
    """Union of all rows [2, pairs, words], halving: long vectors instead of one short one a row."""
    while words.shape[2] > 1:
        half = (words.shape[2] + 1) // 2
        folded = words[:, :, :half].copy()
        folded[:, :, : words.shape[2] - half] |= words[:, :, half:]
        words = folded
    return words[:, :, 0]


def _blocks(union: _Boxes, radius: int) -> list[np.ndarray]:
    """Pairs with anything to count, alike in width, in blocks of cache size."""
    width = union.right - union.left
    order = np.argsort(width, kind="stable")
    need = 2 * width * (union.stop - union.top + radius)
    blocks: list[list[int]] = []
    room = 0
    for pair in order[width[order] > 0].tolist():
        if need[pair] > room:
            blocks.append([])
            room = BLOCK_WORDS
        blocks[-1].append(pair)
        room -= int(need[pair])
    return [np.array(block) for block in blocks]


def _count_block(
    words: np.ndarray, block: np.ndarray, union: _Boxes, near: _Boxes, radius: int, width: int
) -> np.ndarray:
    """Counts of the pairs of a block; the boxes are the block's only."""
    masks, inside, offsets = _lay_out(words, block, union, radius, width)
    boundary = _boundary(masks)
    boundary &= inside
    masks &= inside
    area, nb = _count(masks, offsets), _count(boundary, offsets)
    inter = _count(masks[:, :1] & masks[:, 1:], offsets)[0]
    matched = _match(boundary, offsets, union, near, radius)
    return np.stack([inter, area[0] + area[1] - inter, *nb, *matched, *area], axis=1)


def _room(boxes: _Boxes, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """First row of every crop in a block, and zeros [words, 2, rows] for all of them."""
    heights = boxes.stop - boxes.top
    ends = np.cumsum(heights + radius)
    return ends - heights - radius, np.zeros((int((boxes.right - boxes.left).max()), 2, int(ends[-1])), np.uint64)


def _lay_out(
    words: np.ndarray, block: np.ndarray, boxes: _Boxes, radius: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops one after another, which of their bits are pixels (both [words, 2, rows]), and their first rows."""
    offsets, masks = _room(boxes, radius)
    inside = np.zeros_like(masks)
    columns = np.full(width // WORD + 1, ~np.uint64(0))
    columns[-1] = (np.uint64(1) << np.uint64(width % WORD)) - np.uint64(1)
    for pair, offset, (top, stop, left, right) in zip(block.tolist(), offsets.tolist(), boxes.rows(), strict=True):
        source = words[:, pair, top:stop, left:right].transpose(2, 0, 1)
        end = offset + stop - top
        masks[: right - left, :, offset:end] = source
        inside[: right - left, :, offset:end] = columns[left:right, None, None]
        if stop == words.shape[2]:  # the border rule again: the last row repeats below itself
            masks[: right - left, :, end] = source[..., -1]
    return masks, inside, offsets


def _boundary(masks: np.ndarray) -> np.ndarray:
    """Bits that differ from their east, south or south-east neighbour (half a pixel towards the origin)."""
    bits, column = masks.reshape(-1), masks[0].size
    east = bits >> np.uint64(1)
    east[:-column] |= bits[column:] << np.uint64(WORD - 1)
    differs = bits ^ east
    differs[:-1] |= bits[:-1] ^ bits[1:]
    differs[:-1] |= bits[:-1] ^ east[1:]
    return differs.reshape(masks.shape)


def _match(boundary: np.ndarray, offsets: np.ndarray, union: _Boxes, near: _Boxes, radius: int) -> np.ndarray:
    """Boundary pixels of either side within `radius` of the other's [2, pairs], looked for in the `near` boxes."""
    matched = np.zeros((2, len(offsets)), np.int64)
    meet = np.flatnonzero((near.right > near.left) & (near.stop > near.top))
    if len(meet) == 0:
        return matched
    boxes = near[meet]
    firsts, crops = _room(boxes, radius)
    rows, columns = (offsets - union.top)[meet].tolist(), union.left[meet].tolist()
    for first, row, column, (top, stop, left, right) in zip(firsts.tolist(), rows, columns, boxes.rows(), strict=True):
        source = boundary[left - column : right - column, :, row + top : row + stop]
        crops[: right - left, :, first : first + stop - top] = source
    matched[:, meet] = _count(crops & _dilate(crops, radius)[:, ::-1], firsts)
    return matched


def _dilate(boundary: np.ndarray, radius: int) -> np.ndarray:
    """Union of the disk dx^2 + dy^2 <= r^2 around every set bit: row by row of the disk, narrow rows first."""
    column, wide, reach = boundary[0].size, boundary.flatten(), 0
    grown, spare, scratch = np.zeros((3, boundary.size), np.uint64)
    for dy in range(radius, -1, -1):
        half = math.isqrt(radius * radius - dy * dy)
        while reach < half:
            step = min(half - reach, 2 * reach + 1, WORD - 1)
            _widen(wide, step, column, spare, scratch)
            wide, spare, reach = spare, wide, reach + step
        grown[dy:] |= wide[: len(wide) - dy]
        if dy:
            grown[:-dy] |= wide[dy:]
    return grown.reshape(boundary.shape)


def _widen(bits: np.ndarray, step: int, column: int, wide: np.ndarray, scratch: np.ndarray) -> None:
    """Write to `wide` every row united with itself moved `step` pixels to the left and to the right."""
    near, far = np.uint64(step), np.uint64(WORD - step)
    np.left_shift(bits, near, out=wide)
    wide |= bits
    wide |= np.right_shift(bits, near, out=scratch)
    wide[column:] |= np.right_shift(bits[:-column], far, out=scratch[column:])
    wide[:-column] |= np.left_shift(bits[column:], far, out=scratch[column:])


def _count(bits: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Set bits of [words, sides, rows] per side and crop, as int64; 16 bits hold a row of up to 65,535 pixels."""
    return np.add.reduceat(_popcount(bits).sum(axis=0, dtype=np.uint16), offsets, axis=-1, dtype=np.int64)


def _popcount(bits: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(bits)
    return np.unpackbits(np.ascontiguousarray(bits).view(np.uint8).reshape(*bits.shape, 8), axis=-1).sum(-1)
