"""Frames of video files by number: seek to the key frame before the first one wanted, decode forward, keep those."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from rvos_lightning.data.reader import DataError, Video
from rvos_lightning.data.sources.file_tree import Folder
from rvos_lightning.data.sources.image_files import FrameSource, Size


class Mp4Frames(FrameSource):
    """One file a video; a frame's name is its number in the file.

    Frames past the end of a file repeat its last one: tables of some sets count more frames than can be decoded.
    """

    def __init__(self, place: Path, file: str = "{video}.mp4", first: int = 0) -> None:
        """`file` is the name below `place`; `first` the number that the file's first frame has."""
        self.folder, self.file, self.first = Folder(place), file, first

    def path(self, video: Video) -> str:
        """The video file."""
        return self.folder.path(self.file.format(video=video.id))

    def read(self, video: Video, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `FrameSource.read`."""
        path = self.path(video)
        times = presentation_times(path)
        numbers = [min(int(video.frames[p]) - self.first, len(times) - 1) for p in positions]
        found = decode(path, sorted({int(times[number]) for number in numbers}))
        return torch.stack([found[int(times[number])] for number in numbers])

    def size(self, video: Video) -> Size:
        """See `FrameSource.size`."""
        return self.check(video, 0, fast=True)

    def missing(self, video: Video) -> list[str]:
        """See `FrameSource.missing`."""
        return [] if Path(self.path(video)).is_file() else [self.file.format(video=video.id)]

    def check(self, video: Video, position: int, fast: bool) -> Size:
        """See `FrameSource.check`."""
        if not fast:
            frame = self.read(video, [position])
            return int(frame.shape[2]), int(frame.shape[3])
        with open_video(self.path(video)) as container:
            context = container.streams.video[0].codec_context
            return context.height, context.width


def open_video(path: str) -> Any:
    """An open container with a video stream.

    Raises:
        DataError: missing, unreadable, or without a video stream.
    """
    import av

    try:
        container = av.open(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing video file. Get it, or extract its frames as JPEG files.") from error
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: not a readable video ({error}). Download it again.") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no video stream. Download it again.")
    return container


@lru_cache(maxsize=256)
def presentation_times(path: str) -> Int64[np.ndarray, "frames"]:
    """When each frame is shown, in order; packets are stored in decoding order, which differs with B-frames."""
    with open_video(path) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    if not stamps:
        raise DataError(f"{path}: holds no frames. Download it again.")
    return np.unique(np.array(stamps, np.int64))


def decode(path: str, times: Sequence[int]) -> dict[int, UInt8[Tensor, "3 height width"]]:
    """RGB frames shown at ascending `times`."""
    wanted, found = set(times), {}
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        container.seek(times[0], stream=stream, backward=True, any_frame=False)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                found[frame.pts] = picture.permute(2, 0, 1).contiguous()
                if len(found) == len(wanted):
                    return found
    raise DataError(f"{path}: {len(wanted) - len(found)} of {len(wanted)} frames cannot be decoded. Download it again.")
