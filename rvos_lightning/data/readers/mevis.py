"""MeViS v1 and v2: motion expressions for several objects at once, masks in one big `mask_dict.json` a split."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused, blocks_of, refuse_if
from rvos_lightning.data.reader import Count, Item, Video
from rvos_lightning.data.readers.annotation_files import JsonStream
from rvos_lightning.data.readers.expressions import (
    Entry,
    annotation_ids,
    read_expressions,
    stored_size,
    table,
    track_problems,
)
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
from rvos_lightning.data.readers.layout import missing, needed_tree
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.rle_store import RleStore, Track, stored
from rvos_lightning.metrics.expressions import MeViS as Protocol
from rvos_lightning.metrics.layouts import LAYOUTS

Split = Literal["train", "valid_u", "valid", "test"]


PAGE = "the data set's page or paper"
V1 = {"train": (1662, 23051), "valid_u": (50, 793), "valid": (140, 2236), "test": (154, 2490)}
V2 = {"train": (1662, 27502), "valid_u": (50, 907), "valid": (140, 2523)}
"""Videos and expressions; those of v2's test split, which is held back, are not published."""

COUNTS = {
    version: {split: Count((videos,), (items,), f"{PAGE}, v{version}") for split, (videos, items) in table.items()}
    for version, table in ((1, V1), (2, V2))
}

NAMES = {
    2: ("meta_expressions_v2.json", "meta_expressions_v2_release.json"),
    1: ("meta_expressions.json", "meta_expressions_release.json"),
}
"""Files of expressions by version; those released without truth have the second name."""

MASK_HASHES = {"train": "f9d9b01a", "valid_u": "6e711a3f"}
"""How the SHA-256 of MeViS v1's mask_dict.json begins, by split, as its README gives it."""


class MeViSReader(FileReader):
    """`<root>/<split>/{JPEGImages, meta_expressions*.json, mask_dict.json}`.

    v2's expressions lie in `meta_expressions_v2.json` (without truth: `meta_expressions_v2_release.json`), v1's in
    `meta_expressions.json`. The truth of an expression is the union of its annotations; one without annotations has
    no target (v2). `valid` and `test` are hidden: only the server holds their masks.
    """

    layout, licence = LAYOUTS["mevis"], "MeViS: data CC BY-NC-SA 4.0 (non-commercial research)"
    counts = COUNTS[1]

    def __init__(
        self, root: Path | str, split: str, version: Literal[1, 2] | None = None, cache: Path | None = None
    ) -> None:
        """Reads the expressions of a version, by default the newest there, and maps the masks (see `rle_store`).

        Raises:
            Refused: files are missing, or masks do not belong to the expressions.
        """
        folder = Path(root) / split
        frames = ImageFrames(needed_tree(Path(root), f"{split}/JPEGImages", split))
        path, self.unread = _expression_file(folder, split, version)
        if self.unread:
            warnings.warn(f"{folder}: {_both(path, self.unread)}", stacklevel=2)
        entries = read_expressions(path)
        items = list(expression_items(entries, path))
        store = mask_store(folder / "mask_dict.json", items, split, cache)
        videos = videos_of(entries, items, store)
        if store is not None:
            refuse_if(track_problems(videos, items, store, split))
        files = [path] + ([folder / "mask_dict.json"] if store else [])
        # users rename v2's files to what older code reads
        v2 = path.name in NAMES[2] or any(item.no_target for item in items)
        self.counts = COUNTS[2 if v2 else 1]
        self.protocol = partial(Protocol, "accuracy" if v2 else "score")
        super().__init__("mevis", split, videos, items, frames, StoredMasks(store) if store else None, files)

    def problems(self, fast: bool) -> Iterator[Problem]:
        """Expressions of another version beside those read; whether the masks are the published file."""
        if self.unread:
            yield Problem(str(self.files[0].parent), _both(self.files[0], self.unread), "")
        begins = MASK_HASHES.get(self.split)
        if fast or begins is None or len(self.files) < 2 or len(self.items) != V1[self.split][1]:
            return
        with Path(self.files[1]).open("rb") as file:
            total = hashlib.sha256()
            while block := file.read(1 << 20):
                total.update(block)
        found = total.hexdigest()
        if not found.startswith(begins):
            what = f"sha256 begins {found[:8]}, published: {begins}"
            yield Problem(str(self.files[1]), what, "Another release, or a damaged download.")


def _expression_file(folder: Path, split: str, version: int | None) -> tuple[Path, list[Path]]:
    """The file to read, and those of another version beside it.

    Raises:
        Refused: there is none.
    """
    there: dict[int, Path] = {}
    for number, names in NAMES.items():
        found = [folder / name for name in names if (folder / name).is_file()]
        if found:  # both may lie there, with and without truth
            there[number] = found[-1] if split in ("valid", "test") else found[0]
    if version is None and there:
        read = max(there)
        return there.pop(read), list(there.values())
    if version in there:
        return there[version], []
    names = NAMES[version] if version else (*NAMES[2], *NAMES[1])
    raise Refused([missing(folder / names[0], f"the expressions of split {split} ({' or '.join(names)})", split)])


def _both(read: Path, unread: Sequence[Path]) -> str:
    return f"{read.name} is read, {unread[0].name} beside it is not (`version` chooses: 1 or 2)"


def expression_items(entries: Sequence[Entry], path: Path) -> Iterator[Item]:
    """Items of expressions that list annotations."""
    for index, _, key, expression, place in table(list(entries), path):
        objects = annotation_ids(expression, place)
        yield Item(index, key, expression["exp"], objects)


def mask_store(path: Path, items: Sequence[Item], split: str, cache: Path | None) -> RleStore | None:
    """The masks of `mask_dict.json`; None for a hidden split.

    Raises:
        Refused: expressions name annotations, but the file is not there.
    """
    named = any(item.objects is not None for item in items)
    if path.is_file():
        return stored([path], lambda: (Track(*pair) for pair in JsonStream(path).members()), cache)
    if named or split in ("train", "valid_u"):
        remedy = "It is a separate download of several hundred MB; put it beside the expressions."
        raise Refused([Problem(str(path), "missing: the masks of all expressions", remedy, blocks_of(split)[:1])])
    return None


def videos_of(entries: Sequence[Entry], items: Sequence[Item], store: RleStore | None) -> list[Video]:
    """Videos with the size that the masks of any of their expressions tell."""
    sizes: dict[int, tuple[int, int]] = {}
    for item in items if store is not None else ():
        if item.video not in sizes and item.objects:
            size = stored_size(item.objects, store)
            if size is not None:
                sizes[item.video] = size
    return [Video(entry.id, entry.frames, sizes.get(index)) for index, entry in enumerate(entries)]


class MeViS(DiskData):
    """MeViS v1 or v2.

    Args:
        root: folder that holds train, valid_u, valid, test.
        train_split: usually "train"; None for none (likewise below).
        val_split: usually "valid_u", the split with public masks.
        test_split: likewise.
        predict_split: "valid" for the server, "test" for the challenge.
        version: 1 or 2, where the expressions of both lie in a split's folder; None: 2 before 1.
        cache: where the mask store is kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = MeViSReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = "valid_u",
        test_split: Split | None = "valid_u",
        predict_split: Split | None = "valid",
        version: Literal[1, 2] | None = None,
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root, (train_split, val_split, test_split, predict_split), {"version": version, "cache": cache}, **kwargs
        )
