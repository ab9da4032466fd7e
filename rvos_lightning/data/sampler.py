"""Order of samples as a function of (seed, epoch) alone, so that a killed run resumes to the bit.

Training: `DrawSampler` and `ResumableLoader`. Evaluation: `ShareSampler` and `EvaluationLoader`. Both read rank and
world size when iteration starts, hence `use_distributed_sampler: false` in the trainer; both loaders refuse another
sampler with that advice.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler


class Draw(NamedTuple):
    """One training sample to be made; with the seed it decides every random choice of the sample."""

    epoch: int
    index: int


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes, read now."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class DrawSampler(Sampler[Draw]):
    """A permutation of `size` indices drawn from (seed, epoch), cut into batches and dealt to the ranks.

    The tail that does not fill a batch on every rank is dropped; a set smaller than one batch on every rank is
    repeated until it fills one.

    Args:
        size: number of samples in an epoch.
        batch_size: samples a rank takes at a time.
        seed: with the epoch, decides the order.
        shuffle: False keeps the order 0, 1, ... (for overfitting tests).
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        if size < 1:
            raise ValueError("the training set is empty: no sample left to draw from (check split, filters and limit)")
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch; another epoch than the loaded one starts from its first batch."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    @property
    def batches(self) -> int:
        """Batches each rank sees in a whole epoch."""
        return max(1, self.size // (self.batch_size * rank_and_world()[1]))

    def __len__(self) -> int:
        """Samples each rank sees in a whole epoch, skipped ones included."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        rank, world = rank_and_world()
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        order = np.resize(order, self.batches * world * self.batch_size)
        mine = order.reshape(self.batches, world, self.batch_size)[self.skip :, rank].reshape(-1)
        epoch = self.epoch
        return (Draw(epoch, int(index)) for index in mine)


class ResumableLoader(DataLoader):
    """A loader whose place in the epoch is part of Lightning's checkpoints, with and without workers, under DDP.

    The state is the same on every rank, so rank 0's, the one Lightning saves, serves all.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, batch_size: int, **kwargs: Any) -> None:
        if not isinstance(sampler, DrawSampler):
            raise ValueError(
                f"{type(sampler).__name__} was put in place of the resumable sampler: "
                "set `trainer.use_distributed_sampler: false` (the sampler shares samples among ranks by itself)"
            )
        kwargs.pop("drop_last", None)
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, drop_last=True, **kwargs)
        self.place = Draw(0, 0)  # epoch, batches handed out

    def __iter__(self) -> Iterator[Any]:
        # Lightning may call `iter` before `set_epoch`, and workers prefetch from then on: what was started for
        # another epoch than the one that is asked for in the end is thrown away unread.
        epoch, batches = self.sampler.epoch, super().__iter__()
        self.place = Draw(epoch, self.sampler.skip)
        return self._count(epoch, batches)

    def _count(self, epoch: int, batches: Iterator[Any]) -> Iterator[Any]:
        if self.sampler.epoch != epoch:
            batches = super().__iter__()
        self.place = Draw(self.sampler.epoch, self.sampler.skip)
        for batch in batches:
            self.place = Draw(self.place.epoch, self.place.index + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches handed out in it; an epoch that is through counts as the next one's start."""
        epoch, done = self.place
        return {"epoch": epoch + 1, "done": 0} if done >= self.sampler.batches else {"epoch": epoch, "done": done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken; takes effect at the next `iter`."""
        self.sampler.epoch, self.sampler.skip = state["epoch"], state["done"]
        self.place = Draw(state["epoch"], state["done"])


class ShareSampler(Sampler[int]):
    """Deals evaluation batches to the ranks by cost, largest first; none twice, none lost, a rank may get none.

    Args:
        costs: relative cost of every batch (frames x items), the same on all ranks.
    """

    def __init__(self, costs: list[float]) -> None:
        self.costs = costs

    def _mine(self) -> list[int]:
        rank, world = rank_and_world()
        if world == 1:
            return list(range(len(self.costs)))
        load, shares = [0.0] * world, [[] for _ in range(world)]
        for index in sorted(range(len(self.costs)), key=lambda i: (-self.costs[i], i)):
            lightest = min(range(world), key=lambda r: (load[r], r))
            shares[lightest].append(index)
            load[lightest] += self.costs[index]
        return sorted(shares[rank])

    def __len__(self) -> int:
        return len(self._mine())

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine())


class EvaluationLoader(DataLoader):
    """Hands out ready-made batches, one per element of the data set.

    A rank without any batch still reports length 1: Lightning would otherwise skip its whole evaluation, epoch-end
    hooks included, and the other ranks would wait for it for ever in the metrics' gathering.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, **kwargs: Any) -> None:
        if type(sampler).__name__ == "DistributedSampler":
            raise ValueError(
                "DistributedSampler repeats samples to even out ranks: set `trainer.use_distributed_sampler: false`"
            )
        super().__init__(dataset, sampler=sampler, **kwargs)

    def __len__(self) -> int:
        return max(1, len(self.sampler))
