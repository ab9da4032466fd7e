"""Safetensors folders read and written tensor by tensor, so that 26B needs no more memory than its weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from rvos_lightning.parts.weights import WeightsError, located, mark_reproducible


def shard_files(path: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, or the file itself.

    Raises:
        WeightsError: nothing there.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] * path.exists()
    if not files:
        raise WeightsError(f"{path}: no *.safetensors there; give the folder that holds the shards")
    return files


def keys_of(path: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Every key of a checkpoint with its file and shape; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in shard_files(path):
        try:
            with safe_open(file, framework="pt") as shard:
                names = {key: (file, tuple(shard.get_slice(key).get_shape())) for key in shard.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: not a whole .safetensors file ({error}); download it again") from error
        if twice := found.keys() & names.keys():
            raise WeightsError(f"{file}: {sorted(twice)[0]} is in another shard too; get the shards again")
        found.update(names)
    return found


def holds(path: Path, prefix: str) -> bool:
    """Whether a checkpoint has anything under a prefix."""
    return any(key.startswith(prefix) for key in keys_of(located(path)))


class Tensors:
    """Reads tensors by key from a checkpoint, one file open at a time."""

    def __init__(self, path: Path) -> None:
        self.where = keys_of(path)

    def __getitem__(self, key: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self.where[key][0], framework="pt") as shard:
            return shard.get_tensor(key)


def write_shards(
    tensors: Iterator[tuple[str, Callable[[], Tensor]]], folder: Path, limit: int = 4 * 2**30
) -> dict[str, str]:
    """Write (name, maker) pairs as safetensors shards of at most `limit` bytes; returns name -> file name."""
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, Tensor] = {}
    size, number, written = 0, 0, {}
    for name, make in tensors:
        tensor = make().contiguous()
        if shard and size + tensor.nbytes > limit:
            _flush(shard, folder, number, written)
            shard, size, number = {}, 0, number + 1
        shard[name] = tensor
        size += tensor.nbytes
    _flush(shard, folder, number, written)
    total = {"metadata": {}, "weight_map": written}
    (folder / "model.safetensors.index.json").write_text(json.dumps(total, indent=1))
    return written


def _flush(shard: dict[str, Tensor], folder: Path, number: int, written: dict[str, str]) -> None:
    from safetensors.torch import save_file

    name = f"model-{number:05d}.safetensors"
    partial = folder / f"{name}.partial"
    save_file({key: tensor.clone() if _shares(tensor) else tensor for key, tensor in shard.items()}, partial)
    partial.replace(folder / name)
    written.update(dict.fromkeys(shard, name))


def _shares(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() != tensor.nbytes


@torch.no_grad()
def fill(module: nn.Module, path: Path, prefix: str) -> None:
    """Copy a checkpoint's tensors under `prefix` into a module, one at a time.

    Rows that a larger vocabulary has beyond the checkpoint's become the mean of the others.

    Raises:
        WeightsError: a tensor of the module is missing or has another shape.
    """
    tensors = Tensors(located(path))
    for name, own in module.state_dict().items():
        if prefix + name not in tensors.where:
            raise WeightsError(f"{path}: key {prefix + name} is missing; convert the checkpoint of this size first")
        value = tensors[prefix + name]
        longer = value.shape[1:] == own.shape[1:] and len(own) > len(value) and name.endswith(_VOCABULARY)
        if value.shape != own.shape and not longer:
            raise WeightsError(f"{path}: {name} is {tuple(value.shape)}, the model's {tuple(own.shape)}; check `size`")
        if longer:
            own[len(value) :] = value.float().mean(0).to(own.dtype)
        own[: len(value)].copy_(value) if own.ndim else own.copy_(value)


_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")


def mark_frozen(module: nn.Module, source: str) -> None:
    """Tell checkpoints that wholly frozen leaves can be read again from `source`."""
    for child in module.modules():
        own = list(child.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own) and not list(child.children()):
            mark_reproducible(child, source)
