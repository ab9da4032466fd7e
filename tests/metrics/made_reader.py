"""A small reader in memory, and a data module around it that YAML can name."""

from dataclasses import replace

import torch
from made_masks import video

from rvos_lightning.data.reader import Item, Reader, Video
from rvos_lightning.data.video_data import VideoData
from rvos_lightning.metrics import SAV, JAndF, LongRVOS, MeViS, RefDAVISA, RefYouTubeVOS, ReVOS
from rvos_lightning.metrics.layouts import LAYOUTS

PROTOCOLS = {
    "mevis": MeViS,
    "ref_youtube_vos": RefYouTubeVOS,
    "ref_davis": RefDAVISA,
    "revos": ReVOS,
    "long_rvos": LongRVOS,
    "sav": SAV,
}


class MadeReader(Reader):
    """Three videos of other sizes; `annotated_every` thins out the truth."""

    def __init__(self, name: str = "mevis", annotated_every: int = 1, hidden: bool = False) -> None:
        self.name, self.split, self.hidden = name, "valid_u", hidden
        self.protocol, self.layout = PROTOCOLS.get(name, JAndF), LAYOUTS.get(name, LAYOUTS["plain"])
        sizes = {"u": (24, 40), "sub/v": (30, 36), "w": (20, 44)}
        groups = {"annotator": [0, 1, 0], "object": [1, 1, 2], "kind": ["referring", "reasoning", "referring"]}
        self.parts = [video(n, 3, 6, s, seed=i, **groups) for i, (n, s) in enumerate(sizes.items())]
        for part in self.parts:
            part.targets.annotated[:] = torch.arange(6) % annotated_every == 0
        self.videos = [Video(n, tuple(f"{5 * t:05d}" for t in range(6)), s) for n, s in sizes.items()]
        self.items = [
            Item(number, meta.item, "words", (1,), meta.subsets, meta.facts)
            for number, part in enumerate(self.parts)
            for meta in part.meta
        ]

    def read_frames(self, video, positions):
        raise AssertionError("scoring needs no frames")

    def read_masks(self, item, positions):
        own = self.items[item]
        targets = self.parts[own.video].targets
        if self.hidden:
            return None
        return targets.masks[int(own.id)][list(positions)], targets.annotated[int(own.id)][list(positions)]

    def windows(self, size):
        """(metas, predicted masks) of every video, window by window, as a run would write them."""
        for number, part in enumerate(self.parts):
            for start in range(0, 6, size):
                positions = tuple(range(start, min(start + size, 6)))
                frames = tuple(self.videos[number].frames[p] for p in positions)
                own = [replace(m, frames=frames, positions=positions, source=self.name) for m in part.meta]
                yield own, part.masks[:, start : start + size]


class MadeData(VideoData):
    """A data set of the recorded masks."""

    def __init__(self, name: str = "mevis", annotated_every: int = 1, hidden: bool = False) -> None:
        super().__init__()
        self.own = MadeReader(name, annotated_every, hidden)

    def reader(self, split: str) -> Reader | None:
        return self.own if split in ("val", "predict") else None
