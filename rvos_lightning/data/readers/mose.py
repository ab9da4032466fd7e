"""MOSE v1 and v2."""

from pathlib import Path

from rvos_lightning.data.readers.youtube_vos import YouTubeVOSReader


class MOSEReader(YouTubeVOSReader):
    """The layout of YouTube-VOS; `valid` has the first frame's masks only, the rest is on the server."""

    def __init__(self, root: Path | str, split: str, cache: Path | None = None) -> None:
        """Lists videos and objects."""
        super().__init__(root, split, False, cache, name="mose")
