"""A whole network starts from one file: parts that the file covers need no files of their own.

While a network is built under `starting_from`, its parts do not open their weights (`read_weights`); `start_from` then
loads the file, and only a part of which the file lacks something is read from where its own argument points.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from rvos_lightning.parts.weights import WeightsError, complete, load_official, located, metadata

COMMAND = "convert it: python -m rvos_lightning convert"
OFFICIAL = {  # how keys of unconverted files begin -> what the file is, and what to do with it
    "backbone.0.body.": ("SgMg's official file", f"{COMMAND} sgmg {{path}} OURS.safetensors"),
    "cmt_adapters.": ("SAMWISE's official file", f"{COMMAND} samwise {{path}} OURS.safetensors"),
    "image_encoder.trunk_video.": (
        "SAM-I2V's official file",
        f"{COMMAND} sam_i2v {{path}} OURS.safetensors",
    ),
    "grounding_encoder.": ("a released Sa2VA folder", f"{COMMAND} sa2va {{path}} OUR_FOLDER"),
    "language_model.": ("a released InternVL folder", f"{COMMAND} sa2va {{path}} OUR_FOLDER"),
    "memory_attention.": ("a file of SAM 2's own", "give it to --model.network.segmenter.weights"),
    "image_encoder.": ("an image SAM's own file", "give it to --model.network.segmenter.weights"),
}


LORA = re.compile(r"\.lora_[AB]\.")
"""In the names of low-rank adapters' parameters, as peft calls them."""


def inside_adapter(name: str) -> str:
    """What a layer's own parameter is called once an adapter is around the layer."""
    return re.sub(r"\.(\w+)$", r".base_layer.\1", name)


def outside_adapter(name: str) -> str:
    """What it is called without adapters."""
    return name.replace(".base_layer.", ".")


@dataclass
class Start:
    """The file a network starts from.

    Attributes:
        path: file or folder.
        state: its tensors under the network's keys.
        said: what the file says of itself (safetensors metadata).
    """

    path: Path
    state: dict[str, Tensor]
    said: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | str) -> "Start":
        """Read a .safetensors file or folder of ours, or a Lightning checkpoint.

        Raises:
            WeightsError: nothing readable there, or a file that belongs elsewhere; says where.
        """
        path = located(path)
        state = load_official(path, allow=[argparse.Namespace])
        if any(key.startswith("network.") for key in state):
            ours = {key: value for key, value in state.items() if key.startswith("network.")}
            return cls(path, {key.removeprefix("network."): value for key, value in ours.items()})
        for beginning, (what, remedy) in OFFICIAL.items():
            if any(key.startswith(beginning) for key in state):
                raise WeightsError(f"{path} is {what}: {remedy.format(path=path)}")
        return cls(path, state, metadata(path))

    def covers(self, names: Sequence[str], prefix: str) -> bool:
        """Whether every key is there, with or without adapters around it."""
        return all(prefix + name in self.state or inside_adapter(prefix + name) in self.state for name in names)

    def holds(self, part: str) -> bool:
        """Whether any key has `part` in it."""
        return any(part in key for key in self.state)


_START: ContextVar[Start | None] = ContextVar("start", default=None)


@contextmanager
def _building(start: Start | None) -> Iterator[None]:
    token = _START.set(start)
    try:
        yield
    finally:
        _START.reset(token)


def starting_from(path: Path | str | None) -> AbstractContextManager[None]:
    """Build a network inside, which `start_from(network, path)` fills; None: parts open their own files at once."""
    return _building(None if path is None else Start.open(path))


def unread() -> AbstractContextManager[None]:
    """Build a network inside whose parts ask their files for sizes only: its numbers are random."""
    return _building(Start(Path("unread"), {}))


def started() -> Start | None:
    """The file that the network being built will start from."""
    return _START.get()


def covered(part: nn.Module, prefix: str) -> bool:
    """Whether the file that the network starts from has every key of `part`, which will be at `prefix`."""
    start = _START.get()
    return start is not None and start.covers(list(part.state_dict()), prefix)


def read_weights(part: nn.Module, source: Path | str, read: Callable[[Any], None]) -> None:
    """Call `read(source)`: at once, or in `start_from` if the file lacks something of `part`."""
    if _START.get() is None:
        read(source)
    else:
        part.unread = (source, read)  # type: ignore[assignment]


@runtime_checkable
class Adopts(Protocol):
    """A part that takes weights saved under other names than its own, e.g. without its adapters."""

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights under the part's own names."""
        ...


def start_from(network: nn.Module, path: Path | str, fresh: Sequence[str] = ()) -> None:
    """Load weights of ours: a .safetensors file or folder of network keys, or a Lightning checkpoint.

    Args:
        network: receives the weights.
        path: file or folder.
        fresh: regular expressions of keys that keep their present values where the file lacks them.

    Raises:
        WeightsError: nothing readable there, a file that belongs elsewhere, or one that does not fit.
    """
    state = start_state(network, path)
    own = network.state_dict()
    lacking = (key for key in own if key not in state)
    kept = {key: own[key] for key in lacking if any(re.fullmatch(pattern, key) for pattern in fresh)}
    try:
        network.load_state_dict(complete({**state, **kept}, own, network))
    except WeightsError as error:
        said = metadata(Path(path)).get("variant")
        raise WeightsError(f"{path}{f', which is {said}' if said else ''}: {error}") from error


def values_of(network: nn.Module, patterns: Sequence[str]) -> dict[str, Tensor]:
    """Copies of the present values of all keys that a regular expression matches.

    Raises:
        WeightsError: a pattern matches none.
    """
    own = network.state_dict()
    idle = [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in own)]
    if idle:
        raise WeightsError(f"model.anew: {idle[0]!r} matches no key of the network, such as {next(iter(own))}")
    return {key: own[key].clone() for key in own if any(re.fullmatch(pattern, key) for pattern in patterns)}


def start_state(network: nn.Module, path: Path | str) -> dict[str, Tensor]:
    """What `path` holds, under the network's keys; parts of which it lacks something are read from their own files.

    Raises:
        WeightsError: nothing readable there, or a part that neither the file nor its own weights fill.
    """
    start = _START.get()
    if start is None or start.path != located(path):
        start = Start.open(path)
    state = dict(start.state)
    for prefix, part in network.named_modules():
        if isinstance(part, Adopts):
            own = {key: state.pop(key) for key in list(state) if key.startswith(f"{prefix}.")}
            renamed = part.adopt({key.removeprefix(f"{prefix}."): value for key, value in own.items()})
            state |= {f"{prefix}.{key}": value for key, value in renamed.items()}
    for prefix, part in network.named_modules():
        if not hasattr(part, "unread"):
            continue
        source, read = part.unread
        del part.unread
        lacking = [key for key in part.state_dict() if f"{prefix}.{key}" not in state]
        if lacking:
            _read_rest(start, prefix, lacking, source, read)
    return state


def _read_rest(start: Start, prefix: str, lacking: list[str], source: Any, read: Callable[[Any], None]) -> None:
    try:
        read(source)
    except (WeightsError, OSError) as error:
        raise WeightsError(
            f"{start.path} lacks {len(lacking)} keys of {prefix}, first {lacking[0]}, and {source}, where they would "
            f"come from, cannot be used: {str(error).splitlines()[0]}"
        ) from error
