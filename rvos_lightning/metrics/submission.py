"""Masks to PNG files window by window, to a checked zip, and back from either."""

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.core.types import ClipMeta
from rvos_lightning.data.limits import limit, open_picture, within
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.archives import member_name
from rvos_lightning.data.whole import whole
from rvos_lightning.metrics.layouts import (
    Layout,
    SubmissionError,
    expected_files,
    files_of,
    label_of,
    layout_of,
    voc_palette,
)

HEADER = struct.Struct(">8s4x4sIIBB")  # PNG signature, IHDR, width, height, depth, colour type
GREY, PALETTE = 0, 3
PNG_END = b"IEND\xaeB`\x82"
SHOWN = 3
MOST_GREYS = 8
"""More grey values than this in one predicted mask are soft edges or probabilities."""
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, struct.error)
"""What reading a damaged, encrypted or strangely packed member raises."""


class MaskFolder:
    """A folder of predicted masks in a server's layout; written in any order, then zipped and checked.

    In merged layouts objects share a picture, and the lowest number keeps a disputed pixel. Files of an earlier run
    are overwritten, never merged into.

    Args:
        root: the folder; the zip goes beside it.
        layout: see `layouts.LAYOUTS`.
        threads: that compress pictures.
    """

    def __init__(self, root: Path, layout: str | Layout, threads: int = 4) -> None:
        self.root, self.layout = Path(root), layout_of(layout)
        self.pool = ThreadPoolExecutor(threads)
        self._merged: set[str] = set()

    def write(self, meta: ClipMeta, masks: Bool[Tensor, "time height width"]) -> None:
        """Write one item's window; see `write_all`."""
        self.write_all([meta], masks[None])

    def write_all(self, metas: Sequence[ClipMeta], masks: Bool[Tensor, "batch time height width"]) -> None:
        """Write a window of several items at original size.

        Raises:
            SubmissionError: masks of another size or number than the meta says.
            WriteError: the disk is full or cannot be written to.
        """
        pictures: dict[str, UInt8[np.ndarray, "height width"]] = {}
        for meta, own in zip(metas, masks.cpu().numpy(), strict=True):
            wanted = (len(meta.frames), *meta.original_size)
            if own.shape != wanted:
                raise SubmissionError(f"{meta.video}/{meta.item}: masks are {own.shape}, the window needs {wanted}")
            for name, mask in zip(files_of(meta, self.layout), own, strict=True):
                if self.layout.merged:
                    pictures[name] = _paint(self._picture(name, pictures, mask.shape), mask, label_of(meta))
                else:
                    pictures[name] = mask.astype(np.uint8) * np.uint8(self.layout.value)
        saved = [self.pool.submit(self._save, *named) for named in pictures.items()]
        wait(saved)  # one that fails must not leave the others writing after the caller was told
        for future in saved:
            future.result()
        if self.layout.merged:
            self._merged.update(pictures)

    def _picture(
        self, name: str, pictures: dict[str, UInt8[np.ndarray, "height width"]], size: tuple[int, ...]
    ) -> UInt8[np.ndarray, "height width"]:
        if name in pictures:
            return pictures[name]
        if name in self._merged:
            return _decode((self.root / name).read_bytes(), name)
        return np.zeros(size, np.uint8)

    def _save(self, name: str, picture: UInt8[np.ndarray, "height width"]) -> None:
        with whole(self.root / name) as path:
            path.write_bytes(_encode(picture, self.layout.merged))

    def finish(self, expected: Iterable[ClipMeta]) -> Path:
        """Zip what was written and check it.

        Raises:
            SubmissionError: files are missing or misshapen; lists them. No zip is left behind.
            WriteError: the disk is full.
        """
        expected = list(expected)
        files = expected_files(expected, self.layout)
        _refuse(self.root, [f"missing {name}" for name in files if not (self.root / name).is_file()])
        target = self.root.with_name(self.root.name + ".zip")
        for left in self.root.rglob(".*.partial.png"):  # by a kill, for a frame that this run did not write
            left.unlink(missing_ok=True)
        with whole(target) as partial:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted(files):
                    archive.write(self.root / name, name)
            check_zip(partial, expected, self.layout)
        return target


def check_zip(path: Path, expected: Iterable[ClipMeta], layout: Layout | str) -> None:
    """Make sure a zip holds exactly the expected pictures, each readable and of the right size and kind.

    Raises:
        SubmissionError: lists what is missing, superfluous, damaged or misshapen.
    """
    layout = layout_of(layout)
    files = expected_files(expected, layout)
    with _opened(path) as archive:
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        missing = [f"missing {name}" for name in files if name not in infos]
        surplus = [f"superfluous {name}{_hint(name, files)}" for name in infos if name not in files]
        both = sorted(files.keys() & infos.keys())
        bad = [fault for name in both for fault in _misshapen(archive, infos[name], files[name], layout)]
    _refuse(path, missing, surplus, bad)


def _misshapen(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: tuple[int, int], layout: Layout) -> list[str]:
    """What is wrong with one picture, from its checksum and its header."""
    try:
        whole = archive.read(info) if info.file_size <= limit("zip_member_bytes") else b""
        start = whole[: HEADER.size]
    except DAMAGE as error:
        return [f"damaged {info.filename}: {error}"]
    if len(start) < HEADER.size or start[:4] != b"\x89PNG":
        return [f"no PNG {info.filename}"]
    _, _, width, height, depth, kind = HEADER.unpack(start)
    if not whole.rstrip(b"\0").endswith(PNG_END):
        return [f"damaged {info.filename}: the picture is cut off"]
    wanted = PALETTE if layout.merged else GREY
    wrong = []
    if (depth, kind) != (8, wanted):
        wrong.append(f"{info.filename} is not an 8-bit {'palette' if layout.merged else 'grey'} PNG")
    if size != (0, 0) and (height, width) != size:
        wrong.append(f"{info.filename} is {height}x{width}, the video {size[0]}x{size[1]} (height x width)")
    return wrong


def _hint(name: str, files: dict[str, tuple[int, int]]) -> str:
    """Why a superfluous file may be there: one folder too many or too few above the videos."""
    if name.partition("/")[2] in files:
        return f" (this server wants no {name.split('/')[0]}/ above the videos)"
    above = [other for other in list(files)[:1] if other.endswith(name)]
    return f" (belongs below {above[0].removesuffix(name)})" if above else ""


def _refuse(path: Path | str, *kinds: Sequence[str]) -> None:
    """Raise if anything is wrong; the first few of each kind of fault are shown."""
    count = sum(map(len, kinds))
    if count:
        first = [kind[0] for kind in kinds if kind]
        shown = (first + [line for kind in kinds for line in kind[1:SHOWN]])[:SHOWN]
        more = f"\n  ... and {count - len(shown)} more" if count > len(shown) else ""
        raise SubmissionError(f"{path}: {count} faults\n  " + "\n  ".join(shown) + more)


def _opened(path: Path) -> zipfile.ZipFile:
    """A zip of predictions.

    Raises:
        SubmissionError: no zip, cut off, encrypted, or with a name twice.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeError) as error:
        raise SubmissionError(f"{path}: not a readable zip ({error}). Make or download it again.") from error
    infos = archive.infolist()
    names = Counter(info.filename for info in infos)
    twice = next((name for name, count in names.items() if count > 1), None)
    locked = next((info.filename for info in infos if info.flag_bits & 1), None)
    if twice or locked:
        archive.close()
        what = f"{twice} is in it twice" if twice else f"{locked} is encrypted"
        raise SubmissionError(f"{path}: {what}. Pack it again.")
    return archive


class SavedMasks:
    """Predicted masks in a folder or zip, wherever they were made.

    Args:
        place: the folder or zip.
        layout: see `layouts.LAYOUTS`; grey pictures count as mask above 0.
    """

    def __init__(self, place: Path, layout: str) -> None:
        self.place, self.layout = Path(place), layout_of(layout)
        if not self.place.exists():
            raise SubmissionError(f"{place}: no such folder or zip of predictions")
        self.archive = None if self.place.is_dir() else _opened(self.place)
        members = () if self.archive is None else self.archive.infolist()
        self._names = None if self.archive is None else {member_name(member): member for member in members}
        self._numbered = False  # some picture holds an object's number
        self._strange: dict[int, str] = {}  # value that is none -> the first picture that holds it

    def missing(self, expected: Iterable[ClipMeta]) -> list[str]:
        """Files that are not there."""
        return [name for name in expected_files(expected, self.layout) if not self._exists(name)]

    def refuse(self, gaps: Sequence[str]) -> None:
        """Refuse an incomplete set.

        Raises:
            SubmissionError: lists the missing files, with the layout meant.
        """
        hint = f" (expected: {self.layout.pattern}, {self.layout.note})"
        deeper = next((n for n in self._names or () for gap in gaps[:1] if n.endswith(f"/{gap}")), None)
        if other := next(map(self._other_letters, gaps[:1]), None):
            hint += f"; names differ in capitals: it has {other}"
        if deeper is not None:
            hint += f"; it has one folder too many, {deeper.removesuffix(gaps[0])}: pack what is inside it"
        _refuse(f"{self.place}{hint}", [f"missing {name}" for name in gaps])

    def _other_letters(self, name: str) -> str | None:
        """What is there in place of a file, in other capitals."""
        folder, _, last = name.rpartition("/")
        if self._names is not None:
            return next((other for other in self._names if other.lower() == name.lower()), None)
        there = (self.place / folder).glob("*") if (self.place / folder).is_dir() else ()
        return next((f"{folder}/{path.name}" for path in there if path.name.lower() == last.lower()), None)

    def read(self, meta: ClipMeta, size: tuple[int, int] | None = None) -> Bool[Tensor, "time height width"]:
        """Masks of an item's frames; a missing file reads as an empty mask if `size` is given.

        Raises:
            SubmissionError: a file is missing or is no mask.
        """
        return self.read_all([meta], size)[0]

    def read_all(
        self, metas: Sequence[ClipMeta], size: tuple[int, int] | None = None
    ) -> Bool[Tensor, "batch time height width"]:
        """`read` of several items with as many frames each; a picture that they share is decoded once.

        Raises:
            SubmissionError: a file is missing or is no mask, or pictures differ in size.
        """
        places: dict[str, list[tuple[int, int]]] = {}
        for item, meta in enumerate(metas):
            for time, name in enumerate(files_of(meta, self.layout)):
                places.setdefault(name, []).append((item, time))
        labels = [label_of(meta) for meta in metas] if self.layout.merged else []
        masks: Bool[np.ndarray, "batch time height width"] | None = None
        for name, wanted in places.items():
            picture = np.zeros(size, np.uint8) if size is not None and not self._exists(name) else self._ids(name)
            due = metas[wanted[0][0]].original_size
            if due != (0, 0) and picture.shape != due:
                raise SubmissionError(
                    f"{self.place}: {name} has {picture.shape[0]}x{picture.shape[1]} pixels (height x width), its "
                    f"frame {due[0]}x{due[1]}. Save masks at the size of the frames."
                )
            if masks is None:
                masks = np.empty((len(metas), len(metas[0].frames), *picture.shape), bool)
            if masks.shape[2:] != picture.shape:
                meta = metas[wanted[0][0]]
                raise SubmissionError(f"{self.place}: pictures of {meta.video}/{meta.item} differ in size")
            for item, time in wanted:
                masks[item, time] = picture == labels[item] if self.layout.merged else picture > 0
            if self.layout.merged:
                self._compare(name, picture, {labels[item]: masks[item, time] for item, time in wanted})
        if masks is None:
            raise SubmissionError(f"{self.place}: no frame of {metas[0].video} was asked for")
        return torch.from_numpy(masks)

    def _compare(self, name: str, picture: UInt8[np.ndarray, "height width"], meant: dict[int, np.ndarray]) -> None:
        """Note values that are none of the labels in `meant`, whose masks of the picture are beside them."""
        pixels = sum(map(np.count_nonzero, meant.values()))
        self._numbered |= pixels > 0
        if np.count_nonzero(picture) > pixels:  # values are counted only then: 40 times the work
            for value in sorted({*np.flatnonzero(np.bincount(picture.ravel())).tolist()} - {0, *meant}):
                self._strange.setdefault(value, name)

    def strangers(self) -> str | None:
        """What to say of values, in pictures that were read, which are no object's number.

        Raises:
            SubmissionError: there are no others.
        """
        if not self._strange:
            return None
        value, name = next(iter(self._strange.items()))
        values = ", ".join(map(str, sorted(self._strange)[:6]))
        if not self._numbered:
            raise SubmissionError(
                f"{self.place}: {name} holds {value}, and no picture holds the number of an object of its video "
                f"(values found: {values}). Save each object with its number, as {self.layout.note} has it."
            )
        return f"values that are no object's number count as background: {values}, the first in {name}"

    def _exists(self, name: str) -> bool:
        return (self.place / name).is_file() if self._names is None else name in self._names

    def _ids(self, name: str) -> UInt8[np.ndarray, "height width"]:
        if not self._exists(name):
            raise SubmissionError(f"{self.place}: {name} is missing")
        try:
            if self.archive is None:
                raw = (self.place / name).read_bytes()
            else:
                member = self._names[name]
                within("zip_member_bytes", member.file_size, f"{self.place}: {name}")
                raw = self.archive.read(member)
        except DataError as error:
            raise SubmissionError(str(error)) from error
        except DAMAGE as error:
            raise SubmissionError(
                f"{self.place}: {name} cannot be read ({error}). Pack or download it again."
            ) from error
        return _decode(raw, f"{self.place}: {name}", soft=self.layout.merged)


def _paint(
    picture: UInt8[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"], label: int
) -> UInt8[np.ndarray, "height width"]:
    """The object's number where nobody, or a higher number, was; and nowhere else."""
    return np.where(mask & ((picture == 0) | (picture > label)), np.uint8(label), picture).astype(np.uint8)


def _encode(picture: UInt8[np.ndarray, "height width"], palette: bool) -> bytes:
    """PNG at the fastest compression: writing masks is what a submission waits for."""
    if not palette:
        import cv2

        return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    from PIL import Image

    image = Image.fromarray(picture)
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _decode(raw: bytes, name: str, soft: bool = True) -> UInt8[np.ndarray, "height width"]:
    """Stored values, never colours.

    Args:
        raw: the file.
        name: for messages.
        soft: many grey values are numbers of objects; else they are no mask.

    Raises:
        SubmissionError: not a palette, grey or 1-bit picture, a JPEG, or soft edges.
    """
    try:
        with open_picture(raw, name) as image:
            kind, mode = image.format, image.mode
            ids = np.asarray(image) if mode in ("P", "L", "1") else np.zeros((1, 1))
    except DataError as error:
        raise SubmissionError(f"{name} cannot be read: {str(error).removeprefix(f'{name}: ')}") from error
    if kind == "JPEG":
        raise SubmissionError(f"{name} is a JPEG, which changes values around edges. Save masks as PNG.")
    if mode not in ("P", "L", "1"):
        raise SubmissionError(f"{name} has mode {mode}; masks are palette (P) or grey (L) PNGs. Save them so.")
    ids = ids.astype(np.uint8, copy=False)
    if mode == "L" and kind == "PNG":  # Pillow spreads grey values of 2 and 4 bits (byte 24 says so) over 0 to 255
        ids = ids // {2: 85, 4: 17}.get(raw[24], 1)
    greys = 0 if soft or mode != "L" else np.count_nonzero(np.bincount(ids.ravel()))
    if greys > MOST_GREYS:
        raise SubmissionError(
            f"{name} has {greys} grey values: soft edges or probabilities. Threshold them, and save 0 and 255."
        )
    return ids
