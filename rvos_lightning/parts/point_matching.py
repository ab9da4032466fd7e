"""Masks compared at random points, and queries matched one to one with targets (Mask2Former, Cheng et al. 2022)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Draw = Callable[..., Tensor]
"""Uniform numbers in [0, 1) of a shape, on a `device`; `torch.rand` but in tests."""


class Matches(NamedTuple):
    """Matched triples, sorted by row, then by query.

    Attributes:
        row: of the batch.
        query: of that row.
        target: of that row.
    """

    row: Int[Tensor, "matches"]
    query: Int[Tensor, "matches"]
    target: Int[Tensor, "matches"]


def at_points(
    maps: Float[Tensor, "rows maps h w"], where: Float[Tensor, "rows points 2"]
) -> Float[Tensor, "rows maps points"]:
    """Bilinear samples of every map of a row at that row's points (x, y in [0, 1]); zero beyond the border."""
    return F.grid_sample(maps, 2 * where[:, None] - 1, align_corners=False)[:, :, 0]


@torch.no_grad()
def uncertain_points(
    logits: Float[Tensor, "masks h w"], points: int, oversample: float, importance: float, draw: Draw = torch.rand
) -> Float[Tensor, "masks points 2"]:
    """Of `oversample * points` random places those with the smallest |logit|, smallest first, then fresh random ones.

    Args:
        logits: of each mask.
        points: how many are returned.
        oversample: candidates per point.
        importance: share of the points taken among the candidates.
        draw: gives random numbers.
    """
    kept = int(importance * points)
    where = draw(len(logits), int(points * oversample), 2, device=logits.device)
    doubt = -at_points(logits[:, None], where)[:, 0].abs()
    best = doubt.topk(kept, dim=1).indices
    chosen = where.gather(1, best[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, draw(len(logits), points - kept, 2, device=logits.device)], 1)


def point_costs(
    logits: Float[Tensor, "rows queries points"], targets: Float[Tensor, "rows targets points"]
) -> tuple[Float[Tensor, "rows queries targets"], Float[Tensor, "rows queries targets"]]:
    """Mean cross-entropy and dice of every query against every target of its row."""
    inside = targets.transpose(1, 2)
    cross = (F.softplus(logits).sum(-1, keepdim=True) - logits @ inside) / logits.shape[-1]
    probs = logits.sigmoid()
    areas = probs.sum(-1, keepdim=True) + targets.sum(-1)[:, None]
    return cross, 1 - (2 * (probs @ inside) + 1) / (areas + 1)


@torch.no_grad()
def match(costs: Float[Tensor, "rows queries targets"], counts: list[int]) -> Matches:
    """One query a target, at the least total cost of every row.

    A row of one target is an argmin and stays on its device; rows of several are solved on the CPU, fetched at once.

    Args:
        costs: of every query of a row for every target of that row.
        counts: how many targets of a row are real; the others pad.

    Raises:
        ValueError: a cost that is not finite, which comes from a network that diverged.
    """
    several = [row for row, count in enumerate(counts) if count > 1]
    solved: dict[int, tuple[list[int], list[int]]] = {}
    if several:
        from scipy.optimize import linear_sum_assignment

        matrices = costs[several].float().cpu().numpy()
        for row, matrix in zip(several, matrices, strict=True):
            try:
                queries, targets = linear_sum_assignment(matrix[:, : counts[row]])
            except ValueError as error:
                raise ValueError("matching costs are not finite: the network diverged; lower the learning rate or clip "
                                 "gradients") from error  # fmt: skip
            solved[row] = (queries.tolist(), targets.tolist())
    device = costs.device
    single = costs[..., 0].argmin(1) if costs.shape[2] else torch.zeros(len(costs), dtype=torch.long, device=device)
    rows, queries, targets = [], [], []
    for row, count in enumerate(counts):
        if count == 1:
            rows.append(row)
            queries.append(single[row : row + 1])
            targets.append(0)
        elif count > 1:
            rows += [row] * len(solved[row][0])
            queries.append(torch.tensor(solved[row][0], device=device))
            targets += solved[row][1]
    empty = torch.zeros(0, dtype=torch.long, device=device)
    return Matches(
        torch.tensor(rows, dtype=torch.long, device=device),
        torch.cat(queries) if queries else empty,
        torch.tensor(targets, dtype=torch.long, device=device),
    )
