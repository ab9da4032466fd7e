"""Values that cannot be meant, found in a parsed configuration before anything is built.

Null is refused where an argument's type does not admit it (the parser takes it anywhere). For numbers there is one
rule, too: not NaN or infinite; of our own classes also at least 1 where the default is a whole number from 1 or none at
all (sizes, counts, strides), else at least 0. What differs says so in its type, with the vocabulary of
`annotated_types`: `Annotated[int, Ge(0)]`, `Annotated[float, Interval(ge=0, le=1)]`.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Interval, Le

OURS = ("rvos_lightning.", "callbacks")
LEAST = {"lr": 0, "weight_decay": 0, "eps": 0, "gradient_clip_val": 0, "accumulate_grad_batches": 1}
"""Least values of arguments of other people's classes."""


class Fault(NamedTuple):
    """A value that cannot be meant.

    Attributes:
        key: as on the command line.
        value: what was given.
        expected: in words.
    """

    key: str
    value: Any
    expected: str

    def __str__(self) -> str:
        """As the parser's errors are shown."""
        return f"error: wrong value for {self.key}\n  value     {self.value}\n  expected  {self.expected}"


class Taken(NamedTuple):
    """What a constructor says of one argument: its type, and its default (`inspect.Parameter.empty`: none)."""

    kind: Any
    default: Any


def faults(key: str, value: Any, owner: Any = None) -> Iterator[Fault]:
    """Every value in a configuration that cannot be meant.

    Args:
        key: where the value stands, dotted.
        value: of a parsed configuration: classes as `class_path` and `init_args`.
        owner: the class that takes a mapping's values, where they do not say so themselves.
    """
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        owner, value = _named(value["class_path"]), value.get("init_args") or {}
    if isinstance(value, Mapping):
        known = {} if owner is None else taken(owner)
        for name, each in value.items():
            place, own = f"{key}.{name}" if key else str(name), known.get(name)
            if (expected := _expected(str(name), each, own, owner)) is not None:
                yield Fault(place, each, expected)
            else:
                yield from faults(place, each, _dataclass(own))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from faults(f"{key}[{number}]", each)


def _expected(name: str, value: Any, own: Taken | None, owner: Any) -> str | None:
    """What a value should have been; None if nothing is wrong with it."""
    if value is None and own is not None and not _takes_null(own):
        return "a value" if own.default is inspect.Parameter.empty else f"a value, such as the usual {own.default}"
    numbers = _numbers(value)
    if any(not math.isfinite(each) for each in numbers):
        return "a finite number"
    if own is None or not numbers:
        return None
    least, most = _declared(own.kind)
    if least is None and most is None:
        least = _usual(name, value, own, owner)
    if any((least is not None and each < least) or (most is not None and each > most) for each in numbers):
        least_said = "" if least is None else f" from {least:g}"
        return (
            f"numbers{least_said}"
            if isinstance(value, list | tuple)
            else f"a number{least_said}" + ("" if most is None else f" to {most:g}")
        )
    return None


def _takes_null(own: Taken) -> bool:
    """Whether an argument may be null, as far as it says: by its default, its type, or by having no type."""
    kind, open_kinds = own.kind, (None, type(None), Any, object, inspect.Parameter.empty)
    if own.default is None or isinstance(kind, str | TypeVar):
        return True
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    several = get_args(kind) if get_origin(kind) in (Union, UnionType, Literal) else (kind,)
    return any(each in open_kinds for each in several)


def _usual(name: str, value: Any, own: Taken, owner: Any) -> float | None:
    """The least number an argument takes that declares none."""
    if not owner.__module__.startswith(OURS):
        return LEAST.get(name)
    defaults = _numbers(own.default)
    if any(each < 0 for each in defaults):
        return None
    counted = all(isinstance(each, int) and each > 0 for each in defaults) and int in _kinds(own.kind)
    return 1 if counted and isinstance(value, int) else 0


def _numbers(value: Any) -> list[int | float]:
    """A number, or those of a list or of a mapping of names to numbers."""
    if isinstance(value, Mapping):
        value = [] if "class_path" in value else list(value.values())
    every = value if isinstance(value, list | tuple) else [value]
    return [each for each in every if isinstance(each, int | float) and not isinstance(each, bool)]


def _declared(kind: Any) -> tuple[float | None, float | None]:
    """The bounds in a type, in an optional one, too."""
    least: float | None = None
    most: float | None = None
    for each in _kinds(kind):
        for mark in get_args(each)[1:] if get_origin(each) is Annotated else ():
            least = mark.ge if isinstance(mark, Ge | Interval) and mark.ge is not None else least  # type: ignore[assignment]
            most = mark.le if isinstance(mark, Le | Interval) and mark.le is not None else most  # type: ignore[assignment]
    return least, most


def _kinds(kind: Any) -> tuple[Any, ...]:
    return (kind, *get_args(kind))


def _dataclass(own: Taken | None) -> Any:
    """The data class that an argument is, if its type has one."""
    kinds = () if own is None else _kinds(own.kind)
    return next((kind for kind in kinds if inspect.isclass(kind) and is_dataclass(kind)), None)


@lru_cache(maxsize=512)
def taken(owner: Any) -> Mapping[str, Taken]:
    """The arguments of a class by name, those included that it hands on to the class above."""
    found: dict[str, Taken] = {}
    for maker in makers(owner):
        try:
            hints = get_type_hints(maker, include_extras=True)
        except (NameError, TypeError, AttributeError):  # types imported for checkers alone
            hints = {}
        for name, parameter in inspect.signature(maker).parameters.items():
            found.setdefault(name, Taken(hints.get(name, parameter.annotation), parameter.default))
    return found


def makers(owner: Any) -> Iterator[Any]:
    """The constructor, then those above for as long as each passes keyword arguments on; a function is its own."""
    if not inspect.isclass(owner):
        yield owner
        return
    for ancestor in owner.__mro__:
        if "__init__" in vars(ancestor):
            yield ancestor.__init__
            if "kwargs" not in inspect.signature(ancestor.__init__).parameters:
                return


def _named(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):  # the parser has accepted it: a short name, or a nested class
        return None
