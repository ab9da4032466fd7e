"""A few real clips with masks and sentences in one folder, for overfitting tests and for trying one's own data."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.core.types import Facts
from rvos_lightning.data.problems import Problem, refuse_if, told
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.readers.annotation_files import read_json
from rvos_lightning.data.readers.own_masks import mask_files, mask_problems
from rvos_lightning.data.sources.image_files import decode_ids
from rvos_lightning.data.sources.video_files import Footage, ImageFootage, open_footage
from rvos_lightning.data.video_data import Split, VideoData

FILE = "expressions.json"


class ClipWithMasksReader(Reader):
    """Reads `<root>/expressions.json` and the files it names.

    The file holds one clip, or a mapping of names to clips: `{"path": "video.mp4" or a folder of frames,
    "expressions": [{"id": "0", "exp": "the ...", "masks": "masks", "labels": [1]}]}`. Paths are relative to `root`.
    `masks` is a folder of palette PNGs named as the frames (five-digit numbers for a video), or one PNG; frames
    without one are not annotated. An empty `labels` means that nothing is meant.

    Args:
        root: the folder.
        split: name to report.
        hidden: also list expressions without masks.
        clips: names of clips to use; None for all.
        held_out: positions of frames that the training split lacks; elsewhere they alone are annotated. None: all are.

    Raises:
        DataError: a missing or malformed file; names file, field and remedy. A frame held out is none, or all are.
    """

    name = "clip_with_masks"

    def __init__(
        self,
        root: Path,
        split: str,
        hidden: bool = False,
        clips: Sequence[str] | None = None,
        held_out: Sequence[int] | None = None,
    ) -> None:
        self.root, self.split, self.held_out = root, split, held_out
        self.kept: list[list[int]] = []  # positions in the film of each video's frames
        self.footage: list[Footage] = []
        self.masks: list[Path | None] = []
        self.videos, self.items = [], []
        self._listed: dict[Path, dict[str, Path]] = {}  # masks of each folder by frame
        entries = _entries(root / FILE)
        unknown = set(clips or ()) - set(entries)
        if unknown:
            raise DataError(f"{root / FILE}: no clip named {sorted(unknown)[0]!r}; it has {', '.join(entries)}")
        for name in clips or entries:
            said = entries[name]["expressions"]
            if odd := next((each for each in said if not isinstance(each, dict)), None):
                raise DataError(
                    f"{root / FILE}: {name}.expressions must hold objects with `exp`, found {str(odd)[:60]!r}"
                )
            wanted = [e for e in said if hidden or "masks" in e]
            if wanted:
                self._add(name, entries[name], wanted)
        self.notes = [problem for problem in told(self._problems()) if not problem.blocks]
        if not self.items:
            raise DataError(f"{root / FILE}: no expression has `masks`, so there is nothing to train or score on")

    def _add(self, name: str, entry: dict[str, Any], wanted: Sequence[dict[str, Any]]) -> None:
        footage = open_footage(_inside(self.root, entry["path"], f"{name}.path"), upright=False)
        if len(footage) != 1:
            raise DataError(f"{self.root / FILE}: {name}.path is a folder of {len(footage)} videos; name one of them")
        frames = footage[0].frames
        if unknown := [position for position in self.held_out or () if not 0 <= position < len(frames)]:
            raise DataError(f"data.held_out: {name} has frames 0 to {len(frames) - 1}, none at {unknown[0]}")
        without = self.held_out or () if self.split == "train" else ()
        self.kept.append([position for position in range(len(frames)) if position not in without])
        if not self.kept[-1]:
            raise DataError(f"data.held_out: nothing is left of {name} to train on")
        self.footage += footage
        self.videos.append(Video(name, tuple(frames[position] for position in self.kept[-1]), footage[0].size))
        if isinstance(footage[0], ImageFootage):
            refuse_if(_links_out(self.root, footage[0].paths))
        given: set[str] = set()
        for number, said in enumerate(wanted):
            field = f"{name}.expressions[{number}]"
            key = said.get("id", number)
            if type(key) not in (str, int) or key == "" or str(key) in given:
                again = ", which another expression has" if type(key) in (str, int) and key != "" else ""
                raise DataError(f"{self.root / FILE}: {field}.id must be a name of its own, found {key!r}{again}")
            given.add(str(key))
            text, labels = said.get("exp"), said.get("labels")
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{self.root / FILE}: {field}.exp must be a sentence, found {text!r}")
            if "masks" in said and not isinstance(said["masks"], str):
                raise DataError(
                    f"{self.root / FILE}: {field}.masks must name a folder or a PNG, found {said['masks']!r}"
                )
            if "masks" in said and not (isinstance(labels, list) and all(type(n) is int and n > 0 for n in labels)):
                raise DataError(
                    f"{self.root / FILE}: {field}.labels must list palette numbers from 1 (0 is the background), "
                    f"found {labels!r}"
                )
            objects = tuple(labels) if "masks" in said else None
            subsets = ("multi",) if objects and len(objects) > 1 else ()
            facts = Facts(fps=footage[0].rate)
            self.items.append(Item(len(self.videos) - 1, str(key), text, objects, subsets, facts))
            self.masks.append(_inside(self.root, said["masks"], f"{field}.masks") if "masks" in said else None)

    def problems(self, fast: bool) -> Iterator[Problem]:
        """What is worth knowing and blocks nothing."""
        yield from self.notes

    def _problems(self) -> Iterator[Problem]:
        """What is wrong with masks, folder by folder; every mask is looked at once."""
        places: dict[tuple[Path, int], list[tuple[int, ...]]] = {}
        for place, item in zip(self.masks, self.items, strict=True):
            if place is not None:
                places.setdefault((place, item.video), []).append(item.objects)
        decoded: dict[Path, set[int]] = {}
        for (place, video), labels in places.items():
            yield from _links_out(self.root, mask_files(place).values())
            yield from mask_problems(place, self.footage[video].frames, self.videos[video].size, labels, decoded)

    def read_frames(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `Reader.read_frames`."""
        return self.footage[video].read([self.kept[video][position] for position in positions])

    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]] | None:
        """See `Reader.read_masks`.

        Raises:
            DataError: a mask that is not of its frame's size.
        """
        place, entry = self.masks[item], self.items[item]
        if place is None:
            return None
        video = self.videos[entry.video]
        height, width = video.size
        masks = np.zeros((len(positions), height, width), dtype=bool)
        annotated = np.zeros(len(positions), dtype=bool)
        if place not in self._listed:
            self._listed[place] = mask_files(place)
        files = self._listed[place]
        scored = None if self.split == "train" else self.held_out
        for row, position in enumerate(positions):
            path = files.get(video.frames[position])
            if path is None or (scored is not None and position not in scored):
                continue
            ids = decode_ids(path.read_bytes(), str(path))
            if ids.shape != (height, width):
                raise DataError(
                    f"{path}: mask of {ids.shape[1]}x{ids.shape[0]} pixels on a frame of {width}x{height}: "
                    "save it at the frame's size"
                )
            masks[row], annotated[row] = np.isin(ids, entry.objects), True
        return torch.from_numpy(masks), torch.from_numpy(annotated)


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: missing; it lists clips and their expressions (see ClipWithMasksReader)")
    table = read_json(path)
    if isinstance(table, dict) and "expressions" in table:
        table = {path.parent.resolve().name: table}
    for name, entry in table.items() if isinstance(table, dict) else ():
        for field, kind in (("path", str), ("expressions", list)):
            if not isinstance(entry, dict) or not isinstance(entry.get(field), kind):
                raise DataError(f"{path}: {name}.{field} is missing or not a {kind.__name__}")
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path}: must hold one clip or a mapping of names to clips")
    return table


def _links_out(root: Path, paths: Iterable[Path]) -> Iterator[Problem]:
    """Files that are links to somewhere outside the folder."""
    home = root.resolve()
    for path in paths:
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            what = f"a link leads out of {home}"
            yield Problem(str(path), what, "Copy the file there, or link the whole folder.", ("train", "validate"))


def _inside(root: Path, name: str, field: str) -> Path:
    if not name or "\0" in name:
        raise DataError(f"{root / FILE}: {field} names no file or folder: {name!r}")
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"{root / FILE}: {field} leaves the folder: {name!r}")
    if not path.exists():
        raise DataError(f"{path}: missing, but {FILE} names it in {field}")
    return path


class ClipWithMasks(VideoData):
    """Real clips with masks and sentences; the same ones serve for training, validation, test and prediction.

    Args:
        root: folder with `expressions.json`, see `ClipWithMasksReader`.
        clips: names of clips to use; None for all.
        held_out: positions of frames, from 0, that training never sees; validation and test score these alone.
            None: all frames serve for both, which says nothing about other frames.
        repeats: how often an epoch goes over them.
        kwargs: see `VideoData`.
    """

    def __init__(
        self,
        root: Path | str,
        clips: list[str] | None = None,
        held_out: list[int] | None = None,
        repeats: int = 50,
        **kwargs: Any,
    ) -> None:
        super().__init__(repeats=repeats, **kwargs)
        self.root, self.clips, self.held_out = Path(root).expanduser(), clips, held_out

    def reader(self, split: Split) -> ClipWithMasksReader:
        """The same clips in every split; prediction also takes expressions without masks."""
        hidden = split == "predict"
        return ClipWithMasksReader(self.root, split, hidden=hidden, clips=self.clips, held_out=self.held_out)
