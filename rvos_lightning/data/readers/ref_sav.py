"""Ref-SAV: captions of SA-V's objects, written by models (72 thousand); about two thousand were checked by people."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Refused, refuse_if
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.readers.annotation_files import read_json, require, safe_path
from rvos_lightning.data.readers.expressions import read_expressions, track_problems
from rvos_lightning.data.readers.file_reader import FileReader, StoredMasks
from rvos_lightning.data.readers.layout import missing, needed_file, needed_tree, without_notes
from rvos_lightning.data.readers.mevis import expression_items, mask_store, videos_of
from rvos_lightning.data.readers.sav import STRIDE, below, frames_of, masklets
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.data.sources.rle_store import Track, stored
from rvos_lightning.metrics.expressions import JAndF

Captions = Literal["long", "short", "both"]
LICENCE = "Ref-SAV: Apache-2.0 as its code; SA-V: CC BY 4.0"


class RefSAVTrainReader(FileReader):
    """`<root>/Ref-SAV.json` on SA-V's training films and masklets, in any sub-folders of `videos`.

    An item is a caption of one object: the long one under the object's number, short ones as `<number>_<index>`. Films
    and annotations are found by name, as the paths in the file begin wherever it was made.
    """

    protocol, licence = JAndF, LICENCE

    def __init__(
        self, root: Path | str, videos: Path | str | None = None, captions: str = "long", cache: Path | None = None
    ) -> None:
        """Lists captions; `videos` is SA-V's folder, by default `root` or its `sam_v_full`.

        Raises:
            Refused: files are missing.
            DataError: a caption means an object that its video's annotations lack.
        """
        root = Path(root)
        path = needed_file(root, ("Ref-SAV.json", "ref_sav.json"), "train", "the captions")
        usual = next((root / name for name in ("sam_v_full", "sav") if (root / name).is_dir()), root)
        place = below(usual if videos is None else Path(videos), "train")
        self.captions = captions
        entries = _entries(path)
        self.annotations = _annotations(place, [name for name, _ in entries.values()])
        store = stored(self.annotations, self._tracks, cache, tag="ref_sav")
        listed, items = [], []
        for name, (_, objects) in entries.items():
            rows = store.rows([f"{name}/{number}" for number in objects])
            if (rows < 0).any() or not len(rows):
                lost = next((number for number, row in zip(objects, rows.tolist(), strict=True) if row < 0), None)
                raise DataError(f"{path}: video {name}: object {lost} is not among its masklets.")
            height, width = store.sizes(rows).max(0).tolist()
            frames = tuple(f"{STRIDE * position:05d}" for position in range(int(store.lengths(rows)[0])))
            items += [item for number in objects for item in self._items(len(listed), number, objects[number])]
            listed.append(Video(name, frames, (height, width) if height else None))
        source = frames_of(place, self.annotations)
        truth = StoredMasks(store, "{video}/{object}")
        super().__init__("ref_sav", "train", listed, items, source, truth, [path])

    def _tracks(self) -> Iterator[Track]:
        for path in self.annotations:
            yield from masklets(path)

    def _items(self, video: int, number: int, texts: tuple[str, Sequence[str]]) -> Iterator[Item]:
        long, short = texts
        facts = Facts(number, kind="long"), Facts(number, kind="short")
        if self.captions != "short":
            yield Item(video, str(number), long, (number,), ("long",), facts[0])
        for index, text in enumerate(short if self.captions != "long" else ()):
            yield Item(video, f"{number}_{index}", text, (number,), ("short",), facts[1])


Texts = dict[int, tuple[str, list[str]]]  # long caption and short ones by object


def _entries(path: Path) -> dict[str, tuple[str, Texts]]:
    """Annotation file's name and captions of each video."""
    content, entries = read_json(path), {}
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with one entry a video, found {type(content).__name__}.")
    for key, record in content.items():
        place = f"{path}: video {key}"
        film, annotation = (
            PurePosixPath(safe_path(require(record, field, str, place).removeprefix("/"), place))
            for field in ("video_path", "anno_path")
        )
        texts: Texts = {}
        for number, facts in require(record, "objects", dict, place).items():
            if not number.isdecimal():
                raise DataError(f"{place}: object {number[:40]!r} is no number of a masklet.")
            short = require(facts, "short_caps", list, f"{place}, object {number}") if "short_caps" in facts else []
            if odd := next((text for text in short if not isinstance(text, str)), None):
                raise DataError(f"{place}, object {number}: field 'short_caps' must hold text, found {str(odd)[:40]}.")
            texts[int(number)] = require(facts, "formated", str, f"{place}, object {number}"), short
        if not texts:
            continue
        if film.stem in entries:
            raise DataError(f"{place}: {film.stem} has two entries; one would be lost.")
        entries[film.stem] = annotation.name, texts
    return entries


def _annotations(place: Path, names: Sequence[str]) -> list[Path]:
    """Annotation files by name, in any sub-folder."""
    found = {path.name: path for path in without_notes(place.rglob("*.json"))}
    lost = [name for name in names if name not in found]
    if lost or not names:
        what = f"{len(lost)} of {len(names)} annotation files of SA-V"
        raise Refused([missing(place / (lost[0] if lost else "sav_000"), what, "train")])
    return [found[name] for name in dict.fromkeys(names)]


class RefSAVReader(FileReader):
    """`<root>/ref_sav_eval/{videos/<video>/%05d.jpg, meta_expressions_valid.json, mask_dict.json}`, in MeViS's form."""

    protocol, licence = JAndF, LICENCE

    def __init__(self, root: Path | str, cache: Path | None = None) -> None:
        """Reads the expressions and maps the masks.

        Raises:
            Refused: files are missing, or masks do not belong to the expressions.
        """
        root = Path(root) / "ref_sav_eval" if (Path(root) / "ref_sav_eval").is_dir() else Path(root)
        path = root / "meta_expressions_valid.json"
        entries = read_expressions(path)
        items = list(expression_items(entries, path))
        store = mask_store(root / "mask_dict.json", items, "valid", cache)
        if store is None:
            raise Refused([missing(root / "mask_dict.json", "the masks of all expressions", "valid")])
        videos = videos_of(entries, items, store)
        refuse_if(track_problems(videos, items, store, "valid"))
        frames = ImageFrames(needed_tree(root, "videos", "valid"))
        files = [path, root / "mask_dict.json"]
        super().__init__("ref_sav", "valid", videos, items, frames, StoredMasks(store), files)


class RefSAV(DiskData):
    """Ref-SAV.

    Args:
        root: folder that holds Ref-SAV.json and ref_sav_eval.
        train_split: "train", or None for none.
        val_split: "valid", or None for none (likewise below).
        test_split: "valid".
        predict_split: "valid".
        videos: SA-V's folder; None: `root`, or `sam_v_full` below it.
        captions: of training, "long" as Sa2VA trains, "short", or "both".
        cache: where mask stores are kept; None: beside the annotations.
        kwargs: see `VideoData`.
    """

    opens = RefSAVReader

    def __init__(
        self,
        root: Path | str,
        train_split: Literal["train"] | None = "train",
        val_split: Literal["valid"] | None = "valid",
        test_split: Literal["valid"] | None = "valid",
        predict_split: Literal["valid"] | None = "valid",
        videos: Path | None = None,
        captions: Captions = "long",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, (train_split, val_split, test_split, predict_split), **kwargs)
        self.videos, self.captions, self.cache = videos, captions, cache

    def make(self, split: str) -> Reader:
        """See `DiskData.make`."""
        if split == "train":
            return RefSAVTrainReader(self.root, self.videos, self.captions, self.cache)
        return RefSAVReader(self.root, self.cache)
