"""Films by frame number: the pictures a player shows, in its order, for users' own films and data sets alike."""

import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from rvos_lightning.data.reader import DataError, Video
from rvos_lightning.data.sources.file_tree import Folder
from rvos_lightning.data.sources.image_files import FrameSource, Size
from rvos_lightning.data.sources.upright import rgb

STAMPED = ("mov", "matroska")
"""Containers that say when each frame is shown. AVI and raw streams do not; transport streams start anew."""
REMEDY = "Repair it: ffmpeg -i IN -c:v libx264 -crf 10 OUT.mp4"
_inherited: list[Any] = []  # decoders of a parent process: closing one here would wait for threads that are not here


class Shown(NamedTuple):
    """What is known of a film without its pictures.

    Attributes:
        count: number of frames a player shows.
        times: when each is shown, rising, in the stream's units; None where only decoding in order tells.
    """

    count: int
    times: Int64[np.ndarray, "frames"] | None


class Film:
    """A film that is decoded on the way: reading window after window decodes every frame once.

    Opened on first use and in each process anew, so that no decoder is inherited by a loader worker.

    Args:
        path: the file.
        keep: stay open where a reading ended; off for one film of many, each read here and there.

    Raises:
        DataError: missing or unreadable; names the file.
    """

    def __init__(self, path: str, keep: bool = True) -> None:
        self.path, self.keep = path, keep
        self.shown = shown(path)
        self.decoded = 0  # frames decoded so far, for tests of the promise above
        self._forget()

    def _forget(self) -> None:
        # a thread that reads ahead and the main thread (context frames) may both ask
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._stream: Iterator[tuple[int, Any]] | None = None
        self._next, self._last = 0, None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "keep": self.keep, "shown": self.shown, "decoded": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        """Number of frames."""
        return self.shown.count

    def read(self, numbers: Sequence[int]) -> dict[int, UInt8[Tensor, "3 height width"]]:
        """Frames by number, upright.

        Raises:
            DataError: one cannot be decoded, or has another size than the first that was asked for.
        """
        if self._owner != os.getpid():
            _inherited.append(self._stream)
            self._forget()
        with self._lock:
            found = {number: self._one(number) for number in sorted(set(numbers))}
            if not self.keep:
                self._stream, self._next, self._last = None, 0, None
        sizes: dict[tuple[int, ...], int] = {}
        for number, frame in found.items():
            sizes.setdefault(tuple(frame.shape[1:]), number)
        if len(sizes) > 1:
            (one, first), (other, second) = list(sizes.items())[:2]
            raise DataError(
                f"{self.path}: frame {first} has {one[1]}x{one[0]} pixels, frame {second} {other[1]}x{other[0]}: "
                f"the size changes. Give it one: ffmpeg -i IN -vf scale={one[1]}:{one[0]} OUT.mp4"
            )
        return found

    def _one(self, number: int) -> UInt8[Tensor, "3 height width"]:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        if self._stream is None or self._next > number:
            self._stream, self._next = self._frames(number), 0
        picture = self._go_on(number)
        if picture is None:  # a key frame after all behind it, or a file that cannot be sought in: from the start
            self._stream, self._next = self._frames(0), 0
            picture = self._go_on(number)
        if picture is None:
            raise DataError(f"{self.path}: frame {number} of {len(self)} cannot be decoded. {REMEDY}")
        self._last = number, picture
        return picture

    def _go_on(self, number: int) -> UInt8[Tensor, "3 height width"] | None:
        assert self._stream is not None
        for index, frame in self._stream:
            self._next = index + 1
            if index >= number:
                return rgb(frame) if index == number else None
        return None

    def _frames(self, start: int) -> Iterator[tuple[int, Any]]:
        """Frames with their numbers, from the last key frame before `start` or from the film's first."""
        times = self.shown.times
        seek = None if times is None or not start else int(times[start])
        for index, frame in enumerate(decoded(self.path, seek)):
            self.decoded += 1
            if times is None:
                yield index, frame
            elif frame.pts is not None:
                number = int(np.searchsorted(times, frame.pts))
                if number < len(times) and times[number] == frame.pts:
                    yield number, frame


class FilmFrames(FrameSource):
    """One film a video; a frame's name is its number in the file.

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
        film = Film(self.path(video), keep=False)
        numbers = [min(int(video.frames[p]) - self.first, len(film) - 1) for p in positions]
        found = film.read(numbers)
        return torch.stack([found[number] for number in numbers])

    def size(self, video: Video) -> Size:
        """See `FrameSource.size`."""
        return film_size(self.path(video))

    def missing(self, video: Video) -> list[str]:
        """See `FrameSource.missing`."""
        return [] if Path(self.path(video)).is_file() else [self.file.format(video=video.id)]

    def check(self, video: Video, position: int, fast: bool) -> Size:
        """See `FrameSource.check`."""
        if fast:
            return self.size(video)
        frame = self.read(video, [position])
        return int(frame.shape[2]), int(frame.shape[3])


def open_film(path: str) -> Any:
    """An open container with a video stream.

    Raises:
        DataError: missing, unreadable, or without a video stream.
    """
    import av

    try:
        container = av.open(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing video file. Get it, or extract its frames as JPEG files.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable video ({error}). Download it again.") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no video stream. Download it again.")
    return container


def decoded(path: str, seek: int | None = None) -> Iterator[Any]:
    """Frames in the order they are shown; errors before the first one are a stream that was joined too late.

    Raises:
        DataError: decoding fails.
    """
    import av

    with open_film(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        begun = False
        try:
            if seek is not None:
                container.seek(seek, stream=stream, backward=True, any_frame=False)
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        begun = True
                        yield frame
                except av.error.InvalidDataError:
                    if begun:
                        raise
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{path}: decoding fails ({error}). {REMEDY}") from error


def shown(path: str) -> Shown:
    """Which frames a player shows: hidden ones of a trimmed film are left out.

    From packets where the container stamps them and the first frame confirms it; else by decoding the film once.

    Raises:
        DataError: unreadable, or without a frame.
    """
    try:
        facts = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: missing video file. Get it, or extract its frames as JPEG files.") from error
    return _shown(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _shown(path: str, size: int, modified: int) -> Shown:
    import av

    with open_film(path) as container:
        stamped = container.format.name.split(",")[0] in STAMPED
        try:
            packets = [p for p in container.demux(video=0) if p.size and not p.is_discard] if stamped else []
            stamps = [packet.pts for packet in packets]
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{path}: reading fails ({error}). {REMEDY}") from error
    if stamps and None not in stamps and len(set(stamps)) == len(stamps):
        times = np.sort(np.array(stamps, np.int64))
        first = next(decoded(path), None)
        if first is not None and first.pts == times[0]:
            return Shown(len(times), times)
    count = sum(1 for _ in decoded(path))
    if not count:
        raise DataError(f"{path}: holds no frames. Download it again.")
    return Shown(count, None)


def film_size(path: str) -> Size:
    """(height, width) of the first frame, upright."""
    first = next(decoded(path), None)
    if first is None:
        raise DataError(f"{path}: holds no frames. Download it again.")
    picture = rgb(first)
    return int(picture.shape[1]), int(picture.shape[2])
