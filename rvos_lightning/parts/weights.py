"""Official checkpoints in and out, strict loading, freezing.

    rvos convert samwise official.pth ours.safetensors

imports `rvos_lightning.systems.samwise.official`, applies its `KEY_MAP` and fails unless every key on both
sides is accounted for.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FOUNDATIONS = Path(__file__).parents[1] / "foundations"
"""Small weights that come with this package, trained by the recipes of `configs/foundations`."""


class WeightsError(ValueError):
    """A checkpoint that does not fit; the message names the keys and the remedy."""


def shipped(source: Path | str | None) -> Path | None:
    """The file in this package that `small/NAME` means; None for any other path or hub id, and where such a file is.

    Raises:
        WeightsError: there is no foundation of that name; lists those there are.
    """
    owner, _, name = str(source or "").partition("/")
    if owner != "small" or not name or Path(str(source)).exists():
        return None
    file = FOUNDATIONS / f"{name}.safetensors"
    if "/" in name or not file.is_file():
        there = ", ".join(f"small/{path.stem}" for path in sorted(FOUNDATIONS.glob("*.safetensors")))
        raise WeightsError(f"{source}: no such small foundation; there are: {there or 'none'}")
    return file


def located(source: Path | str) -> Path:
    """Where weights lie: the file that `small/NAME` means, or the path itself."""
    return shipped(source) or Path(source)


@dataclass(frozen=True)
class Rule:
    """Renames every key that `pattern` (a regular expression) fully matches.

    Attributes:
        pattern: regular expression over the whole key.
        names: replacement template(s); several when one tensor becomes several keys.
        change: turns the tensor into as many tensors as there are names (splits, reshapes); default: copies.
    """

    pattern: str
    names: str | tuple[str, ...]
    change: Callable[[Tensor], Sequence[Tensor]] | None = None

    def apply(self, key: str, tensor: Tensor) -> dict[str, Tensor] | None:
        """The renamed tensors, or None when the key does not match."""
        match = re.fullmatch(self.pattern, key)
        if match is None:
            return None
        names = (self.names,) if isinstance(self.names, str) else self.names
        tensors = self.change(tensor) if self.change else [tensor] * len(names)
        return {match.expand(name): part for name, part in zip(names, tensors, strict=True)}


@dataclass(frozen=True)
class KeyMap:
    """Ordered rules from one checkpoint layout to another.

    Attributes:
        rules: the first that matches a key wins.
        drop: patterns of source keys left out on purpose.
        missing: patterns of target keys that the source is allowed not to have.
    """

    rules: Sequence[Rule]
    drop: Sequence[str] = ()
    missing: Sequence[str] = ()

    def rename(self, state: Mapping[str, Tensor]) -> "Renamed":
        """Apply the rules; keys that no rule and no drop pattern knows are listed in `unknown`."""
        result = Renamed()
        for key, tensor in state.items():
            if _any_match(self.drop, key):
                result.dropped.append(key)
                continue
            for rule in self.rules:
                if (renamed := rule.apply(key, tensor)) is not None:
                    result.state.update(renamed)
                    break
            else:
                result.unknown.append(key)
        return result


@dataclass
class Renamed:
    """The outcome of `KeyMap.rename`: the new state dict, and what was left out or not understood."""

    state: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def convert(state: Mapping[str, Tensor], key_map: KeyMap, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `state` for a module whose state dict is `target`, accounting for every key on both sides.

    Raises:
        WeightsError: a source key no rule knows, a target key nothing fills, or a shape that differs.
    """
    renamed = key_map.rename(state)
    refuse_misfit(renamed.state, target, lambda key: _any_match(key_map.missing, key), renamed.unknown)
    return renamed.state


def refuse_misfit(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    may_lack: Callable[[str], bool] = lambda key: False,
    unknown: Sequence[str] = (),
    what: str = "checkpoint",
    remedy: str = "",
) -> None:
    """Does this state dict fit? The one answer for every file that is read.

    Args:
        state: what was read, under the network's keys.
        own: the network's state dict.
        may_lack: whether `state` need not hold a key.
        unknown: keys of the file that could not be named.
        what: the file, for the message.
        remedy: what to do, for the message.

    Raises:
        WeightsError: counts and first keys of everything that is missing, surplus or of another shape.
    """
    shapes = [
        f"{key}: {tuple(tensor.shape)} in the checkpoint, {tuple(own[key].shape)} in the model"
        for key, tensor in state.items()
        if key in own and tensor.shape != own[key].shape
    ]
    problems = {
        "keys no rule knows": unknown,
        "keys the model does not have": [key for key in state if key not in own],
        "keys the checkpoint does not fill": [key for key in own if key not in state and not may_lack(key)],
        "shapes that differ": shapes,
        "weights stored as whole numbers (quantised?)": [
            key
            for key, tensor in state.items()
            if key in own and own[key].is_floating_point() and not tensor.is_floating_point()
        ],
    }
    found = [f"{len(keys)} {kind}, first: {', '.join(keys[:3])}" for kind, keys in problems.items() if keys]
    if found:
        raise WeightsError("; ".join([f"{what} does not fit: {found[0]}", *found[1:], *filter(None, [remedy])]))


def complete(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], network: nn.Module, prefix: str = ""
) -> dict[str, Tensor]:
    """`state` plus the frozen keys of `own` that a run's checkpoints leave out on purpose.

    Raises:
        WeightsError: other keys missing or surplus, or shapes that differ.
    """
    left_out = tuple(prefix + name for name in reproducible_prefixes(network))
    refuse_misfit(
        state, own, lambda key: key.startswith(left_out), what="the checkpoint of another system or configuration",
        remedy="use the config.yaml saved beside it",
    )  # fmt: skip
    return {**own, **state}


def report(state: Mapping[str, Tensor], key_map: KeyMap, target: Mapping[str, Tensor]) -> str:
    """Four lines: keys used, left out on purpose, missing on purpose, parameters loaded."""
    renamed = key_map.rename(state)
    absent = [key for key in target if key not in renamed.state]
    return (
        f"used      {len(renamed.state)} of {len(target)} model keys from {len(state)} checkpoint keys\n"
        f"left out  {len(renamed.dropped)} on purpose{_examples(renamed.dropped)}\n"
        f"missing   {len(absent)} on purpose{_examples(absent)}\n"
        f"numbers   {sum(t.numel() for t in renamed.state.values()):,}"
    )


def freeze(module: nn.Module, train_mode: bool = False) -> nn.Module:
    """No gradients and eval mode, which also survives `train()` calls on parents.

    Args:
        module: frozen in place and returned.
        train_mode: keep following the parent's mode (dropout of frozen parts on, as some originals train).
    """
    module.requires_grad_(False)
    if not train_mode:
        module.eval()
        # Bound by `partial`, not by a closure: a deep copy's `train` then returns the copy.
        module.train = partial(_stay, module)  # type: ignore[method-assign, assignment]
    return module


def thaw(module: nn.Module) -> nn.Module:
    """Let a frozen module follow `train()` and `eval()` again; its parameters' gradients are left as they are."""
    vars(module).pop("train", None)
    return module


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def mark_reproducible(module: nn.Module, source: str) -> nn.Module:
    """Say that this module's frozen weights can be read again from `source`, so checkpoints may leave them out."""
    module.weights_source = source  # type: ignore[assignment]
    return module


def reproducible_prefixes(network: nn.Module) -> list[str]:
    """Key prefixes of wholly frozen modules that were loaded from a file (`mark_reproducible`)."""
    return [
        f"{name}."
        for name, module in network.named_modules()
        if hasattr(module, "weights_source") and not any(p.requires_grad for p in module.parameters())
    ]


def load_official(path: Path | str, allow: Iterable[type] = ()) -> dict[str, Tensor]:
    """Read a .safetensors, a sharded folder or a torch file as a flat dict of tensors, never executing code.

    Args:
        path: a file, a folder of safetensors shards, or `small/NAME` (see `shipped`), of which only the part is given.
        allow: harmless classes a torch file may contain beside tensors (e.g. `argparse.Namespace`).

    Raises:
        WeightsError: the file is missing, unreadable or holds other objects.
    """
    if (small := shipped(path)) is not None:
        state, said = load_official(small, allow), metadata(small)
        if said.get("part") == "":
            raise WeightsError(f"{path} is a whole network: --model.weights {path}, with -c configs/{said['recipe']}")
        inside = f"{said['part']}." if "whole" in said else ""  # beside what it was trained with
        return {key.removeprefix(inside): value for key, value in state.items() if key.startswith(inside)}
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path}: no such checkpoint; give a path that exists")
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise WeightsError(f"{path}: a folder without *.safetensors; give the folder that holds the shards")
    state: dict[str, Tensor] = {}
    for file in files:
        part = plain_keys(_read(file, allow), file)
        if twice := sorted(state.keys() & part.keys()):
            raise WeightsError(f"{file}: {len(twice)} keys are in another shard too, first: {twice[0]}; get them again")
        state |= part
    for key, tensor in state.items():
        if tensor.is_floating_point() and tensor.isnan().any():
            raise WeightsError(f"{path}: {key} holds NaN; the run that wrote it had diverged: take an earlier one")
    return state


def metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says of itself; empty for anything else."""
    path = located(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):  # damaged, or another kind of file: reading its tensors says which
        return {}


def plain_keys(content: Any, path: Path) -> dict[str, Tensor]:
    """Tensors by name, without what `DistributedDataParallel` and `torch.compile` put into names.

    Args:
        content: what a file holds.
        path: for the message.

    Raises:
        WeightsError: it is no state dict, or two keys become one.
    """
    for wrapper in ("model", "state_dict", "model_state_dict", "network"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds {_kind(content)}, not a state dict; give a file of named tensors")
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            continue
        if not isinstance(key, str):
            raise WeightsError(f"{path}: the key {key!r} is no name; give a state dict of named tensors")
        name = key.replace("_orig_mod.", "").removeprefix("module.")
        if name in found:
            raise WeightsError(f"{path}: {key} and another key both mean {name}; get the file again")
        found[name] = value
    if not found:
        fields = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise WeightsError(f"{path}: holds no tensors by name, but {fields}; give a file of weights")
    return found


def _read(path: Path, allow: Iterable[type]) -> Any:
    """The content of one file, by what it is, whatever its suffix says."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if not start:
        raise WeightsError(f"{path}: is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a Git-LFS pointer, not the weights; run `git lfs pull` in its repository")
    # a header's length may begin as a pickle does, but no pickle holds its own length and a brace
    tensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    torch_file = not tensors and (start[:2] == b"PK" or start[:1] == b"\x80")
    if tensors or (not torch_file and path.suffix == ".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{path}: not a whole .safetensors file ({error}); download it again") from error
    if not torch_file:
        raise WeightsError(f"{path}: neither a .safetensors nor a torch file ({start[:12]!r}...); download it again")
    if changed := changed_part(path):
        raise WeightsError(f"{path}: {changed} is not as it was written (its checksum differs); download it again")
    try:
        # from an open file: given a path, torch goes by its suffix
        with torch.serialization.safe_globals(list(allow)), path.open("rb") as opened:
            return torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds; all mean the same to a user
        raise WeightsError(f"{path}: cannot be read safely as weights: {_why(str(error))}") from error


def changed_part(path: Path) -> str | None:
    """The first part of a torch file whose checksum differs: `torch.load` reads such numbers without a word.

    Files that were written without checksums, or are no zips, have nothing to compare: None.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if not part.CRC:
                    continue
                try:
                    with archive.open(part) as file:
                        while file.read(1 << 24):
                            pass
                except zipfile.BadZipFile:
                    return part.filename
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError):  # the loader says what it is
        return None
    return None


def _why(text: str) -> str:
    """A refusal by torch in one line, without its advice to give up safety."""
    if held := re.search(r"Unsupported (?:global|class|operand)[^\w]*(?:GLOBAL )?([\w.]+)", text):
        return f"it would run or build {held[1]}; ask its author for a file of tensors only"
    if "weights_only" in text:
        return "it holds more than tensors; ask its author for a file of tensors only"
    return f"{text.splitlines()[0][:200] if text else 'damaged'}; download it again"


def _kind(content: Any) -> str:
    return "a list" if isinstance(content, list | tuple) else f"a {type(content).__name__}"


def save(state: Mapping[str, Tensor], path: Path | str, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors through a temporary file, so that a killed write never leaves half a file."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch()
    usual = partial.stat().st_mode & 0o777  # safetensors lets the owner alone read
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, partial, dict(metadata or {}))
    partial.chmod(usual)
    partial.replace(path)


def _any_match(patterns: Iterable[str], key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def _examples(keys: Sequence[str]) -> str:
    return f" ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else ""
