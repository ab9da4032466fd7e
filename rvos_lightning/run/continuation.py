"""A run that goes on with other optimizer settings than it began with: uses them and says so, or refuses.

Optimizers and schedules restore *their* settings from a checkpoint, so that a learning rate in the configuration or on
the command line would be recorded there, and have no effect.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from rvos_lightning.core.optim import Schedule

KEY = "optimization"  # in checkpoints
MOVING = ("last_epoch", "base_lrs", "lr_lambdas")  # of a schedule's state; what begins with _ moves, too


class Continuation:
    """What the configuration says about optimization, against what a checkpoint's run was told.

    Args:
        optimizer: just made, with groups named by `core.optim.param_groups`.
        scheduler: makes the schedule, if there is to be one.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Callable[[Optimizer], LRScheduler] | None):
        self.optimizer = optimizer
        self._groups = [settings(group) for group in optimizer.param_groups]
        self.schedule = None if scheduler is None else scheduler(optimizer)
        self._constants = constants(self.schedule)
        self._before: Mapping[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """What to keep in a checkpoint: numbers, texts and containers alone."""
        return {
            "optimizer": type(self.optimizer).__name__,
            "groups": self._groups,
            "schedule": type(self.schedule).__name__,
            "constants": constants(self.schedule),
        }

    def compare(self, before: Mapping[str, Any]) -> None:
        """Look at a checkpoint's record, best before the optimizer is restored.

        Raises:
            ValueError: other optimizer, schedule or parameter groups, which nothing of the checkpoint would fit.
        """
        now = self.record()
        for what, kept in {"optimizer": str, "schedule": str, "groups": sizes}.items():
            old, new = kept(before[what]), kept(now[what])
            if old != new:
                raise ValueError(
                    f"cannot continue with another {what}: the checkpoint has {old}, the configuration {new}; go back "
                    "to the configuration beside the checkpoint, or begin a new run from its weights (--model.weights)"
                )
        self._before = before

    def start(self, steps: float) -> None:
        """When all is restored and before the first step: the schedule gets its end, other settings are put in.

        Args:
            steps: optimizer steps of the whole training, as the trainer counts them.

        Raises:
            ValueError: no end is known.
        """
        restored = constants(self.schedule)
        if other := {key: value for key, value in self._constants.items() if restored[key] != value}:
            self.schedule.load_state_dict({**self.schedule.state_dict(), **other})  # type: ignore[union-attr]
        if isinstance(self.schedule, Schedule):
            self.schedule.stretch(steps)
            self._put_rates()  # those of the constructor could not know the end
        before, self._before = self._before, None
        if before is None:
            return
        changes = [change for pair in enumerate(before["groups"]) for change in self._change_group(*pair)]
        ended, once = constants(self.schedule), before["constants"]
        changes += [
            f"{key} of the schedule {once.get(key)} -> {ended[key]}" for key in ended if ended[key] != once.get(key)
        ]
        if changes:
            self._change_schedule()
            rank_zero_info(f"continuing with other settings than the checkpoint's: {'; '.join(changes)}")

    def _change_group(self, index: int, old: Mapping[str, Any]) -> list[str]:
        group, new = self.optimizer.param_groups[index], self._groups[index]
        other = [key for key in new if key in old and new[key] != old[key]]
        for key in other:
            group[key] = new[key]
        if "lr" in other:
            group["initial_lr"] = new["lr"]
        return [f"{key} of group {new['name']} {old[key]} -> {new[key]}" for key in other]

    def _change_schedule(self) -> None:
        """The learning rate that the schedule gives the new ones at its present step."""
        if self.schedule is None:
            return
        shares = [now / base for now, base in zip(self.schedule.get_last_lr(), self.schedule.base_lrs, strict=True)]
        self.schedule.base_lrs = [group["lr"] for group in self._groups]
        for group, rate, share in zip(self.optimizer.param_groups, self.schedule.base_lrs, shares, strict=True):
            group["lr"] = rate * share
        if isinstance(self.schedule, LambdaLR):
            self._put_rates()

    def _put_rates(self) -> None:
        schedule: LambdaLR = self.schedule  # type: ignore[assignment]
        every = zip(self.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, rate, factor in every:
            group["lr"] = rate * factor(schedule.last_epoch)


def settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group's settings, and how many tensors it has in place of them."""
    kept = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
    return {**kept, "tensors": len(group["params"])}


def constants(schedule: LRScheduler | None) -> dict[str, Any]:
    """A schedule's settings, as far as its state shows them."""
    state = {} if schedule is None else schedule.state_dict()
    return {key: value for key, value in state.items() if key not in MOVING and not key.startswith("_")}


def sizes(groups: list[Mapping[str, Any]]) -> str:
    """Names and sizes of groups, for comparison and messages."""
    return ", ".join(f"{group['name']} ({group['tensors']} tensors)" for group in groups)
