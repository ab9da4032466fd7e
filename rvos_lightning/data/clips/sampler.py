"""Order of samples as a function of (seed, epoch) alone, so that a killed run resumes to the bit.

Training: `DrawSampler` and `ResumableLoader`. Evaluation: `ShareSampler` and `EvaluationLoader`. Both read rank and
world size when iteration starts, hence `use_distributed_sampler: false` in the trainer; both loaders refuse another
sampler with that advice.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler

from rvos_lightning.data.limits import limit, raised_by
from rvos_lightning.data.reader import DataError

PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


class Draw(NamedTuple):
    """One training sample to be made; with the seed it decides every random choice of the sample.

    Attributes:
        epoch: counted from 0.
        index: of the sample.
        batch_seed: the same for all samples of a batch, on every rank.
    """

    epoch: int
    index: int
    batch_seed: tuple[int, ...] = (0,)


class Place(NamedTuple):
    """Where an iteration is or starts: epoch, and batches handed out in it."""

    epoch: int
    done: int


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes, read now."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def leave_signals_to_parent(worker: int) -> None:
    """SLURM signals every process of a job; a worker that obeyed would keep its parent from saving what it has."""
    if "SLURM_JOB_ID" in os.environ:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def begin_worker(worker: int) -> None:
    """What every loader worker does first: leave signals to its parent, and never outlive it, even when stopped."""
    leave_signals_to_parent(worker)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def watched(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; a worker that is stuck is named and ended.

    Raises:
        DataError: no batch came in time; names the workers, their state and the limit.
    """
    try:
        yield from batches
    except RuntimeError as error:
        if "timed out" not in str(error):
            raise
        workers = [child for child in multiprocessing.active_children() if child.daemon]
        states = {child.pid: _state(child.pid) for child in workers}
        for child in workers:
            if states[child.pid] == "stopped":
                child.kill()  # it would obey nothing less, and stay behind
        named = ", ".join(f"{pid} {state}" for pid, state in states.items()) or "none is left"
        raise DataError(
            f"no batch from the loader workers for {limit('worker_seconds')} s (process {named}): "
            f"stopped, hanging, or a disk does not answer. If reading is that slow: "
            f"{raised_by('worker_seconds', 600)}"
        ) from error


def _state(pid: int | None) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            letter = file.read().rpartition(") ")[2][:1]
    except OSError:
        return "gone"
    return {"T": "stopped", "S": "waiting", "D": "waiting for the disk", "R": "working", "Z": "dead"}.get(
        letter, letter
    )


class DrawSampler(Sampler[Draw]):
    """A permutation of `size` indices drawn from (seed, epoch), cut into batches and dealt to the ranks.

    The tail that does not fill a batch on every rank is dropped; a set smaller than one batch on every rank is
    repeated until it fills one.

    Args:
        size: number of samples in an epoch.
        batch_size: samples a rank takes at a time.
        seed: with the epoch, decides the order.
        shuffle: False keeps the order 0, 1, ... (for overfitting tests).

    Attributes:
        start: epoch and number of batches already had, where the next iteration starts; see `ResumableLoader`.
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        if size < 1:
            raise ValueError("the training set is empty: no sample left to draw from (check split, filters and limit)")
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.epoch = 0
        self.start: Place | None = None

    def set_epoch(self, epoch: int) -> None:
        """The epoch to iterate where no `start` says otherwise."""
        self.epoch = epoch

    @property
    def batches(self) -> int:
        """Batches each rank sees in a whole epoch."""
        return max(1, self.size // (self.batch_size * rank_and_world()[1]))

    def __len__(self) -> int:
        """Samples each rank sees in a whole epoch, skipped ones included."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        rank, world = rank_and_world()
        epoch, done = self.start or Place(self.epoch, 0)
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        order = np.resize(order, self.batches * world * self.batch_size)
        mine = order.reshape(self.batches, world, self.batch_size)[:, rank]
        seed = (self.seed, epoch)
        return (Draw(epoch, int(i), (*seed, batch)) for batch in range(done, self.batches) for i in mine[batch])


class ResumableLoader(DataLoader):
    """A loader whose place in the epoch is part of Lightning's checkpoints, with and without workers, under DDP.

    Every iteration is the next epoch, except the first one after `load_state_dict`, which goes on where the state was
    taken. Lightning's own epoch number is not used for that: with `max_steps` it runs ahead by one after a resume
    from a checkpoint saved in `on_train_epoch_end` (lightning 2.6.6), and it may come after workers have started.
    The state is the same on every rank, so rank 0's, the one Lightning saves, serves all.

    Args:
        trainer: tells whether an epoch is over when a state is taken; None outside of Lightning.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, batch_size: int, trainer: Any = None, **kwargs: Any) -> None:
        if not isinstance(sampler, DrawSampler):
            raise ValueError(
                f"{type(sampler).__name__} was put in place of the resumable sampler: "
                "set `trainer.use_distributed_sampler: false` (the sampler shares samples among ranks by itself)"
            )
        kwargs.pop("drop_last", None)
        kwargs.setdefault("worker_init_fn", begin_worker)
        kwargs.setdefault("timeout", limit("worker_seconds") if kwargs.get("num_workers") else 0)
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, drop_last=True, **kwargs)
        self.trainer = trainer
        self.place: Place | None = None  # epoch, batches handed out in it
        self.resumes: list[Place | None] = []  # where the next iterations start, if not at the next epoch

    def __iter__(self) -> Iterator[Any]:
        start = self._start()
        if start is None:
            return iter(())
        self.sampler.start = start
        return self._count(start, watched(super().__iter__()))

    def _start(self) -> Place | None:
        if self.resumes:
            return self.resumes.pop(0)
        return Place(self.sampler.epoch, 0) if self.place is None else Place(self.place.epoch + 1, 0)

    def _count(self, start: Place, batches: Iterator[Any]) -> Iterator[Any]:
        if self.place is None and self.sampler.epoch != start.epoch:  # set after workers had started: throw away
            start = Place(self.sampler.epoch, 0)
            self.sampler.start = start
            batches = super().__iter__()
        self.sampler.start, self.resumes, self.place = start, [], start
        for batch in batches:
            self.place = Place(self.place.epoch, self.place.done + 1)
            yield batch

    def state_dict(self) -> dict[str, int | bool]:
        """Epoch, batches handed out in it, is that all of it, and has Lightning closed the epoch already."""
        epoch, done = self.place or Place(self.sampler.epoch, 0)
        whole, closed = self.sampler.batches, False
        if self.trainer is not None:
            whole = min(whole, self.trainer.num_training_batches)
            progress = self.trainer.fit_loop.epoch_progress.current
            closed = progress.processed > progress.completed
        return {"epoch": epoch, "done": done, "over": done >= whole, "closed": closed}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Go on where `state_dict` was taken, from the next `iter` on."""
        self.place = Place(int(state["epoch"]), int(state["done"]))
        following = Place(self.place.epoch + 1, 0)
        # From an epoch-end checkpoint Lightning first runs the rest of the closed epoch: it must find nothing there.
        self.resumes = [None, following] if state["closed"] else [following if state["over"] else self.place]


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
        kwargs.setdefault("worker_init_fn", begin_worker)
        kwargs.setdefault("timeout", limit("worker_seconds") if kwargs.get("num_workers") else 0)
        super().__init__(dataset, sampler=sampler, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        return watched(super().__iter__())

    def __len__(self) -> int:
        return max(1, len(self.sampler))


class PredictionLoader:
    """The same batches behind a plain iterable: Lightning rebuilds every `DataLoader` it predicts from, around a
    sampler of its own, which would give a video to several ranks."""

    def __init__(self, loader: EvaluationLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)
