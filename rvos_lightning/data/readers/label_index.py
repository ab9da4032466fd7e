"""Which object numbers occur in which mask file: read once from all files of a split, then kept."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from rvos_lightning.data.reader import Video
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.image_files import decode_ids
from rvos_lightning.data.sources.png_masks import VOID
from rvos_lightning.data.sources.table_file import cache_path, write_whole


class LabelIndex:
    """One bit an object number and frame.

    Attributes:
        bits: 256 bits of every frame of every video, packed.
        present: whether a frame has a mask file.
        first: where each video's frames begin in the two.
    """

    def __init__(
        self, videos: Sequence[Video], bits: UInt8[np.ndarray, "frames 32"], present: Bool[np.ndarray, "frames"]
    ) -> None:
        """Tables over all frames of `videos` in order."""
        self.bits, self.present = bits, present
        self.first = np.cumsum([0] + [len(video.frames) for video in videos])

    @classmethod
    def of_files(
        cls, videos: Sequence[Video], tree: FileTree, cache: Path | None = None, lists: Sequence[Path] = ()
    ) -> "LabelIndex":
        """Reads every `<video>/<frame>.png` once; later calls find the result, as long as no folder has changed.

        `lists` are the files that say which videos and frames there are, where folders do not.
        """
        sources = dict.fromkeys([tree.place, *(tree.source(video.id) for video in videos)])
        path = cache_path([*sources, *lists], ".labels.npz", cache)
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                if len(kept["present"]) == sum(len(video.frames) for video in videos):
                    return cls(videos, kept["bits"], kept["present"])
        names = [f"{video.id}/{frame}.png" for video in videos for frame in video.frames]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows = list(pool.map(lambda name: _labels(tree, name), names))
        present = np.array([row is not None for row in rows], bool)
        nothing = np.zeros(32, np.uint8)
        bits = np.stack([nothing if row is None else row for row in rows]) if rows else np.zeros((0, 32), np.uint8)
        write_whole(path, lambda file: np.savez_compressed(file, bits=bits, present=present))
        return cls(videos, bits, present)

    @classmethod
    def of_lists(cls, videos: Sequence[Video], seen: Mapping[tuple[str, int], Sequence[str]]) -> "LabelIndex":
        """From frame names by (video id, object number), as `meta.json` lists them."""
        by_video: dict[str, list[tuple[int, Sequence[str]]]] = {}
        for (video_id, label), frames in seen.items():
            by_video.setdefault(video_id, []).append((label, frames))
        tables = []
        for video in videos:
            table = np.zeros((len(video.frames), 256), bool)
            where = {frame: position for position, frame in enumerate(video.frames)}
            for label, frames in by_video.get(video.id, ()):
                table[[where[frame] for frame in frames if frame in where], label] = True
            tables.append(np.packbits(table, axis=1))
        bits = np.concatenate(tables) if tables else np.zeros((0, 32), np.uint8)
        return cls(videos, bits, np.ones(len(bits), bool))

    def table(self, video: int) -> Bool[np.ndarray, "frames labels"]:
        """Which of 256 numbers each frame of a video shows."""
        return np.unpackbits(self.bits[self.first[video] : self.first[video + 1]], axis=1).astype(bool)

    def labels(self, video: int) -> list[int]:
        """Object numbers of a video, background and void left out."""
        return [label for label in np.flatnonzero(self.table(video).any(0)).tolist() if label not in (0, VOID)]

    def shows(self, video: int, labels: Sequence[int]) -> Bool[np.ndarray, "frames"]:
        """Frames of a video that show any of some objects."""
        return self.table(video)[:, list(labels)].any(1)


def _labels(tree: FileTree, name: str) -> UInt8[np.ndarray, "32"] | None:
    if not tree.exists(name):
        return None
    ids = decode_ids(tree.read(name), f"{tree.place}/{name}")
    return np.packbits(np.bincount(ids.ravel(), minlength=256)[:256] > 0)
