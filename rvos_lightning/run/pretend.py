"""Answers for code that looks at numbers, where there are none: the meta device knows shapes only."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

# PyTorch's guide "Extending PyTorch" names this import for modes below autograd; there is no other path to it.
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
LIMIT = 10**6  # integers followed in one tensor
ASKING = {  # operations whose result's shape, or whole result, is made of numbers
    aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.repeat_interleave.Tensor,
    aten.bincount.default,
}  # fmt: skip


class Pretend(TorchDispatchMode):
    """Whoever asks a tensor without numbers for some gets plausible ones, so that one step can be counted.

    Integers and truth values that come from somewhere real (token ids, lengths) are followed and answered as they
    are. Of all that depends on pixels or weights: a condition holds, a number is 0, a mask holds everywhere (the most
    that can be selected), what is moved to a real device is 0. So a user clicks once and everything is visible.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer, or run the operation."""
        kwargs = kwargs or {}
        inputs = list(tensors(args)) + list(tensors(kwargs.values()))
        device = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if not (device == "meta" or any(value.is_meta for value in inputs)):
            return func(*args, **kwargs)
        if not all(numbers_of(value) is not None for value in inputs):
            result = plausible(func, args, kwargs) if func in ASKING else self._without(func, args, kwargs)
            if func.is_view is False and result is (args[0] if args else None):  # changed in place
                result.numbers = None
            return result
        real = func(*nested(numbers_of, args), **on_cpu(kwargs))
        if device not in (None, "meta"):
            return real
        result = nested(without_numbers, real) if func in ASKING else self._without(func, args, kwargs)
        for made, known in zip(tensors([result]), tensors([real]), strict=True):
            if made.is_meta and not made.is_floating_point() and known.shape == made.shape and known.numel() <= LIMIT:
                made.numbers = known  # type: ignore[attr-defined]
        return result

    @staticmethod
    def _without(func: Any, args: Any, kwargs: Any) -> Any:
        first = args[0] if args else None
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type != "meta":
            return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype, device=kwargs["device"])
        if func is aten.copy_.default and not first.is_meta:
            return first.zero_()
        if func is aten.index.Tensor:
            return func(first, [place for index in args[1] for place in places(index)], **kwargs)
        if func in (aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default):
            return first
        return func(*args, **kwargs)


def numbers_of(value: Any) -> Any:
    """A tensor's numbers where they are known, else None; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return getattr(value, "numbers", None) if value.is_meta else value


def on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name for the operation on followed numbers."""
    device = {"device": torch.device("cpu")} if "device" in kwargs else {}
    return {**{name: nested(numbers_of, value) for name, value in kwargs.items()}, **device}


def nested(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` applied to whatever nested lists and tuples hold."""
    return type(value)(nested(change, one) for one in value) if type(value) in (list, tuple) else change(value)


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors in nested lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


def without_numbers(value: Any) -> Any:
    """A tensor's shape on the meta device; anything else as it is."""
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


def plausible(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation could have answered."""
    first = args[0]
    if func is aten._local_scalar_dense.default:
        return True if first.dtype == torch.bool else torch.zeros((), dtype=first.dtype).item()
    if func is aten.equal.default:
        return True
    if func is aten.nonzero.default:
        return first.new_empty((first.numel(), first.ndim), dtype=torch.int64)
    if func is aten.masked_select.default:
        return first.new_empty(torch.broadcast_shapes(first.shape, args[1].shape).numel())
    if func is aten.repeat_interleave.Tensor:
        return torch.empty_like(first)
    if func is aten.bincount.default:
        weights, least = [*args[1:], None, 0][:2] if len(args) < 3 else args[1:]
        return (first if weights is None else weights).new_empty(max(1, kwargs.get("minlength", least)))
    ids = first.new_empty(first.numel(), dtype=torch.int64)
    return first.new_empty(first.numel()), ids, ids


def places(index: Tensor | None) -> list[Tensor | None]:
    """A boolean index as one index an axis: of the places where it holds, or of all."""
    if index is None or index.dtype != torch.bool:
        return [index]
    known = numbers_of(index)
    count = index.numel() if known is None else int(known.sum())
    return [torch.empty(count, dtype=torch.int64, device="meta") for _ in range(index.ndim)]
