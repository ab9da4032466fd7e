"""FSDP2: parameters, gradients and optimizer states are spread over the ranks.

FSDP2 gathers a module's parameters when its `forward` is called. So only whole *blocks* (entries of a `ModuleList` or
`Sequential`, which are always called) become units of their own; everything else belongs to the network's own
unit, gathered for the whole of `Network.forward`, wherever inside it is used.
"""

from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from rvos_lightning.run.sharding.whole import Whole, blocks


class Fsdp2(Whole):
    """Blocks and the rest of the network become units; in evaluation all units stay gathered."""

    def prepare(self, module: LightningModule, above: int) -> None:
        """Shard, unless an earlier stage of the same process has done so."""
        from torch.distributed.fsdp import FSDPModule

        if not isinstance(self.network, FSDPModule):
            shard(self.network, module.device_mesh["data_parallel"], above)

    def start_evaluation(self) -> None:
        """Gather all units.

        Ranks have other videos, other numbers of windows and frames: gathering a unit in each forward pass would wait
        for ranks that make no such pass, for ever. Costs the memory of all parameters.
        """
        for unit in self._units():
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()

    def end_evaluation(self) -> None:
        """Spread the units again."""
        for unit in self._units():
            unit.set_reshard_after_forward(unit is not self.network, recurse=False)  # the root's stay by default
            unit.reshard()

    def _units(self) -> list[Any]:
        from torch.distributed.fsdp import FSDPModule

        return [module for module in self.network.modules() if isinstance(module, FSDPModule)]


def shard(network: nn.Module, mesh: Any, above: int) -> None:
    """Apply `fully_shard` to each block with more than `above` parameters, inner ones first, then to the network.

    Args:
        network: changed in place; its parameters become distributed tensors.
        mesh: one-dimensional device mesh to spread over.
        above: smaller blocks stay in the unit around them, as gathering tiny units costs more than it saves.
    """
    from torch.distributed.fsdp import fully_shard

    for _, block in reversed(list(blocks(network, above))):  # parents come before their children
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
