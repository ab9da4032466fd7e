"""Rows of every process, for losses that compare with the whole global batch."""

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch import distributed as dist


def from_all_processes(rows: Shaped[Tensor, "rows d"]) -> tuple[Shaped[Tensor, "_all d"], int]:
    """All processes' rows and where this one's begin. Processes may have different numbers of rows.

    Gradients reach this process's own rows only; other processes reach theirs themselves.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, 0
    ranks = dist.get_world_size()
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(ranks)]
    dist.all_gather(counts, count)
    longest = int(max(counts))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    everyone = [torch.zeros_like(padded) for _ in range(ranks)]
    dist.all_gather(everyone, padded)
    kept = [part[: int(number)] for part, number in zip(everyone, counts, strict=True)]
    kept[dist.get_rank()] = rows
    return torch.cat(kept), sum(int(number) for number in counts[: dist.get_rank()])
