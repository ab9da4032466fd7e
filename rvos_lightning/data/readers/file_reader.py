"""What every reader of files shares: frames from a `FrameSource`, masks from a `MaskSource`, checks between them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8
from torch import Tensor

from rvos_lightning.data.problems import Problem, blocks_of, refuse_if
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.sources.image_files import FrameSource, ImageFrames, Size
from rvos_lightning.data.sources.packed import Packed
from rvos_lightning.data.sources.rle_store import RleStore

Masks = tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]]


class MaskSource(ABC):
    """Where the truth of a split lies."""

    @abstractmethod
    def read(self, video: Video, item: Item, positions: Sequence[int], size: Size) -> Masks:
        """Union of the item's objects, and which frames are annotated, at distinct ascending positions.

        Raises:
            DataError: a mask is missing, unreadable, or not of the frames' `size`.
        """

    def read_all(self, video: Video, items: Sequence[Item], positions: Sequence[int], size: Size) -> list[Masks]:
        """`read` of several items of a video; a source whose items share files decodes each file once."""
        return [self.read(video, item, positions, size) for item in items]

    def void(self, video: Video, positions: Sequence[int], size: Size) -> Bool[Tensor, "time height width"]:
        """Pixels nobody is scored on."""
        return torch.zeros(len(positions), *size, dtype=torch.bool)

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"] | None:
        """Frames that show the item, as far as known without decoding a mask."""
        return None

    def missing(self, video: Video) -> list[str]:
        """Mask files that a video should have and has not."""
        return []

    def counted(self, video: Video) -> int | None:
        """Number of a video's mask files where frames need none, so that a lost one is not missed; else None."""
        return None

    def check_video(self, video: Video, items: Sequence[Item], size: Size, fast: bool) -> Iterator[Problem]:
        """What is wrong with the masks of a video; reads names and the first mask only if `fast`, else all of them."""
        blocks = ("train", "validate")
        lost = self.missing(video)
        if lost:
            what = f"{len(lost)} of {len(video.frames)} masks missing, the first: {lost[0]}"
            yield Problem(f"video {video.id}", what, "Unpack the masks again.", blocks)
            return
        for item in items[:1] if fast else items:
            try:
                masks, annotated = self.read(video, item, range(1 if fast else len(video.frames)), size)
            except DataError as error:
                yield Problem(f"video {video.id}, item {item.id}", str(error), "", blocks)
                continue
            if not fast and item.objects and not bool(masks[annotated].any()):
                remedy = "Leave it out, or find the release whose annotation shows it."
                what = f"objects {list(item.objects)} are on no annotated frame"
                yield Problem(f"video {video.id}, item {item.id}", what, remedy)


class FileReader(Reader):
    """A split on disk.

    Attributes:
        frames: where frames are read.
        truth: where masks are read; None for a hidden split.
        files: annotation files the split was read from, for digests.
    """

    def __init__(
        self,
        name: str,
        split: str,
        videos: Iterable[Video],
        items: Iterable[Item],
        frames: FrameSource,
        truth: MaskSource | None = None,
        files: Sequence[object] = (),
    ) -> None:
        """Packs videos and items; sub-classes do the parsing and refuse what is broken.

        Outside training the size of every video is looked up, so that small ones can be evaluated in memory.
        """
        self.name, self.split, self.frames, self.truth = name, split, frames, truth
        videos = list(videos)
        refuse_if(
            Problem(
                f"video {video.id}", f"{name} {split} lists it, but it has no frames", "Unpack them.", blocks_of(split)
            )
            for video in videos
            if not video.frames
        )
        known = list(videos) if split.startswith("train") else _measured(list(videos), frames)
        self.videos: Sequence[Video] = Packed(Video, known)
        self.items: Sequence[Item] = Packed(Item, items)
        self.files = tuple(files)

    def read_frames(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `Reader.read_frames`; a repeated position is decoded once."""
        record = self.videos[video]
        distinct, back = self._distinct(record, positions)
        frames = self.frames.read(record, distinct)
        return frames if back is None else frames[back]

    def read_masks(self, item: int, positions: Sequence[int]) -> Masks | None:
        """See `Reader.read_masks`; a repeated position is decoded once."""
        return self.read_masks_of([item], positions)[0]

    def read_masks_of(self, items: Sequence[int], positions: Sequence[int]) -> list[Masks | None]:
        """See `Reader.read_masks_of`; a repeated position is decoded once."""
        found: list[Masks | None] = [None] * len(items)
        if self.truth is None:
            return found
        together: dict[int, dict[int, Item]] = {}
        for place, item in enumerate(self.items[index] for index in items):
            if item.objects is not None:
                together.setdefault(item.video, {})[place] = item
        for number, own in together.items():
            video = self.videos[number]
            distinct, back = self._distinct(video, positions)
            truths = self.truth.read_all(video, list(own.values()), distinct, self.size(number))
            for place, (masks, annotated) in zip(own, truths, strict=True):
                found[place] = (masks, annotated) if back is None else (masks[back], annotated[back])
        return found

    def read_instances(self, item: int, positions: Sequence[int]) -> Bool[Tensor, "objects time height width"] | None:
        """See `Reader.read_instances`."""
        wanted = self.items[item]
        if self.truth is None or wanted.objects is None or len(wanted.objects) < 2:
            return super().read_instances(item, positions)
        video, size = self.videos[wanted.video], self.size(wanted.video)
        distinct, back = self._distinct(video, positions)
        single = (replace(wanted, objects=(each,)) for each in wanted.objects)
        masks = torch.stack([self.truth.read(video, each, distinct, size)[0] for each in single])
        return masks if back is None else masks[:, back]

    def read_beside(self, name: str, item: int, positions: Sequence[int]) -> Tensor:
        """See `Reader.read_beside`."""
        if name != "void" or self.truth is None:
            return super().read_beside(name, item, positions)
        video = self.items[item].video
        return self.truth.void(self.videos[video], positions, self.size(video))

    def visible(self, item: int) -> Bool[Tensor, "frames"] | None:
        """See `Reader.visible`."""
        wanted = self.items[item]
        if self.truth is None or wanted.objects is None:
            return None
        seen = self.truth.visible(self.videos[wanted.video], wanted)
        return None if seen is None else torch.from_numpy(np.ascontiguousarray(seen))

    def size(self, video: int) -> Size:
        """(height, width) of a video's frames; the first frame's header is read once a process where needed."""
        known = self._sizes[video]
        if not known[0]:
            known[:] = self.frames.size(self.videos[video])
        return int(known[0]), int(known[1])

    @cached_property
    def _sizes(self) -> Int32[np.ndarray, "videos 2"]:
        return np.zeros((len(self.videos), 2), np.int32)

    def _distinct(self, video: Video, positions: Sequence[int]) -> tuple[list[int], list[int] | None]:
        """Ascending positions without repeats, and where each asked-for one is among them (None: as asked)."""
        asked = [int(position) for position in positions]
        if asked and not (0 <= min(asked) and max(asked) < len(video.frames)):
            raise DataError(
                f"{self.name} {self.split}, video {video.id}: positions {asked} of {len(video.frames)} frames."
            )
        distinct = sorted(set(asked))
        if distinct == asked:
            return asked, None
        places = {position: index for index, position in enumerate(distinct)}
        return distinct, [places[position] for position in asked]


def _measured(videos: list[Video], frames: FrameSource) -> list[Video]:
    """Videos with the size that their first frame's header tells; unknown where that is missing or a video file."""

    def measured(video: Video) -> Video:
        try:
            return replace(video, size=frames.size(video)) if video.size is None and video.frames else video
        except DataError:  # reading it says what is wrong, and so does the doctor
            return video

    if not isinstance(frames, ImageFrames):
        return videos
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(measured, videos))


class StoredMasks(MaskSource):
    """Truth in an `RleStore`; an item's objects are keys of it."""

    def __init__(self, store: RleStore, key: str = "{object}") -> None:
        """`key` turns object and video ids into keys of the store."""
        self.store, self.key = store, key

    def rows(self, video: Video, item: Item) -> list[int]:
        """Rows of the store that an item means."""
        keys = [self.key.format(object=each, video=video.id) for each in item.objects or ()]
        rows = self.store.rows(keys)
        if (rows < 0).any():
            lost = keys[int(np.flatnonzero(rows < 0)[0])]
            raise DataError(f"video {video.id}, item {item.id}: annotation {lost} is not in {self.store.path}.")
        return rows.tolist()

    def read(self, video: Video, item: Item, positions: Sequence[int], size: Size) -> Masks:
        """See `MaskSource.read`; every frame counts as annotated, null means absent."""
        from rvos_lightning.data.sources.rle import union_into

        rows = self.rows(video, item)
        for found in self.store.sizes(np.array(rows, np.int64)).tolist():
            if tuple(found) not in (size, (0, 0)):
                raise DataError(misfit(f"video {video.id}, item {item.id}", tuple(found), size))
        masks = np.empty((len(positions), *size), np.uint8)
        for index, position in enumerate(positions):
            union_into(self.store.masks(rows, position), masks[index])
        return torch.from_numpy(masks).view(torch.bool), torch.ones(len(positions), dtype=torch.bool)

    def visible(self, video: Video, item: Item) -> Bool[np.ndarray, "frames"] | None:
        """See `MaskSource.visible`."""
        rows = self.rows(video, item)
        return self.store.seen(rows) if rows else np.zeros(len(video.frames), bool)

    def check_video(self, video: Video, items: Sequence[Item], size: Size, fast: bool) -> Iterator[Problem]:
        """See `MaskSource.check_video`; the store's tables answer everything."""
        for item in items:
            place, rows = f"video {video.id}, item {item.id}", self.rows(video, item)
            for found in {tuple(each) for each in self.store.sizes(np.array(rows, np.int64)).tolist()}:
                if found not in (size, (0, 0)):
                    yield Problem(place, misfit("its mask", found, size), "", ("train", "validate"))
            if rows and not self.store.seen(rows).any():
                remedy = "Training skips it; scores count it as empty."
                yield Problem(place, f"annotations {list(item.objects or ())} are absent from every frame", remedy)


def misfit(place: str, mask: Size, frame: Size) -> str:
    """The words for a mask that does not fit its frame."""
    return (
        f"{place}: the mask has {mask[0]}x{mask[1]} pixels (height x width), the frame {frame[0]}x{frame[1]}. "
        "Frames and annotations come from different releases, or one was resized."
    )
