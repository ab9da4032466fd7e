"""JHMDB-Sentences: one sentence on each of 928 clips, scored on three frames of each; evaluation only."""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.limits import within
from rvos_lightning.data.problems import Problem, Refused
from rvos_lightning.data.reader import Count, DataError, Item, Video
from rvos_lightning.data.readers.annotation_files import read_json, safe_path
from rvos_lightning.data.readers.file_reader import FileReader
from rvos_lightning.data.readers.layout import needed_tree, without_notes
from rvos_lightning.data.readers.one_frame import OneFrame
from rvos_lightning.data.sources.arrays import mat_field
from rvos_lightning.data.sources.image_files import ImageFrames
from rvos_lightning.metrics.images import A2D


class Row(NamedTuple):
    """One scored frame: video id, `<action>/<video>` folder, frame number from 1, number of frames, sentence."""

    video: str
    folder: str
    number: int
    total: int
    text: str


class JHMDBReader(FileReader):
    """`Rename_Images/<action>/<video>/%05d.png`, `puppet_mask/<action>/<video>/puppet_mask.mat`, a metadata JSON.

    The three frames of a clip were drawn at random once and stored in that JSON, so scores are comparable only
    with it; they are never drawn again here. Frames behind the last mask are cut.
    """

    protocol, licence = partial(A2D, "JHMDB-Sentences"), "JHMDB-Sentences: research use"
    counts = {"test": Count((928,), (2784,), "the shared metadata: 3 frames of each clip")}

    def __init__(self, root: Path | str, split: str = "test") -> None:
        """Reads the metadata.

        Raises:
            Refused: it is missing.
        """
        root = Path(root)
        path = _metadata(root)
        frames = needed_tree(root, "Rename_Images", split)
        masks = needed_tree(root, "puppet_mask", split, "the puppet masks")
        rows = list(_rows(path))
        totals = {row.folder: row.total for row in rows}
        odd = next((row for row in rows if totals[row.folder] != row.total), None)
        if odd is not None:
            raise DataError(f"{path}: rows of {odd.folder} give {odd.total} and {totals[odd.folder]} frames.")
        videos = [Video(folder, tuple(f"{n:05d}" for n in range(1, total + 1))) for folder, total in totals.items()]
        items = _items(rows, {folder: index for index, folder in enumerate(totals)})
        source = ImageFrames(frames, ".png")
        super().__init__("jhmdb_sentences", split, videos, items, source, PuppetMasks(masks), [path])


class PuppetMasks(OneFrame):
    """`<action>/<video>/puppet_mask.mat`: `part_mask`, height x width x time, above zero on the person."""

    def file(self, video: Video, item: Item) -> str:
        """See `OneFrame.file`."""
        return f"{video.id}/puppet_mask.mat"

    def mask(self, data: bytes, item: Item, place: str) -> Bool[np.ndarray, "height width"]:
        """See `OneFrame.mask`."""
        planes, frame = read_puppet(data, place), item.facts.frame
        if frame >= planes.shape[2]:
            raise DataError(f"{place}: {planes.shape[2]} masks, but frame {frame + 1} is scored. Get it again.")
        return planes[:, :, frame] > 0


@lru_cache(maxsize=2)  # the three items of a clip follow each other
def read_puppet(data: bytes, place: str) -> UInt8[np.ndarray, "height width time"]:
    """`part_mask` of a MATLAB file, old (version 5) or HDF5 (7.3, whose axes are reversed)."""
    planes = mat_field(data, "part_mask", place)
    if planes.ndim not in (2, 3):
        raise DataError(
            f"{place}: field 'part_mask' has shape {planes.shape}, not height x width x time. Get it again."
        )
    return ((planes[:, :, None] if planes.ndim == 2 else planes) > 0).astype(np.uint8)


def _metadata(root: Path) -> Path:
    found = without_notes(root.glob("*jhmdb*metadata*.json")) or without_notes(root.glob("*metadata*.json"))
    if not found:
        what = "missing: the shared list of the frames that are scored (video, frame, mask, total, text)"
        remedy = "Get it from a code that published numbers on it; drawing frames anew makes scores incomparable."
        raise Refused([Problem(str(root / "jhmdb_sentences_samples_metadata.json"), what, remedy, ("validate",))])
    return found[0]


def _rows(path: Path) -> Iterator[Row]:
    table = read_json(path)
    if not isinstance(table, list):
        raise DataError(f"{path}: expected a list of rows, found {type(table).__name__}. Get the file again.")
    for number, row in enumerate(table):
        place = f"{path}: row {number}"
        if not isinstance(row, list) or [type(value) for value in row] != [str, str, str, int, str]:
            raise DataError(f"{place}: expected [video, frame path, mask path, total frames, text].")
        video, frame, _, total, text = row
        within("video_frames", total, place)
        # the paths begin wherever the file was made; the last three parts are the layout's own
        parts = PurePosixPath(frame.replace("\\", "/")).parts[-3:]
        stem = PurePosixPath(frame).stem
        if len(parts) != 3 or not stem.isdecimal() or not 1 <= int(stem) <= total:
            raise DataError(f"{place}: {frame!r} is not <action>/<video>/<number>.png with a number in 1..{total}.")
        yield Row(video, safe_path(f"{parts[0]}/{parts[1]}", place), int(stem), total, text)


def _items(rows: list[Row], index: dict[str, int]) -> Iterator[Item]:
    seen: dict[tuple[str, int], int] = {}
    for row in rows:
        again = seen[row.folder, row.number] = seen.get((row.folder, row.number), 0) + 1
        key = f"{row.number:05d}" if again == 1 else f"{row.number:05d}_{again}"
        facts = Facts(frame=row.number - 1, image=f"v_{row.video}_f_{row.number}")
        yield Item(index[row.folder], key, row.text, (1,), (), facts)


class JHMDBSentences(DiskData):
    """JHMDB-Sentences, evaluation only.

    Args:
        root: folder that holds Rename_Images, puppet_mask and the metadata JSON.
        val_split: "test", or None for none (likewise below).
        test_split: "test".
        predict_split: "test".
        kwargs: see `VideoData`.
    """

    opens = JHMDBReader

    def __init__(
        self,
        root: Path | str,
        val_split: Literal["test"] | None = "test",
        test_split: Literal["test"] | None = "test",
        predict_split: Literal["test"] | None = "test",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, (None, val_split, test_split, predict_split), **kwargs)
