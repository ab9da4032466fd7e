"""Frames and masks of whole videos, read window by window: memory does not grow with a video's length."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.functional import pad

from rvos_lightning.core.types import Device, LazyTensor, Targets
from rvos_lightning.data.clips.resizing import resize_frames
from rvos_lightning.data.reader import Reader

Window = tuple[int, int]


def pad_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros on the right and at the bottom until the last two axes have `size`."""
    height, width = images.shape[-2:]
    return images if (height, width) == size else pad(images, (0, size[1] - width, 0, size[0] - height))


def _bounds(key: tuple[slice, slice], time: int) -> Window:
    start, stop, step = key[1].indices(time)
    if key[0] != slice(None) or step != 1:
        raise ValueError(f"a lazy tensor reads [:, start:stop] only, not {key}")
    return start, max(start, stop)


class LazyFrames(LazyTensor):
    """RGB in [0, 1], Float[video time 3 height width], of videos of equal length; reads ahead one window.

    Args:
        reader: where frames come from.
        videos: indices into `reader.videos`.
        sizes: (height, width) each video is resized to; smaller ones are padded right and bottom with zeros.
        ahead: read the next window in a thread while this one is worked on (holds two windows).
    """

    def __init__(
        self, reader: Reader, videos: Sequence[int], sizes: Sequence[tuple[int, int]], ahead: bool = False
    ) -> None:
        self.reader, self.videos, self.sizes, self.ahead = reader, list(videos), list(sizes), ahead
        self.size = (max(h for h, _ in sizes), max(w for _, w in sizes))
        self.device: Device = "cpu"
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[Window, Future[Tensor]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(video, time, 3, height, width)."""
        return (len(self.videos), len(self.reader.videos[self.videos[0]].frames), 3, *self.size)

    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        start, stop = _bounds(key, self.shape[1])
        frames = self._take((start, stop))
        if self.ahead and stop < self.shape[1]:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="frames")
            following = (stop, min(stop + (stop - start), self.shape[1]))
            self._next = following, self._thread.submit(self._read, following)
        return frames.to(self.device).float() / 255

    def _take(self, window: Window) -> Tensor:
        pending, self._next = self._next, None
        if pending is not None and pending[0] == window:
            return pending[1].result()
        if pending is not None and not pending[1].cancel():
            pending[1].exception()  # one reader at a time: wait for the reading that nobody needs
        return self._read(window)

    def _read(self, window: Window) -> Tensor:
        positions = range(*window)
        videos = zip(self.videos, self.sizes, strict=True)
        resized = [resize_frames(self.reader.read_frames(v, positions), size) for v, size in videos]
        return torch.stack([pad_to(frames, self.size) for frames in resized])

    def to(self, device: Device, non_blocking: bool = False) -> "LazyFrames":
        """The same videos, delivered to `device`."""
        moved = LazyFrames(self.reader, self.videos, self.sizes, self.ahead)
        moved.device = device
        return moved


class _Windows:
    """Reads all that is known of a window together and keeps the last one, asked for field by field."""

    def __init__(self, reader: Reader, items: Sequence[int], size: tuple[int, int]) -> None:
        self.reader, self.items, self.size = reader, list(items), size
        self.time = len(reader.videos[reader.items[self.items[0]].video].frames)
        self._last: tuple[Window, dict[str, Tensor]] | None = None

    def read(self, window: Window) -> dict[str, Tensor]:
        if self._last is None or self._last[0] != window:
            truths = self.reader.read_masks_of(self.items, range(*window))
            pairs = [truth for truth in truths if truth is not None]
            found = {"masks": [masks for masks, _ in pairs]}
            for name in self.reader.besides:
                found[name] = self._beside(name, range(*window))
            planes = {name: torch.stack([pad_to(each, self.size) for each in own]) for name, own in found.items()}
            self._last = window, {**planes, "annotated": torch.stack([annotated for _, annotated in pairs])}
        return self._last[1]

    def _beside(self, name: str, positions: range) -> list[Tensor]:
        """A field of every item; all but `multiplicity` are the same for the items of a video."""
        known: dict[int, Tensor] = {}
        for item in self.items:
            key = item if name == "multiplicity" else -1 - self.reader.items[item].video
            if key not in known:
                known[key] = self.reader.read_beside(name, item, positions)
        return [known[i if name == "multiplicity" else -1 - self.reader.items[i].video] for i in self.items]


class LazyTruth(LazyTensor):
    """A field of `Targets` at original size, [batch time] or [batch time height width], read on demand.

    Args:
        windows: shared by all fields, so that a window is read once.
        name: of the field.
    """

    def __init__(self, windows: _Windows, name: str, device: Device = "cpu") -> None:
        self.windows, self.name, self.device = windows, name, device

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, time), and the source's (height, width) but for flags."""
        size = () if self.name == "annotated" else self.windows.size
        return (len(self.windows.items), self.windows.time, *size)

    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        return self.windows.read(_bounds(key, self.windows.time))[self.name].to(self.device)

    def to(self, device: Device, non_blocking: bool = False) -> "LazyTruth":
        """The same field, delivered to `device`."""
        return LazyTruth(self.windows, self.name, device)


def lazy_targets(reader: Reader, items: Sequence[int], size: tuple[int, int]) -> Targets:
    """The truth of `items` (of videos of equal length), reading each window once."""
    windows = _Windows(reader, items, size)
    return Targets(**{name: LazyTruth(windows, name) for name in ("masks", "annotated", *reader.besides)})
