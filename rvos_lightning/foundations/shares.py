"""What metrics of several kinds of questions share: how much of each kind is right, over all processes."""

import torch
from torch import Tensor
from torchmetrics import Metric

MOST = 16
"""Kinds at most."""


class SharesByKind(Metric):
    """Counts what is right and how much there was, by kind.

    Attributes:
        kinds: their names, in an order that is the same in every process.
    """

    higher_is_better = True
    full_state_update = False

    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[str] = []
        for name in ("right", "total"):
            self.add_state(name, torch.zeros(MOST), dist_reduce_fx="sum")

    def shares(self, name: str) -> dict[str, Tensor]:
        """`<name>/<kind>`; a kind that never occurs has none."""
        return {f"{name}/{kind}": self.right[n] / self.total[n] for n, kind in enumerate(self.kinds) if self.total[n]}
