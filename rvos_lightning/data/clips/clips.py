"""From a `Reader` to training clips and evaluation batches: map-style data sets for the two loaders."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rvos_lightning.core.types import Batch, Clip, ClipMeta
from rvos_lightning.data.clips.collate import check_expressions
from rvos_lightning.data.clips.resizing import Resize, fit_size, resize_frames, resize_masks
from rvos_lightning.data.clips.sample import Augmentation, ClipSample
from rvos_lightning.data.clips.sampler import Draw
from rvos_lightning.data.clips.sampling import ClipSampling, uniform_positions
from rvos_lightning.data.clips.users import UserFactory, one_seed
from rvos_lightning.data.reader import DataError, Reader
from rvos_lightning.data.sources.frames import LazyFrames, lazy_targets

REDRAWS = 20
"""How often an item that is nowhere visible in its clip is replaced by another, before it is used as it is."""


@dataclass(frozen=True)
class Framing:
    """How pictures are brought to the network's size, and which context frames go with a clip.

    Attributes:
        size: (height, width) in pixels; see `transforms.Resize` for what it bounds.
        resize: the rule.
        context_frames: number of context frames; None for none.
        context: "first" frames of the video, or "uniform" over it, first and last included.
    """

    size: tuple[int, int]
    resize: Resize = "letterbox"
    context_frames: int | None = None
    context: str = "uniform"

    def context_positions(self, frames: int) -> list[int]:
        """Positions of the context frames in a video of `frames` frames; a short video repeats frames."""
        if self.context_frames is None:
            return []
        if self.context == "uniform":
            return uniform_positions(frames, self.context_frames)
        return [min(i, frames - 1) for i in range(self.context_frames)]


class Units:
    """What an epoch consists of: (video, group of its items, anchor), numbered 0, 1, ...

    Args:
        reader: the split.
        videos: use only the first so many videos.
        items: items of one video that share a clip. Groups are drawn anew in each epoch.
        repeat_items: a video is one unit with exactly `items` items drawn with replacement (Sa2VA).
        anchor_stride: a unit for every so manieth frame of a video (SAMWISE: the clip length); None: one random anchor.
        without: videos that are left out.
    """

    def __init__(
        self,
        reader: Reader,
        videos: int | None,
        items: int,
        repeat_items: bool,
        anchor_stride: int | None,
        without: Sequence[int] = (),
    ) -> None:
        of_video = reader.item_videos()
        videos = min(len(reader.videos), videos or len(reader.videos))
        self.order = np.argsort(of_video, kind="stable")
        self.starts = np.searchsorted(of_video[self.order], np.arange(videos + 1))
        counts = np.diff(self.starts)
        counts[[video for video in without if video < videos]] = 0
        self.items, self.repeat_items, self.anchor_stride = items, repeat_items, anchor_stride
        groups = np.minimum(counts, 1) if repeat_items else -(-counts // items)
        self.anchors = np.ones(videos, dtype=np.int64)
        if anchor_stride is not None:
            lengths = np.array([len(reader.videos[v].frames) for v in range(videos)])
            self.anchors = -(-lengths // anchor_stride)
        self.ends = np.cumsum(groups * self.anchors)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def pick(self, unit: int, seed: tuple[int, int], random: np.random.Generator) -> tuple[int, list[int], int | None]:
        """Video, items and anchor (None: the caller draws one) of a unit; groups follow from `seed` (and epoch)."""
        video = int(np.searchsorted(self.ends, unit, side="right"))
        group, anchor = divmod(unit - int(self.ends[video - 1] if video else 0), int(self.anchors[video]))
        own = self.order[self.starts[video] : self.starts[video + 1]]
        if self.repeat_items:
            chosen = random.choice(own, size=self.items)
        elif self.items == 1:
            chosen = own[group : group + 1]
        else:
            shuffled = np.random.default_rng((*seed, video)).permutation(own)
            chosen = shuffled[group * self.items : (group + 1) * self.items]
        return video, [int(i) for i in chosen], None if self.anchor_stride is None else anchor * self.anchor_stride


@dataclass
class TrainClips(Dataset):
    """Training clips; every random choice follows from (seed, epoch, index).

    Attributes:
        length: frames in a clip.
        redraw: replace a clip in which none of its objects is visible by another (no-target items are kept).
        separate: also give the objects of every item one by one.
    """

    reader: Reader
    units: Units
    sampling: ClipSampling
    framing: Framing
    length: int
    augment: list[Augmentation] = field(default_factory=list)
    seed: int = 0
    redraw: bool = True
    separate: bool = False

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, draw: Draw) -> ClipSample:
        seed = (self.seed, draw.epoch, draw.index)
        random = np.random.default_rng(seed)
        unit = draw.index % len(self.units)
        for _ in range(REDRAWS):
            sample = self._make(unit, draw.epoch, random)
            if not self.redraw or self._usable(sample):
                break
            unit = int(random.integers(len(self.units)))
        sample.seed, sample.batch_seed = seed, draw.batch_seed
        return sample

    def _usable(self, sample: ClipSample) -> bool:
        frames = zip(sample.masks.flatten(0, 1), sample.annotated.flatten(), strict=True)  # the first decides, mostly
        return sample.no_target or any(bool(known) and bool(mask.any()) for mask, known in frames)

    def _make(self, unit: int, epoch: int, random: np.random.Generator) -> ClipSample:
        video, items, anchor = self.units.pick(unit, (self.seed, epoch), random)
        frames = len(self.reader.videos[video].frames)
        if anchor is None:
            anchor = self._anchor(items[0], frames, random)
        sample = self.read(video, items, self.sampling(frames, self.length, anchor, random))
        for augmentation in self.augment:
            sample = augmentation(sample, random)
        return sample

    def _anchor(self, item: int, frames: int, random: np.random.Generator) -> int:
        visible = self.reader.visible(item)
        seen = None if visible is None else torch.nonzero(visible)[:, 0]
        if seen is None or not len(seen):
            return int(random.integers(frames))
        return int(seen[int(random.integers(len(seen)))])

    def read(self, video: int, items: Sequence[int], positions: Sequence[int]) -> ClipSample:
        """Frames and masks at `positions`, each frame read once however often it occurs.

        Raises:
            DataError: an item has no truth, or its mask is not of its frame's size.
        """
        unique, where = np.unique(np.asarray(positions), return_inverse=True)
        repeated = len(unique) < len(where) or (where[1:] < where[:-1]).any()
        at = torch.from_numpy(where) if repeated else slice(None)
        frames = self.reader.read_frames(video, [int(p) for p in unique])
        truths = self.reader.read_masks_of(items, [int(p) for p in unique])
        truths = [self._truth(*each, frames.shape[-2:]) for each in zip(items, truths, strict=True)]
        original = (int(frames.shape[-2]), int(frames.shape[-1]))
        size = fit_size(original, self.framing.size, self.framing.resize)
        context = None
        if where_context := self.framing.context_positions(len(self.reader.videos[video].frames)):
            context = resize_frames(self.reader.read_frames(video, where_context), size)
        objects = [self.reader.read_instances(i, [int(p) for p in unique]) for i in items] if self.separate else None
        return ClipSample(
            instances=None if objects is None else resize_masks(torch.cat(objects), size)[:, at],
            instance_item=[i for i, own in enumerate(objects or ()) for _ in own],
            frames=resize_frames(frames, size)[at],
            masks=torch.stack([resize_masks(masks, size) for masks, _ in truths])[:, at],
            annotated=torch.stack([annotated for _, annotated in truths])[:, at],
            expressions=[self.reader.items[i].expression for i in items],
            meta=[describe(self.reader, i, positions, size, original) for i in items],
            context=context,
            context_positions=tuple(where_context),
            no_target=any(self.reader.items[i].no_target for i in items),
        )

    def _truth(self, item: int, truth: tuple[Tensor, Tensor] | None, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        what = f"{self.reader.name} {self.reader.split}: item {self.reader.items[item].id!r} of video " + repr(
            self.reader.videos[self.reader.items[item].video].id
        )
        if truth is None:
            raise DataError(
                f"{what} has no masks: its truth is hidden, so it cannot be trained on; choose another split"
            )
        if tuple(truth[0].shape[-2:]) != tuple(size):
            raise DataError(
                f"{what}: mask of {truth[0].shape[-1]}x{truth[0].shape[-2]} pixels on a frame of {size[1]}x{size[0]}: "
                "correct the file or leave the video out"
            )
        return truth


def describe(
    reader: Reader,
    item: int,
    positions: Sequence[int],
    size: tuple[int, int],
    original: tuple[int, int],
) -> ClipMeta:
    """What a `Clip` says of one item besides pixels."""
    entry = reader.items[item]
    video = reader.videos[entry.video]
    return ClipMeta(
        video=video.id,
        item=entry.id,
        frames=tuple(video.frames[p] for p in positions),
        size=size,
        original_size=original,
        positions=tuple(positions),
        source=reader.name,
        subsets=entry.subsets,
        facts=entry.facts,
        no_target=entry.no_target,
        objects=entry.objects,
    )


@dataclass(frozen=True)
class Share:
    """One evaluation batch: some videos of equal length, each with some of its items."""

    videos: tuple[int, ...]
    items: tuple[tuple[int, ...], ...]
    lazy: bool


def plan_evaluation(
    reader: Reader, videos: int | None, batch: int, items: int | None, pixels: int, done: Container[int] = ()
) -> list[Share]:
    """Cut a split into batches.

    Args:
        videos: only the first so many.
        batch: videos in a batch, where neighbours have equal size and length and are small.
        items: at most so many items of a video in a batch; None for all.
        pixels: a video of more pixels in all is read lazily and alone.
        done: numbers of videos that are left out.
    """
    of_video = reader.item_videos()
    order = np.argsort(of_video, kind="stable")
    starts = np.searchsorted(of_video[order], np.arange(len(reader.videos) + 1))
    shares: list[Share] = []
    last_key = None
    for v in range(min(len(reader.videos), videos or len(reader.videos))):
        if v in done:
            continue
        own = [int(i) for i in order[starts[v] : starts[v + 1]]]
        video = reader.videos[v]
        key = (len(video.frames), video.size)
        lazy = video.size is None or len(video.frames) * video.size[0] * video.size[1] > pixels
        for first in range(0, len(own), items or len(own) or 1):
            chunk = tuple(own[first : first + (items or len(own))])
            last = shares[-1] if shares else None
            if last is not None and not lazy and not last.lazy and key == last_key and len(last.videos) < batch:
                shares[-1] = Share((*last.videos, v), (*last.items, chunk), False)
            else:
                shares.append(Share((v,), (chunk,), lazy))
            last_key = key
    return shares


@dataclass
class EvaluationBatches(Dataset):
    """Whole videos with all their items, frames lazy where long, targets at original size."""

    reader: Reader
    shares: list[Share]
    framing: Framing
    user: UserFactory | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.shares)

    @property
    def costs(self) -> list[float]:
        """Relative cost of each batch: frames, and frames times items."""
        lengths = [len(self.reader.videos[share.videos[0]].frames) for share in self.shares]
        return [n * sum(1.0 + len(own) for own in s.items) for n, s in zip(lengths, self.shares, strict=True)]

    @property
    def frames(self) -> list[int]:
        """Frames of each batch, once for all its items."""
        return [len(s.videos) * len(self.reader.videos[s.videos[0]].frames) for s in self.shares]

    @property
    def lazy(self) -> bool:
        """Whether any batch is read window by window."""
        return any(share.lazy for share in self.shares)

    def __getitem__(self, index: int) -> Batch:
        share = self.shares[index]
        originals = [self._original(v) for v in share.videos]
        sizes = [fit_size(size, self.framing.size, self.framing.resize) for size in originals]
        frames = LazyFrames(self.reader, share.videos, sizes)
        items = [i for own in share.items for i in own]
        targets = None
        if all(self.reader.items[i].objects is not None for i in items):
            size = (max(h for h, _ in originals), max(w for _, w in originals))
            targets = lazy_targets(self.reader, items, size)
        video = torch.repeat_interleave(
            torch.arange(len(share.videos)), torch.tensor([len(own) for own in share.items])
        )
        everything = range(frames.shape[1])
        meta = [
            describe(self.reader, i, everything, sizes[v], originals[v])
            for v, own in enumerate(share.items)
            for i in own
        ]
        where = tuple(self.framing.context_positions(frames.shape[1]))
        context = torch.cat([frames[:, p : p + 1] for p in where], 1) if where else None
        frames.ahead = share.lazy
        if not share.lazy:
            frames, targets = frames[:, :], None if targets is None else targets.window(0, len(everything))
        user = None
        if self.user is not None and (targets is not None or not self.user.needs_targets):
            user = self.user.evaluation(targets, meta, one_seed((self.seed, index)))
        texts = check_expressions([self.reader.items[i].expression for i in items], meta, user is not None)
        stated = (where,) * len(share.videos) if where else None
        return Batch(Clip(frames, video, texts, meta, user, context, context_positions=stated), targets)

    def _original(self, video: int) -> tuple[int, int]:
        size = self.reader.videos[video].size
        if size is None:
            height, width = self.reader.read_frames(video, [0]).shape[-2:]
            size = (int(height), int(width))
        return size
