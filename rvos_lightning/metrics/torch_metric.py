"""Any protocol as a torchmetrics metric: what the processes of a run counted is gathered before it is averaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rvos_lightning.core.types import SegmentedWindow
from rvos_lightning.metrics.rows import STATES, FrameRows, Scores


class TorchMetric(Metric):
    """A protocol whose rows are gathered from all processes.

    Args:
        protocol: counts and averages; its rows live here between `update` and `compute`.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    rows: list[Tensor]
    confidence: list[Tensor]
    facts: list[Tensor]

    def __init__(self, protocol: FrameRows) -> None:
        super().__init__()
        self.protocol = protocol
        for name in STATES:
            self.add_state(name, [], dist_reduce_fx="cat")
        self.reset()

    def update(self, window: SegmentedWindow) -> None:
        """See `FrameRows.update`."""
        self.protocol.update(window)
        self._take()

    def compute(self) -> Scores:
        """Scores over all processes; see `FrameRows.compute`."""
        with self._lent():
            return self.protocol.compute()

    def table(self) -> list[dict[str, Any]]:
        """One row a unit; under several processes every one must call it, and gets all."""
        with self.sync_context(), self._lent():
            return self.protocol.table()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.protocol.reset()
        self._take()

    def _take(self) -> None:
        """What the protocol has counted becomes part of the states, on the device that they are gathered on."""
        for name in STATES:
            counted = getattr(self.protocol, name)
            getattr(self, name).extend(part.to(self.device) for part in counted)
            counted.clear()

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """The states given back to the protocol, gathered or not."""
        for name in STATES:
            setattr(self.protocol, name, [dim_zero_cat(getattr(self, name)).cpu()])
        try:
            yield
        finally:
            for name in STATES:
                getattr(self.protocol, name).clear()
