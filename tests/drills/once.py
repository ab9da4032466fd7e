"""What all processes of a session share, and what only a full session runs."""

import fcntl
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

VARIABLE = "RVOS_TEST_SESSION"  # the folder; tests/conftest.py makes it before the worker processes start


def once_a_session(name: str, draw: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `draw` returns, by whichever process asks first under this name.

    Args:
        name: says everything that the tensors depend on.
        draw: slow; its tensors may be of any floating type and must not share memory.
    """
    file = Path(os.environ[VARIABLE]) / f"{sha256(name.encode()).hexdigest()[:32]}.safetensors"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            save_file(draw(), file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
    return load_file(file)


def seeded(name: str, shapes: Mapping[str, Sequence[int]], weight: Callable[..., Tensor]) -> dict[str, Tensor]:
    """A network's weights `weight(key, shape)`, each drawn from its own key, once a session.

    Args:
        name: of the rule, for the rule's other parameters.
        shapes: by official key.
        weight: the rule.
    """
    listed = sorted((key, tuple(shape)) for key, shape in shapes.items())
    return once_a_session(f"{name} {listed}", lambda: {key: weight(key, shape).contiguous() for key, shape in listed})


def sharp_first(paths: Iterable[Path]) -> list:
    """Parameters, one a recording; where a plain one has a `_sharp` twin, which sees more, the plain one is slow."""
    names = {path.stem for path in paths}
    twins = {name for name in names if f"{name}_sharp" in names}
    slow = pytest.mark.slow
    return [pytest.param(path, id=path.stem, marks=slow if path.stem in twins else ()) for path in sorted(paths)]


def one_full_size(paths: Iterable[Path], chosen: Callable[[Path], object] = str) -> list:
    """Parameters, one a recording; all but the first in the order of `chosen` are slow (`make test-full`)."""
    first, *others = sorted(paths, key=chosen) or [None]
    slow = [pytest.param(path, id=path.stem, marks=pytest.mark.slow) for path in others]
    return [] if first is None else [pytest.param(first, id=first.stem), *slow]
