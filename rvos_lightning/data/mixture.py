"""Several data sets as one, in given proportions."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from rvos_lightning.core.types import Batch
from rvos_lightning.data.clips.clips import EvaluationBatches, TrainClips
from rvos_lightning.data.clips.sample import ClipSample
from rvos_lightning.data.clips.sampler import Draw, ResumableLoader, rank_and_world
from rvos_lightning.data.reader import DataError, Reader
from rvos_lightning.data.shared_pictures import Pictures
from rvos_lightning.data.video_data import Split, VideoData
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


def facts_of(data: VideoData, clips: TrainClips | None, judged: Reader | None) -> dict[str, Any]:
    """One data set in a row of the table at the start of a run.

    Args:
        data: the data set.
        clips: what is trained on; None: nothing of it.
        judged: what it is validated on; None: nothing of it.
    """
    train = None if clips is None else data.read("train")
    height, width = data.framing.size
    return {
        "class": type(data).__name__,
        "videos": 0 if train is None else len(train.videos),
        "items": 0 if train is None else len(train.items),
        "samples": 0 if clips is None else len(clips),
        "clip": f"{data.clip_length} x {width}x{height}, {data.framing.resize}",
        "validated on": "-" if judged is None else f"{len(judged.items)} items of {judged.split}, as {judged.name}",
    }


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
    def frames(self) -> list[int]:
        """See `EvaluationBatches.frames`."""
        return [count for part in self.parts for count in part.frames]

    @property
    def costs(self) -> list[float]:
        """See `EvaluationBatches.costs`."""
        return [cost for part in self.parts for cost in part.costs]

    @property
    def lazy(self) -> bool:
        """See `EvaluationBatches.lazy`."""
        return any(part.lazy for part in self.parts)


class Mixture(VideoData):
    """Trains on several data sets in given proportions; each keeps its own clip length, size, rules and augmentation.

    Of the arguments it shares with every data module, batch size, simulated user, workers, seed and what to do about
    shared pictures are its own; the others belong to the sources.

    Args:
        sources: name -> data module.
        weights: name -> share of the training batches; None: in proportion to their numbers of samples.
        epoch_length: training samples in an epoch; None: as many as all sources have.
        one_source_a_batch: a batch, over all ranks, holds clips of one source (sizes and lengths may differ between
            sources); otherwise sources mix inside a batch.
        evaluate: names of the sources to validate, test and predict on; None: all that can.
        kwargs: see `VideoData`.
    """

    def __init__(
        self,
        sources: dict[str, VideoData],
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

    @property
    def trained(self) -> list[str]:
        """Names of the sources with a positive weight."""
        return [name for name in self.sources if self.weights is None or self.weights.get(name, 0) > 0]

    def judged_pictures(self) -> list[Pictures]:
        """Those of all sources."""
        return [each for source in self.sources.values() for each in source.judged_pictures()]

    def pictures(self, split: Split) -> list[Pictures]:
        """Those of the sources that are trained on, or evaluated."""
        names = self.trained if split == "train" else self.evaluate or self.sources
        return [each for name in names for each in self.sources[name].pictures(split)]

    def keep_out(self) -> None:
        """No source is trained on what another is scored with."""
        super().keep_out()
        for source in self.sources.values():
            source.kept_out |= self.kept_out

    def train_clips(self) -> MixedClips:
        """All sources with a positive weight, mixed.

        Raises:
            DataError: one of them has no training split.
        """
        self.check()
        self.keep_out()
        clips = {name: self.sources[name].train_clips() for name in self.trained}
        sizes = [len(one) * self.sources[name].repeats for name, one in clips.items()]
        weights = sizes if self.weights is None else [self.weights[name] for name in clips]
        together = self.batch_size * rank_and_world()[1] if self.one_source_a_batch else 1
        return MixedClips(list(clips.values()), weights, self.epoch_length or sum(sizes), together, self.seed)

    def train_dataloader(self, trainer: Any = None) -> ResumableLoader:
        """Batches in the order the mixture assigned: shuffling again would tear batches of one source apart."""
        clips = self.train_clips()
        return self._training_loader(clips, len(clips), shuffle=False, trainer=trainer)

    def read(self, split: Split) -> Reader | None:
        """The first source's reader that has the split (whether there is one is all that is asked of a mixture)."""
        self.check()
        return next(iter(self.evaluated(split).values()), None)

    def evaluated(self, split: Split) -> dict[str, Reader]:
        """Readers of the evaluated sources that have the split, by source.

        Two of one name (two folders of one's own, say) take their sources' names, so that their scores stay apart.
        """
        names = self.evaluate or self.sources
        found = {name: reader for name in names if (reader := self.sources[name].read(split)) is not None}
        counts = Counter(reader.name for reader in found.values())
        for name, reader in found.items():
            if counts[reader.name] > 1:
                reader.name = name
        return found

    def metrics(self, split: Split) -> dict[str, FrameRows]:
        """One metric where all evaluated sources share a protocol, else one a source; scores as `<score>/<source>`.

        A shared one also averages over all sources together.
        """
        found = {reader.name: reader.protocol() for reader in self.evaluated(split).values()}
        if len({metric.rule for metric in found.values()}) <= 1:
            for metric in found.values():
                metric.by_source = len(found) > 1
            return {metric.headline: metric for metric in found.values()}
        for name, metric in found.items():
            metric.only = name
        return {f"{metric.headline}_{name}".replace(".", "_"): metric for name, metric in found.items()}

    def shares(self) -> dict[str, dict[str, Any]]:
        """What each source gives: training samples, its share of an epoch, and what of it is validated on."""
        mixed = self.train_clips()
        names = self.evaluate or self.sources
        judged = {name: reader for name in names if (reader := self.sources[name].opened("val")) is not None}
        rows = {}
        for name in self.sources:
            place = self.trained.index(name) if name in self.trained else None
            rows[name] = facts_of(self.sources[name], None if place is None else mixed.clips[place], judged.get(name))
            rows[name]["share"] = 0.0 if place is None else float(mixed.shares[place])
            rows[name]["samples an epoch"] = round(rows[name]["share"] * len(mixed))
        return rows

    def evaluation_batches(self, split: Split) -> Several | None:
        """Batches of all evaluated sources that have the split."""
        self.check()
        found = [self.sources[name].evaluation_batches(split) for name in self.evaluated(split)]
        parts = [part for part in found if part is not None]
        return Several(parts) if parts else None
