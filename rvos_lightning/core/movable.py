"""What can be moved to another device: frozen dataclasses of tensors, and tensors that are read on demand."""

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Device = torch.device | str | int
Moved = TypeVar("Moved", bound="Movable")


class LazyTensor(ABC):
    """A tensor whose time axis (axis 1) is read on demand, so that long videos never lie whole in memory.

    `lazy[:, a:b]` reads and returns an ordinary tensor on the device last given to `to`.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape the whole tensor would have."""

    @abstractmethod
    def __getitem__(self, key: tuple[slice, slice]) -> Tensor:
        """Read `[:, start:stop]`."""

    @abstractmethod
    def to(self, device: Device, non_blocking: bool = False) -> "LazyTensor":
        """The same source, delivering to another device."""


class Movable:
    """Moves every tensor field of a frozen dataclass; Lightning needs `.to` on frozen dataclasses."""

    def to(self: Moved, device: Device, non_blocking: bool = False) -> Moved:
        """A copy whose tensors live on `device`."""
        return self._map(lambda value: value.to(device, non_blocking=non_blocking), LazyTensor)

    def pin_memory(self: Moved) -> Moved:
        """A copy whose tensors lie in page-locked memory (the data loader calls this)."""
        return self._map(lambda value: value.pin_memory())

    def _map(self: Moved, change: Any, *also: type) -> Moved:
        changed = {}
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if isinstance(value, Tensor | Movable) or (also and isinstance(value, also)):
                changed[entry.name] = change(value)
        return replace(self, **changed)  # type: ignore[type-var]
