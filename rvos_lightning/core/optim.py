"""Parameter groups and learning-rate schedules that change every step."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rvos_lightning.core.bounds import Share


def param_groups(
    module: nn.Module,
    lr_scale: Mapping[str, float] | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning-rate scale and decay.

    Args:
        module: whose parameters are grouped; frozen ones are left out.
        lr_scale: regular expression (searched in the parameter's name) -> factor on the learning rate; the first
            that matches counts.
        no_decay: regular expressions of names whose weight decay is 0; `nn.LayerNorm` means every parameter of a
            module of that class of torch.nn.
        layer_decay: times this factor for every layer between a parameter and the top of its encoder, in encoders
            that count their layers (`Layered`); 1: none.

    Returns:
        Groups for an optimizer, with extra keys `name` and `lr_scale` (applied by `scale_groups`).

    Raises:
        ValueError: a pattern matches no trainable parameter, no encoder counts its layers, or nothing is trainable.
    """
    scales = dict(lr_scale or {})
    unused = {*scales, *no_decay}
    below = layers_below_top(module) if layer_decay != 1 else {}
    if layer_decay != 1 and not below:
        raise ValueError(
            f"model.layer_decay is {layer_decay}, but no encoder of the network counts its layers; set it to 1"
        )
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        match = next((pattern for pattern in scales if re.search(pattern, name)), None)
        owner = module.get_submodule(name.rpartition(".")[0])
        plain = [pattern for pattern in no_decay if _undecayed(pattern, name, owner)]
        unused -= {match, *plain}
        scale = (scales[match] if match is not None else 1.0) * layer_decay ** below.get(name, 0)
        key = (scale, bool(plain))
        group = groups.setdefault(key, {"params": [], "lr_scale": key[0], "name": f"x{key[0]:g}"})
        group["params"].append(parameter)
        if plain:
            group["weight_decay"] = 0.0
            group["name"] += " no decay"
    if not groups:
        raise ValueError("nothing to train: every parameter of model.network is frozen")
    if unused:
        raise ValueError(f"model.lr_scale or model.no_decay: {sorted(unused)} match no trainable parameter")
    return list(groups.values())


@runtime_checkable
class Layered(Protocol):
    """An encoder that says in which layer each of its parameters is."""

    @property
    def layers(self) -> int:
        """The top layer's number; the first is 0."""
        ...

    def layer_of(self, name: str) -> int:
        """The layer of a parameter, by its name inside the encoder."""
        ...


def layers_below_top(module: nn.Module) -> dict[str, int]:
    """Parameter name -> number of layers above it, for all parameters of encoders that count their layers."""
    found = {}
    for prefix, part in module.named_modules():
        if isinstance(part, Layered):
            own = {name: part.layers - part.layer_of(name) for name, _ in part.named_parameters()}
            found |= {f"{prefix}.{name}" if prefix else name: count for name, count in own.items()}
    return found


def _undecayed(pattern: str, name: str, owner: nn.Module) -> bool:
    if pattern.startswith("nn."):
        return isinstance(owner, getattr(nn, pattern.removeprefix("nn.")))
    return re.search(pattern, name) is not None


def scale_groups(optimizer: Optimizer) -> Optimizer:
    """Multiply each group's learning rate by its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


class Schedule(LambdaLR, ABC):
    """A learning rate that is a function of the step and of the number of steps in all.

    Args:
        optimizer: whose groups are scheduled.
        total: optimizer steps of the whole training; None is told later, by `stretch`.

    Attributes:
        total: as given or told.

    Raises:
        ValueError: total is below 1.
    """

    def __init__(self, optimizer: Optimizer, total: int | None = None):
        self.total: int | None = None
        if total is not None:
            self.stretch(total)
        super().__init__(optimizer, lambda step: self.factor(step, self.total or step + 1))

    @abstractmethod
    def factor(self, step: int, total: int) -> float:
        """What the learning rate is multiplied with at a step, counted from 0."""

    def stretch(self, total: float) -> None:
        """Say the number of optimizer steps, unless the constructor has.

        Raises:
            ValueError: it is not a number of steps.
        """
        if self.total is not None:
            return
        if not (math.isfinite(total) and total >= 1):
            raise ValueError(
                f"the learning rate's schedule needs an end, its total is {total} steps: give trainer.max_steps, "
                "trainer.max_epochs with max_steps -1, or model.scheduler.total, at least 1"
            )
        self.total = int(total)


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down to `final` times the learning rate.

    Args:
        optimizer: whose groups are scheduled.
        total: steps until the end of the cosine; None: the optimizer steps that the trainer makes.
        warmup: steps of linear warm-up; below 1: a share of all steps.
        final: fraction of the learning rate at the end.

    Raises:
        ValueError: total is below 1, warmup negative or final not between 0 and 1.
    """

    def __init__(self, optimizer: Optimizer, total: int | None = None, warmup: float = 0, final: Share = 0.0):
        if warmup < 0:
            raise ValueError(f"model.scheduler.warmup is {warmup} steps; give 0 or more")
        if not 0 <= final <= 1:
            raise ValueError(f"model.scheduler.final is {final}; it is a fraction of the learning rate: give 0 to 1")
        self.warmup, self.final = warmup, final
        super().__init__(optimizer, total)

    def factor(self, step: int, total: int) -> float:
        """See `Schedule`."""
        warmup = round(self.warmup * total) if self.warmup < 1 else self.warmup
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


class EpochDrops(Schedule):
    """The learning rate falls at the end of some epochs; epochs are even shares of the optimizer steps of the training.

    Args:
        optimizer: whose groups are scheduled.
        epochs: epochs that the drops were published for.
        drops: numbers of finished epochs at which the rate falls.
        gamma: by which it falls each time.
        total: optimizer steps in all; None: those that the trainer makes.

    Raises:
        ValueError: a drop lies outside the training.
    """

    def __init__(
        self, optimizer: Optimizer, epochs: int, drops: Sequence[int], gamma: float = 0.1, total: int | None = None
    ):
        if any(not 0 < drop <= epochs for drop in drops):
            raise ValueError(
                f"model.scheduler.drops {list(drops)}: give epochs from 1 to model.scheduler.epochs, {epochs}"
            )
        self.shares, self.gamma = [drop / epochs for drop in drops], gamma
        super().__init__(optimizer, total)

    def factor(self, step: int, total: int) -> float:
        """See `Schedule`."""
        return self.gamma ** sum(step >= share * total for share in self.shares)
