"""Frames and masks of whole videos, read window by window: memory does not grow with a video's length."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.functional import pad

from rvos_lightning.core.types import Device, LazyTensor
from rvos_lightning.data.clips.transforms import resize_frames
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


class _MaskWindows:
    """Reads masks and their annotation flags together and keeps the last window, asked for twice in a row."""

    def __init__(self, reader: Reader, items: Sequence[int]) -> None:
        self.reader, self.items = reader, list(items)
        self.time = len(reader.videos[reader.items[self.items[0]].video].frames)
        self._last: tuple[Window, tuple[Tensor, Tensor]] | None = None

    def read(self, window: Window) -> tuple[Tensor, Tensor]:
        if self._last is None or self._last[0] != window:
            truths = [self.reader.read_masks(item, range(*window)) for item in self.items]
            pairs = [truth for truth in truths if truth is not None]
            size = (max(m.shape[-2] for m, _ in pairs), max(m.shape[-1] for m, _ in pairs))
            masks = torch.stack([pad_to(mask, size) for mask, _ in pairs])
            self._last = window, (masks, torch.stack([annotated for _, annotated in pairs]))
        return self._last[1]


class LazyMasks(LazyTensor):
    """Masks at original size, Bool[batch time height width], read on demand.

    Args:
        windows: shared with `LazyAnnotated`, so that a window is read once.
        size: (height, width) of the source.
    """

    def __init__(self, windows: _MaskWindows, size: tuple[int, int]) -> None:
        self.windows, self.size = windows, size
        self.device: Device = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, time, height, width)."""
        return (len(self.windows.items), self.windows.time, *self.size)

    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        return self.windows.read(_bounds(key, self.windows.time))[0].to(self.device)

    def to(self, device: Device, non_blocking: bool = False) -> "LazyMasks":
        """The same masks, delivered to `device`."""
        moved = LazyMasks(self.windows, self.size)
        moved.device = device
        return moved


class LazyAnnotated(LazyTensor):
    """Which frames are annotated, Bool[batch time], read on demand together with the masks."""

    def __init__(self, windows: _MaskWindows) -> None:
        self.windows = windows
        self.device: Device = "cpu"

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, time)."""
        return (len(self.windows.items), self.windows.time)

    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        return self.windows.read(_bounds(key, self.windows.time))[1].to(self.device)

    def to(self, device: Device, non_blocking: bool = False) -> "LazyAnnotated":
        """The same flags, delivered to `device`."""
        moved = LazyAnnotated(self.windows)
        moved.device = device
        return moved


def lazy_targets(reader: Reader, items: Sequence[int], size: tuple[int, int]) -> tuple[LazyMasks, LazyAnnotated]:
    """Masks and annotation flags of `items` (of videos of equal length), reading each window once."""
    windows = _MaskWindows(reader, items)
    return LazyMasks(windows, size), LazyAnnotated(windows)
