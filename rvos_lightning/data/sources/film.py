"""Films by frame number: the pictures a player shows, in its order, for users' own films and data sets alike."""

import gc
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakSet

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
FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,gif,h264,hevc,av1,obu,ivf,flv,asf,ogg,mxf,dv,mjpeg,nut"
"""FFmpeg's names of what is opened: pictures in one file. A playlist, whatever it is called, would name other files."""
REMEDY = "Repair it: ffmpeg -i IN -c:v libx264 -crf 10 OUT.mp4"
MICROSECONDS = 1_000_000
_inherited: list[Any] = []  # decoders of a parent process: closing one here would wait for threads that are not here


_films: "WeakSet[Film]" = WeakSet()


def _just_forked() -> None:
    for film in list(_films):
        film.leave_to_parent()


# PyAV's containers and streams refer to each other, so decoders that nobody needs wait for the garbage collector: the
# parent's, as the child's would wait for ever for the threads of one that it frees.
os.register_at_fork(before=gc.freeze, after_in_parent=gc.unfreeze, after_in_child=_just_forked)


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
        self._lock = threading.Lock()  # a thread that reads ahead and the main thread (context frames) may both ask
        self._stream: Iterator[tuple[int, Any]] | None = None
        self._next, self._last = 0, None
        _films.add(self)

    def leave_to_parent(self) -> None:
        """In a process that was just forked: neither use nor close the parent's decoder."""
        _inherited.append(self._stream)
        self._forget()

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
            self._stream, self._next = self._from(number), 0
        picture = self._go_on(number)
        if picture is None:  # a key frame after all behind it, or a file that cannot be sought in: from the start
            self._stream, self._next = self._from(0), 0
            picture = self._go_on(number)
        if picture is None:
            raise DataError(f"{self.path}: frame {number} of {len(self)} cannot be decoded. {REMEDY}")
        self._last = number, picture
        return picture

    def _go_on(self, number: int) -> UInt8[Tensor, "3 height width"] | None:
        assert self._stream is not None
        for index, frame in self._stream:
            self._next, self.decoded = index + 1, self.decoded + 1
            if index >= number:
                return rgb(frame) if index == number else None
        return None

    def _from(self, start: int) -> Iterator[tuple[int, Any]]:
        times = self.shown.times
        return numbered(self.path, times, None if times is None or not start else int(times[start]))


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
        container = av.open(path, options={"format_whitelist": FORMATS})
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing video file. Get it, or extract its frames as JPEG files.") from error
    except av.error.ArgumentError as error:
        kinds = "a playlist, or of a kind that is not read"
        raise DataError(f"{path}: {kinds}. Make it a film of its own: ffmpeg -i IN OUT.mp4") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable video ({error}). Download it again.") from error
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no pictures (sound alone, or damaged).")
    return container


def numbered(path: str, times: np.ndarray | None, seek: int | None) -> Iterator[tuple[int, Any]]:
    """Frames with their numbers, from the last key frame before the time `seek` or from the film's first.

    Holds no `Film`: one that nobody needs closes its decoder at once, not when the garbage collector comes by.
    """
    for index, frame in enumerate(decoded(path, seek)):
        if times is None:
            yield index, frame
        elif frame.pts is not None:
            number = int(np.searchsorted(times, frame.pts))
            if number < len(times) and times[number] == frame.pts:
                yield number, frame


def decoded(path: str, seek: int | None = None) -> Iterator[Any]:
    """Frames in the order they are shown; errors before the first one are a stream that was joined too late.

    Raises:
        DataError: decoding fails.
    """
    from av.error import FFmpegError, InvalidDataError  # by name: a generator may be closed when modules are gone

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
                        if frame.is_corrupt:
                            warnings.warn(f"{path}: damaged; what a frame lacks is filled in. {REMEDY}", stacklevel=2)
                        yield frame
                except InvalidDataError:
                    if begun:
                        raise
        except (FFmpegError, ValueError) as error:
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
    if not stat.S_ISREG(facts.st_mode):
        raise DataError(f"{path}: no ordinary file, so it cannot be read twice. Save the film to a file.")
    return _shown(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _shown(path: str, size: int, modified: int) -> Shown:
    import av

    with open_film(path) as container:
        kind = container.format.name.split(",")[0]
        stamped, declared = kind in STAMPED, _declared(container)
        try:
            packets = [p for p in container.demux(video=0) if p.size and not p.is_discard] if stamped else []
            stamps = [packet.pts for packet in packets]
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{path}: reading fails ({error}). {REMEDY}") from error
    if stamps and None not in stamps and len(set(stamps)) == len(stamps):
        times = np.sort(np.array(stamps, np.int64))
        first = next(decoded(path), None)
        if first is not None and first.pts == times[0]:
            _compare(path, kind, float((times[-1] - times[0]) * first.time_base), declared)
            return Shown(len(times), times)
    count = sum(1 for _ in decoded(path))
    if not count:
        raise DataError(f"{path}: holds no frames. Download it again.")
    _compare(path, kind, (count - 1) / declared.rate if declared.rate else declared.seconds, declared)
    return Shown(count, None)


class _Declared(NamedTuple):
    """What a film's header says: how long it lasts, and frames a second; 0 where it does not say."""

    seconds: float
    rate: float


def _declared(container: Any) -> _Declared:
    stream, whole = container.streams.video[0], container.duration
    seconds = float(stream.duration * stream.time_base) if stream.duration else (whole or 0) / MICROSECONDS
    return _Declared(seconds, float(stream.average_rate or 0))


def _compare(path: str, kind: str, last: float, declared: _Declared) -> None:
    """Says aloud that a film ends before its header says.

    Args:
        path: the film.
        kind: of container.
        last: seconds between the first and the last frame that are there.
        declared: by the header; exact in mp4, elsewhere also of the sound, or estimated.

    Raises:
        DataError: an mp4 is cut off.
    """
    slack = 3 / declared.rate if declared.rate else 0.5
    if last + slack >= 0.98 * declared.seconds:
        return
    said = f"{path}: its frames end at {last:.1f} s, its header says {declared.seconds:.1f} s: cut off or damaged"
    if kind == "mov":
        raise DataError(f"{said}. Download it again; to keep what is there: ffmpeg -i IN -c:v libx264 OUT.mkv")
    warnings.warn(f"{said}, or its sound is longer", stacklevel=3)


def film_size(path: str) -> Size:
    """(height, width) of the first frame, upright."""
    first = next(decoded(path), None)
    if first is None:
        raise DataError(f"{path}: holds no frames. Download it again.")
    picture = rgb(first)
    return int(picture.shape[1]), int(picture.shape[2])
