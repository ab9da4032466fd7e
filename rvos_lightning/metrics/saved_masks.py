"""Predicted masks read back from a folder or zip, whoever made them."""

import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.core.types import ClipMeta
from rvos_lightning.data.limits import open_picture, within
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.archives import member_name
from rvos_lightning.metrics.layouts import Layout, SubmissionError, expected_files, files_of, label_of, layout_of

SHOWN = 3
MOST_GREYS = 8
"""More grey values than this in one predicted mask are soft edges or probabilities."""
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, struct.error)
"""What reading a damaged, encrypted or strangely packed member raises."""


def refuse(path: Path | str, *kinds: Sequence[str]) -> None:
    """Raise if anything is wrong; the first few of each kind of fault are shown."""
    count = sum(map(len, kinds))
    if count:
        first = [kind[0] for kind in kinds if kind]
        shown = (first + [line for kind in kinds for line in kind[1:SHOWN]])[:SHOWN]
        more = f"\n  ... and {count - len(shown)} more" if count > len(shown) else ""
        raise SubmissionError(f"{path}: {count} faults\n  " + "\n  ".join(shown) + more)


def opened(path: Path) -> zipfile.ZipFile:
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


@dataclass
class Values:
    """What pictures that objects share were found to hold.

    Attributes:
        numbered: some picture holds an object's number.
        strange: values that are nobody's number, with the first picture that holds each.
    """

    numbered: bool = False
    strange: dict[int, str] = field(default_factory=dict)

    def compare(self, name: str, picture: UInt8[np.ndarray, "height width"], meant: dict[int, np.ndarray]) -> None:
        """Note values that are none of the labels in `meant`, whose masks of the picture are beside them."""
        pixels = sum(map(np.count_nonzero, meant.values()))
        self.numbered |= pixels > 0
        if np.count_nonzero(picture) > pixels:  # values are counted only then: 40 times the work
            for value in sorted({*np.flatnonzero(np.bincount(picture.ravel())).tolist()} - {0, *meant}):
                self.strange.setdefault(value, name)

    def join(self, later: "Values") -> None:
        """Add what later pictures hold."""
        self.numbered |= later.numbered
        for value, name in later.strange.items():
            self.strange.setdefault(value, name)

    def remark(self, place: Path, note: str) -> str | None:
        """What to say of the strange values; `note`: what the layout is.

        Raises:
            SubmissionError: there are no others.
        """
        if not self.strange:
            return None
        value, name = next(iter(self.strange.items()))
        values = ", ".join(map(str, sorted(self.strange)[:6]))
        if not self.numbered:
            raise SubmissionError(
                f"{place}: {name} holds {value}, and no picture holds the number of an object of its video "
                f"(values found: {values}). Save each object with its number, as {note} has it."
            )
        return f"values that are no object's number count as background: {values}, the first in {name}"


class SavedMasks:
    """Predicted masks in a folder or zip, wherever they were made.

    Args:
        place: the folder or zip.
        layout: see `layouts.LAYOUTS`; grey pictures count as mask above 0.

    Attributes:
        values: what shared pictures that were read hold.
    """

    def __init__(self, place: Path, layout: str | Layout) -> None:
        self.place, self.layout = Path(place), layout_of(layout)
        if not self.place.exists():
            raise SubmissionError(f"{place}: no such folder or zip of predictions")
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        members = () if self.place.is_dir() else self._archive().infolist()
        self._names = None if self.place.is_dir() else {member_name(member): member for member in members}
        self.values = Values()

    def __getstate__(self) -> dict[str, object]:
        """Without the open file, which belongs to one process."""
        return {**self.__dict__, "_handle": None}

    def _archive(self) -> zipfile.ZipFile:
        """The zip, opened by this process: a forked one would share its place in the file with its parent."""
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), opened(self.place))
        return self._handle[1]

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
        refuse(f"{self.place}{hint}", [f"missing {name}" for name in gaps])

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
                self.values.compare(name, picture, {labels[item]: masks[item, time] for item, time in wanted})
        if masks is None:
            raise SubmissionError(f"{self.place}: no frame of {metas[0].video} was asked for")
        return torch.from_numpy(masks)

    def _exists(self, name: str) -> bool:
        return (self.place / name).is_file() if self._names is None else name in self._names

    def _ids(self, name: str) -> UInt8[np.ndarray, "height width"]:
        if not self._exists(name):
            raise SubmissionError(f"{self.place}: {name} is missing")
        try:
            if self._names is None:
                raw = (self.place / name).read_bytes()
            else:
                member = self._names[name]
                within("zip_member_bytes", member.file_size, f"{self.place}: {name}")
                raw = self._archive().read(member)
        except DataError as error:
            raise SubmissionError(str(error)) from error
        except DAMAGE as error:
            raise SubmissionError(
                f"{self.place}: {name} cannot be read ({error}). Pack or download it again."
            ) from error
        return decode(raw, f"{self.place}: {name}", soft=self.layout.merged)


def decode(raw: bytes, name: str, soft: bool = True) -> UInt8[np.ndarray, "height width"]:
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
