"""What all data sets share: a subclass names its reader, everything else happens here; knows nothing of Lightning."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from torch.utils.data import Dataset

from rvos_lightning.data.clips.centred import CentredItems
from rvos_lightning.data.clips.clips import EvaluationBatches, Framing, TrainClips, Units, plan_evaluation
from rvos_lightning.data.clips.collate import Collate
from rvos_lightning.data.clips.resizing import Resize
from rvos_lightning.data.clips.sample import Augmentation
from rvos_lightning.data.clips.sampler import (
    DrawSampler,
    EvaluationLoader,
    PredictionLoader,
    ResumableLoader,
    ShareSampler,
)
from rvos_lightning.data.clips.sampling import ClipSampling, Contiguous
from rvos_lightning.data.clips.shuffled import ShuffledExpressions
from rvos_lightning.data.clips.users import UserFactory
from rvos_lightning.data.reader import DataError, Reader
from rvos_lightning.data.shared_pictures import Pictures, Rule, ids_of
from rvos_lightning.metrics.rows import FrameRows

Split = Literal["train", "val", "test", "predict"]


class VideoData(ABC):
    """Training clips and evaluation videos of any `Reader`; the trainer needs `use_distributed_sampler: false`.

    Args:
        batch_size: videos in a training batch.
        items_per_video: expressions or objects of one video that share its clip in training.
        repeat_items: each video is one training sample with exactly `items_per_video` items drawn with replacement.
        clip_length: frames in a training clip.
        size: pixels (side, or height and width) that pictures are resized to; see `resize`.
        resize: "letterbox" (aspect kept, padded right and bottom), "short_side" (size = short side, most for the
            long side), or "squash".
        sampling: which frames make up a training clip.
        anchor_stride: a training sample for every so manieth frame of each item; None: one random anchor.
        augment: random changes of training clips, in order, after resizing.
        redraw: replace a training clip in which nothing is visible (no-target items stay).
        separate_objects: training targets also hold the objects of every sentence one by one, for losses that match
            queries with them; not together with `augment`.
        context_frames: frames from the whole video that go along as `Clip.context`; None for none.
        context: "uniform" over the video, or its "first" frames.
        repeats: how often an epoch goes over the training samples, each time with other clips.
        eval_size: as `size`, in evaluation; None: the same (likewise `eval_resize`).
        eval_resize: as `resize`, in evaluation.
        eval_batch_size: videos in an evaluation batch, where they are small and equal in size and length.
        items_per_video_eval: at most so many items of a video in an evaluation batch; None for all. Protocols that
            compare the objects of a video with each other (DAVIS, YouTube-VOS, MOSE, Ref-DAVIS17) always get all.
        around: in evaluation, every item is a clip of so many frames around the one that its sentence was written for
            (A2D, JHMDB); None: the whole video.
        in_memory_pixels: in evaluation, longer videos (frames x height x width) are read window by window.
        limit: use only the first so many videos of each split.
        simulate_user: makes the user who prompts objects and corrects masks, for promptable systems.
        workers: loader processes in training.
        seed: with epoch and index it decides order, clips and augmentation.
        shuffle: False trains in file order.
        shuffle_expressions: evaluate with the sentences of other videos, as a control: a network that listens to
            the words must score far lower.
        shared_pictures: RefCOCO and its relatives share pictures, so that one may be in a training split here and in a
            validation or test split there. "refuse" to train on such, or to score with weights that were; "leave_out"
            of training whatever is in such a split of the data set (of a mixture: of any source); or "allow" it,
            which reports then say.
    """

    def __init__(
        self,
        batch_size: int = 4,
        items_per_video: int = 1,
        repeat_items: bool = False,
        clip_length: int = 8,
        size: int | tuple[int, int] = 384,
        resize: Resize = "letterbox",
        sampling: ClipSampling | None = None,
        anchor_stride: int | None = None,
        augment: list[Augmentation] | None = None,
        redraw: bool = True,
        separate_objects: bool = False,
        context_frames: int | None = None,
        context: Literal["uniform", "first"] = "uniform",
        repeats: int = 1,
        eval_size: int | tuple[int, int] | None = None,
        eval_resize: Resize | None = None,
        eval_batch_size: int = 1,
        items_per_video_eval: int | None = 16,
        around: int | None = None,
        in_memory_pixels: int = 2**23,
        limit: int | None = None,
        simulate_user: UserFactory | None = None,
        workers: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_expressions: bool = False,
        shared_pictures: Rule = "refuse",
    ) -> None:
        self.batch_size, self.clip_length, self.eval_batch_size = batch_size, clip_length, eval_batch_size
        self.items_per_video, self.repeat_items, self.anchor_stride = items_per_video, repeat_items, anchor_stride
        self.framing = Framing(_pair(size), resize, context_frames, context)
        self.eval_framing = replace(
            self.framing,
            size=self.framing.size if eval_size is None else _pair(eval_size),
            resize=eval_resize or resize,
        )
        self.repeats = repeats
        self.sampling = sampling or Contiguous()
        self.augment, self.redraw, self.shuffle = augment or [], redraw, shuffle
        self.items_per_video_eval, self.in_memory_pixels, self.limit = items_per_video_eval, in_memory_pixels, limit
        self.separate_objects, self.around = separate_objects, around
        self.simulate_user, self.workers, self.seed = simulate_user, workers, seed
        self.shuffle_expressions, self.shared_pictures = shuffle_expressions, shared_pictures
        self.kept_out: frozenset[int] = frozenset()  # COCO pictures never trained on
        self.leave_out: Callable[[Reader], frozenset[int]] | None = None  # prediction: videos that are done
        self._readers: dict[str, Reader | None] = {}

    @abstractmethod
    def reader(self, split: Split) -> Reader | None:
        """The reader of a split; None where the data set has none. Called once a split and process."""

    def check(self) -> None:
        """Refuse arguments that cannot be meant.

        Not in the constructor: what is raised there reaches the command line as a page about types.

        Raises:
            DataError: names the argument.
        """
        counts = {"batch_size": self.batch_size, "items_per_video": self.items_per_video, "repeats": self.repeats}
        counts |= {"clip_length": self.clip_length, "eval_batch_size": self.eval_batch_size}
        if self.separate_objects and self.augment:
            raise DataError("data.separate_objects: augmentation does not change single objects; remove data.augment")
        for name, sides in (("size", self.framing.size), ("eval_size", self.eval_framing.size)):
            counts[name] = min(sides)
        counts |= {} if self.around is None else {"around": self.around}
        for name, value in counts.items():
            if value < 1:
                raise DataError(f"data.{name} is {value}; it must be at least 1")

    def read(self, split: Split) -> Reader | None:
        """The reader of a split, built on first use."""
        if split not in self._readers:
            self.check()
            reader = self.reader(split)
            if reader is not None and self.around is not None and split != "train":
                reader = CentredItems(reader, self.around)
            if reader is not None and self.shuffle_expressions and split in ("val", "test"):
                reader = ShuffledExpressions(reader, self.seed)
            self._readers[split] = reader
        return self._readers[split]

    def opened(self, split: Split) -> Reader | None:
        """The reader of a split that somebody has asked for before; nothing is opened for this."""
        return self._readers.get(split)

    def metrics(self, split: Split) -> dict[str, FrameRows]:
        """What the papers of a split's data score with, by the score they quote; nothing where truth is hidden."""
        reader = self.read(split)
        metric = None if reader is None else reader.protocol()
        return {} if metric is None else {metric.headline: metric}

    def judged_pictures(self) -> list[Pictures]:
        """COCO pictures of every validation and test split on disk, whether in use or not; nothing is opened."""
        return []

    def pictures(self, split: Split) -> list[Pictures]:
        """COCO pictures that a split is trained on or scored with."""
        reader = self.read(split)
        if reader is None or not reader.pictures:
            return []
        ids = frozenset(reader.pictures[: self.limit])
        return [Pictures(f"{reader.name} {reader.split}", ids - self.kept_out if split == "train" else ids)]

    def keep_out(self) -> None:
        """Make sure that nothing is trained on that may not be."""
        if self.shared_pictures == "leave_out":
            self.kept_out |= ids_of(self.judged_pictures())

    def train_clips(self) -> TrainClips:
        """The training set as it is sampled.

        Raises:
            DataError: the data set has no training split, or all of it is left out.
        """
        reader = self.read("train")
        if reader is None:
            raise DataError(f"{type(self).__name__} has no training split: choose another data set for fit")
        self.keep_out()
        without = [video for video, number in enumerate(reader.pictures) if number in self.kept_out]
        if reader.pictures and len(without) == len(reader.pictures):
            raise DataError(f"data.shared_pictures: every picture of {reader.name} {reader.split} is left out")
        units = Units(reader, self.limit, self.items_per_video, self.repeat_items, self.anchor_stride, without)
        return TrainClips(
            reader, units, self.sampling, self.framing, self.clip_length, self.augment, self.seed, self.redraw,
            self.separate_objects,
        )  # fmt: skip

    def evaluation_batches(self, split: Split) -> EvaluationBatches | None:
        """Whole videos of a split; None where the data set has none."""
        reader = self.read(split)
        if reader is None:
            return None
        done = self.leave_out(reader) if split == "predict" and self.leave_out is not None else frozenset()
        items = None if reader.protocol().id_maps or reader.layout.merged else self.items_per_video_eval
        shares = plan_evaluation(reader, self.limit, self.eval_batch_size, items, self.in_memory_pixels, done)
        return EvaluationBatches(reader, shares, self.eval_framing, self.simulate_user, self.seed)

    def train_dataloader(self, trainer: Any = None) -> ResumableLoader:
        """Batches of clips in an order that resumes exactly; the trainer says where an epoch ends."""
        clips = self.train_clips()
        return self._training_loader(clips, self.repeats * len(clips), self.shuffle, trainer)

    def _training_loader(self, clips: Dataset, length: int, shuffle: bool, trainer: Any) -> ResumableLoader:
        return ResumableLoader(
            clips,
            DrawSampler(length, self.batch_size, self.seed, shuffle),
            self.batch_size,
            trainer=trainer,
            collate_fn=Collate(self.simulate_user),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def _evaluation_loader(self, split: Split) -> Any:
        batches = self.evaluation_batches(split)
        if batches is None:
            return []
        return EvaluationLoader(
            batches,
            ShareSampler(batches.costs),
            batch_size=None,
            # Lazy videos cost nothing to hand out and read ahead in a thread of this process.
            num_workers=0 if batches.lazy else self.workers,
        )

    def val_dataloader(self) -> Any:
        """Whole validation videos, shared out over the ranks without repeats."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> Any:
        """Whole test videos, shared out over the ranks without repeats."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> Any:
        """Whole videos to segment.

        Raises:
            DataError: the data set has nothing to predict on.
        """
        if self.read("predict") is None:
            raise DataError(f"{type(self).__name__} has no split to predict on: use rvos_lightning.data.VideoFiles")
        return PredictionLoader(self._evaluation_loader("predict"))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
