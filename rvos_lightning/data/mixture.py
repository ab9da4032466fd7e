"""Several data sets as one, in given proportions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from rvos_lightning.core.types import Batch
from rvos_lightning.data.clips.clips import EvaluationBatches, TrainClips
from rvos_lightning.data.clips.sampler import Draw, ResumableLoader, rank_and_world
from rvos_lightning.data.clips.transforms import ClipSample
from rvos_lightning.data.module import Split, VideoDataModule
from rvos_lightning.data.reader import DataError, Reader
from rvos_lightning.metrics.rows import FrameRows


class MixedClips(Dataset):
    """Training clips of several data sets; which one an index draws from follows from (seed, epoch) alone.

    Within an epoch each data set hands out its samples in a random order of its own, none twice before all were used.

    Args:
        clips: the data sets.
        weights: their shares.
        length: samples in an epoch.
        together: so many consecutive indices come from one data set (a batch over all ranks).
        seed: of the choice.
    """

    def __init__(
        self, clips: Sequence[TrainClips], weights: Sequence[float], length: int, together: int, seed: int
    ) -> None:
        self.clips, self.length, self.together, self.seed = list(clips), length, together, seed
        self.shares = np.asarray(weights, dtype=float) / sum(weights)
        self._plan = lru_cache(maxsize=2)(self._assign)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plan = lru_cache(maxsize=2)(self._assign)

    def __len__(self) -> int:
        return self.length

    def _assign(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Data set and sample of every index of an epoch."""
        random = np.random.default_rng((self.seed, epoch))
        groups = -(-self.length // self.together)
        which = np.repeat(random.choice(len(self.clips), size=groups, p=self.shares), self.together)[: self.length]
        sample = np.zeros(self.length, dtype=np.int64)
        for number, clips in enumerate(self.clips):
            mine = which == number
            rounds = [random.permutation(len(clips)) for _ in range(-(-int(mine.sum()) // len(clips)))]
            sample[mine] = np.concatenate([np.zeros(0, np.int64), *rounds])[: mine.sum()]
        return which, sample

    def __getitem__(self, draw: Draw) -> ClipSample:
        which, sample = self._plan(draw.epoch)
        clips = self.clips[which[draw.index]]
        # The round number makes the clip of a sample drawn twice in an epoch another one.
        return clips[Draw(draw.epoch, int(sample[draw.index]) + len(clips) * draw.index, draw.batch_seed)]


class Several(Dataset):
    """Evaluation batches of several data sets, one after the other."""

    def __init__(self, parts: Sequence[EvaluationBatches]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Batch:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - int(self.ends[part - 1] if part else 0)]

    @property
    def costs(self) -> list[float]:
        """See `EvaluationBatches.costs`."""
        return [cost for part in self.parts for cost in part.costs]

    @property
    def lazy(self) -> bool:
        """See `EvaluationBatches.lazy`."""
        return any(part.lazy for part in self.parts)


class Mixture(VideoDataModule):
    """Trains on several data sets in given proportions; each keeps its own clip length, size, rules and augmentation.

    Of the arguments it shares with every data module, batch size, simulated user, workers and seed are its own; the
    others belong to the sources.

    Args:
        sources: name -> data module.
        weights: name -> share of the training batches; None: in proportion to their numbers of samples.
        epoch_length: training samples in an epoch; None: as many as all sources have.
        one_source_a_batch: a batch, over all ranks, holds clips of one source (sizes and lengths may differ between
            sources); otherwise sources mix inside a batch.
        evaluate: names of the sources to validate, test and predict on; None: all that can.
        kwargs: see `VideoDataModule`.
    """

    def __init__(
        self,
        sources: dict[str, VideoDataModule],
        weights: dict[str, float] | None = None,
        epoch_length: int | None = None,
        one_source_a_batch: bool = True,
        evaluate: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sources, self.weights, self.epoch_length = sources, weights, epoch_length
        self.one_source_a_batch, self.evaluate = one_source_a_batch, evaluate

    def check(self) -> None:
        """Also refuses names that are no source, and weights that leave nothing.

        Raises:
            DataError: names the argument.
        """
        super().check()
        for field, names in (("weights", self.weights or {}), ("evaluate", self.evaluate or [])):
            unknown = sorted(set(names) - set(self.sources))
            if unknown:
                raise DataError(f"data.{field}: {unknown[0]!r} is none of the sources {', '.join(self.sources)}")
        shares = [1.0] if self.weights is None else list(self.weights.values())
        if not self.sources or min(shares, default=0) < 0 or not sum(shares) > 0:
            raise DataError("data.weights: weights must not be negative, and one must be positive")

    def reader(self, split: Split) -> Reader | None:
        """A mixture reads through its sources.

        Raises:
            DataError: always.
        """
        raise DataError("a mixture has no reader of its own: ask its sources")

    def train_clips(self) -> MixedClips:
        """All sources with a positive weight, mixed.

        Raises:
            DataError: one of them has no training split.
        """
        self.check()
        used = [name for name in self.sources if self.weights is None or self.weights.get(name, 0) > 0]
        clips = [self.sources[name].train_clips() for name in used]
        sizes = [len(one) * self.sources[name].repeats for name, one in zip(used, clips, strict=True)]
        weights = sizes if self.weights is None else [self.weights[name] for name in used]
        together = self.batch_size * rank_and_world()[1] if self.one_source_a_batch else 1
        return MixedClips(clips, weights, self.epoch_length or sum(sizes), together, self.seed)

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order the mixture assigned: shuffling again would tear batches of one source apart."""
        clips = self.train_clips()
        return self._training_loader(clips, len(clips), shuffle=False)

    def read(self, split: Split) -> Reader | None:
        """The first source's reader that has the split (whether there is one is all that is asked of a mixture)."""
        self.check()
        readers = (self.sources[name].read(split) for name in self.evaluate or self.sources)
        return next((reader for reader in readers if reader is not None), None)

    def metrics(self, split: Split) -> dict[str, FrameRows]:
        """One metric where all evaluated sources share a protocol, else one a source, as `<score>/<source>`."""
        readers = [self.sources[name].read(split) for name in self.evaluate or self.sources]
        found = {reader.name: reader.protocol() for reader in readers if reader is not None}
        if len({metric.rule for metric in found.values()}) <= 1:
            return {metric.headline: metric for metric in found.values()}
        for name, metric in found.items():
            metric.only = name
        return {f"{metric.headline}_{name}".replace(".", "_"): metric for name, metric in found.items()}

    def evaluation_batches(self, split: Split) -> Several | None:
        """Batches of all evaluated sources that have the split."""
        self.check()
        found = [self.sources[name].evaluation_batches(split) for name in self.evaluate or self.sources]
        parts = [part for part in found if part is not None]
        return Several(parts) if parts else None
