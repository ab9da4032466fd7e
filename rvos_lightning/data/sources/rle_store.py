"""Run-length masks of a whole data set in one memory-mapped file: nothing is parsed twice, nothing copied to workers.

A store is written once from the annotation files and found again by their names, sizes and dates. It holds, for
every annotation, one entry per frame (where its run lengths lie and how many pixels they cover), so that a sample
touches only the masks of its own frames, and visibility is known without decoding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.rle import DAMAGED, Rle, compressed, measure
from rvos_lightning.data.sources.table_file import cache_path, map_arrays, write_arrays, write_whole

ABSENT = -1  # area of a frame on which the annotation file holds no mask


class Track(NamedTuple):
    """One annotation: a key unique in the store and an RLE or None for each of its frames."""

    key: str
    masks: Sequence[Any]


class RleStore:
    """Reads a store; picklable, and as small in every process as its file name."""

    def __init__(self, path: Path) -> None:
        """Maps the file; raises DataError if it is not a whole store of this version."""
        self.path = path
        self._map()

    def _map(self) -> None:
        mapped, contents = map_arrays(self.path)
        self._keys, self._rows, self._first = mapped["keys"], mapped["rows"], mapped["first"]
        self._sizes, self._begin, self._area = mapped["sizes"], mapped["begin"], mapped["area"]
        self._bytes = np.memmap(self.path, np.uint8, "r", 0, (contents["bytes"],)) if contents["bytes"] else None

    def __getstate__(self) -> Path:
        """Only the file name: every process maps the file itself."""
        return self.path

    def __setstate__(self, path: Path) -> None:
        """Maps the file again."""
        self.path = path
        self._map()

    def __len__(self) -> int:
        """Number of annotations."""
        return len(self._keys)

    def keys(self) -> list[str]:
        """Keys of all annotations, sorted."""
        return [key.decode() for key in self._keys.tolist()]

    def rows(self, keys: Sequence[object]) -> Int64[np.ndarray, "keys"]:
        """Rows of annotations; -1 for a key that is not in the store."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        wanted = np.array([str(key).encode() for key in keys], np.bytes_)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[at] == wanted, self._rows[at], -1)

    def lengths(self, rows: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows"]:
        """Number of frames of annotations; of no meaning where the row is -1."""
        return self._first[rows + 1] - self._first[rows]

    def sizes(self, rows: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows 2"]:
        """Height and width of annotations; zeros for one that has no mask on any frame."""
        return self._sizes[rows].astype(np.int64)

    def areas(self, row: int) -> Int64[np.ndarray, "frames"]:
        """Pixels inside an annotation on each frame; `ABSENT` where the file held null."""
        return self._area[self._first[row] : self._first[row + 1]].astype(np.int64)

    def first_areas(self, rows: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows"]:
        """Pixels inside annotations on their first frame; `ABSENT` where the file held null."""
        return self._area[self._first[rows]].astype(np.int64)

    def seen(self, rows: Sequence[int]) -> Bool[np.ndarray, "frames"]:
        """Frames on which any of some annotations of one video covers a pixel."""
        return np.any([self.areas(row) > 0 for row in rows], axis=0)

    def masks(self, rows: Sequence[int], frame: int) -> list[Rle]:
        """The masks of annotations on one frame, absent and empty ones left out."""
        found = []
        for row in rows:
            entry = self._first[row] + frame
            if self._area[entry] > 0:
                counts = self._bytes[self._begin[entry] : self._begin[entry + 1]].tobytes()
                found.append({"size": self._sizes[row].tolist(), "counts": counts})
        return found


def write_store(path: Path, tracks: Callable[[], Iterable[Track]], source: object) -> Path:
    """Writes a store; no reader ever sees half of one.

    Raises:
        DataError: a key twice, masks of one annotation of different sizes, or runs that do not fill the picture.
    """
    return write_whole(path, lambda file: _write(file, tracks(), source))


def _write(file: Any, tracks: Iterable[Track], source: object) -> None:
    keys: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    spans, areas, counts_total = [], [], 0
    for track in tracks:
        size, counts, area = _encode(track, source)
        keys.append(track.key.encode())
        sizes.append(size)
        spans.append(np.fromiter(map(len, counts), np.int64, len(counts)))
        areas.append(area)
        blob = b"".join(counts)
        counts_total += len(blob)
        file.write(blob)
    names = np.array(keys, np.bytes_) if keys else np.empty(0, "S1")
    order = np.argsort(names, kind="stable")
    twice = np.flatnonzero(names[order][1:] == names[order][:-1])
    if len(twice):
        raise DataError(f"{source}: annotation {names[order][twice[0]].decode()!r} occurs twice; ids must be unique.")
    ends = np.cumsum([0] + [len(area) for area in areas])
    tables = {
        "keys": names[order],
        "rows": order.astype(np.int64),
        "first": ends.astype(np.int64),
        "sizes": np.array(sizes, np.int32).reshape(-1, 2),
        "begin": np.cumsum(np.concatenate([[0], *spans])).astype(np.int64),
        "area": np.concatenate([np.empty(0, np.int32), *areas]).astype(np.int32),
    }
    write_arrays(file, tables, {"source": str(source), "bytes": counts_total})


def _encode(track: Track, source: object) -> tuple[tuple[int, int], list[bytes], Int64[np.ndarray, "frames"]]:
    place = f"{source}: annotation {track.key}"
    if not isinstance(track.masks, list | tuple):
        raise DataError(
            f"{place}: expected a list with one mask or null per frame, found {type(track.masks).__name__}."
        )
    masks = [None if mask is None else compressed(mask, f"{place}, frame {i}") for i, mask in enumerate(track.masks)]
    given = {tuple(mask["size"]) for mask in masks if mask is not None}
    if len(given) > 1:
        raise DataError(f"{place}: masks of different sizes {sorted(given)}; all frames of a video have one size.")
    size = next(iter(given), (0, 0))
    counts = [b"" if mask is None else mask["counts"] for mask in masks]
    pixels, area = measure(counts)
    present = np.array([mask is not None for mask in masks], bool)
    wrong = np.flatnonzero(present & (pixels != size[0] * size[1]))
    if len(wrong):
        covered = int(pixels[wrong[0]])
        what = "runs are cut off or negative" if covered == DAMAGED else f"runs cover {covered} pixels"
        raise DataError(
            f"{place}, frame {wrong[0]}: {what}, the size {size[0]}x{size[1]} has {size[0] * size[1]}. "
            "The mask is damaged; get the file again."
        )
    return size, counts, np.where(present, area, ABSENT)


def stored(
    sources: Sequence[Path], tracks: Callable[[], Iterator[Track]], cache: Path | None = None, tag: str = ""
) -> RleStore:
    """The store of some annotation files, built by `tracks` unless one of the same files exists.

    It lies in `cache`, or else beside the first source, or, where that cannot be written, in the user's cache.
    Sources are told apart by name, size and modification time; a changed source gets a new store.
    """
    path = cache_path(sources, ".rles", cache, tag)
    if not path.is_file():
        place = sources[0] if len(sources) == 1 else sources[0].parent
        path = write_store(path, tracks, place)
    return RleStore(path)
