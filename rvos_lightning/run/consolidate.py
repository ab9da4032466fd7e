"""One ordinary weights file from any strategy's checkpoint.

    rvos convert run RUN/checkpoints/last.ckpt weights.safetensors

reads a checkpoint file (DDP, one process), a folder of FSDP2 shards or a folder of DeepSpeed shards, on one CPU,
and writes the network's weights. `--model.weights weights.safetensors` starts from them under any strategy.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rvos_lightning.parts.tuning import merged
from rvos_lightning.parts.weights import WeightsError, save

PREFIX = "network."


def consolidate(source: Path) -> dict[str, Tensor]:
    """The network's whole state, keys as in `Network.state_dict()`.

    Raises:
        WeightsError: not a checkpoint of a run.
    """
    if not source.exists():
        raise WeightsError(f"{source}: no such checkpoint; give RUN/checkpoints/last.ckpt or best.ckpt")
    if source.is_file():
        state = torch.load(source, map_location="cpu", weights_only=True, mmap=True).get("state_dict", {})
    elif (source / ".metadata").exists():
        state = from_fsdp2(source)
    elif (source / "latest").exists():
        state = from_deepspeed(source)
    else:
        raise WeightsError(f"{source}: a folder with neither FSDP2 (.metadata) nor DeepSpeed (latest) shards in it")
    network = {key.split(PREFIX, 1)[1]: tensor for key, tensor in state.items() if PREFIX in key}
    if not network:
        raise WeightsError(f"{source}: holds no key with {PREFIX!r}: not a run's checkpoint")
    return network


def from_fsdp2(folder: Path) -> dict[str, Tensor]:
    """Assemble torch's distributed checkpoint, weights only."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader = checkpoint.FileSystemReader(folder)
    start = "state_dict."
    state = {
        key.removeprefix(start): torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in reader.read_metadata().state_dict_metadata.items()
        if key.startswith(start) and isinstance(entry, TensorStorageMetadata)
    }
    checkpoint.load({"state_dict": state}, storage_reader=reader, no_dist=True)
    return state


def from_deepspeed(folder: Path) -> Mapping[str, Tensor]:
    """Assemble ZeRO shards in 32 bit; DeepSpeed reads its files with pickle, so only open your own."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    return get_fp32_state_dict_from_zero_checkpoint(str(folder))


def gather(source: Path, destination: Path, merge: bool = False) -> str:
    """Write a checkpoint's network weights, sharded or not, as one safetensors file; returns a line about it.

    Args:
        source: file or folder of a checkpoint.
        destination: file to write.
        merge: add low-rank adapters of a fine-tuning to the layers they are on.

    Raises:
        WeightsError: not a checkpoint of a run.
    """
    state = merged(consolidate(source)) if merge else consolidate(source)
    save(state, destination)
    size = destination.stat().st_size / 2**20
    return f"{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers, {size:.1f} MiB"
