"""What a strategy needs of us, in one object that is chosen once from the strategy itself.

`sharding_of(strategy, network)` is `Whole` (one process, DDP), `Zero` (DeepSpeed ZeRO 1 and 2), `Zero3` or `Fsdp2`.
"""

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import nn

from rvos_lightning.run.sharding.fsdp2 import Fsdp2
from rvos_lightning.run.sharding.whole import Whole
from rvos_lightning.run.sharding.zero3 import Zero, Zero3


def sharding_of(strategy: Strategy, network: nn.Module) -> Whole:
    """The one that fits the strategy.

    Args:
        strategy: the trainer's.
        network: what is trained; not touched before `prepare`.

    Raises:
        ValueError: FSDP in its first form.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        return Zero3(strategy, network) if strategy.zero_stage_3 else Zero(strategy, network)
    if isinstance(strategy, ModelParallelStrategy):
        return Fsdp2(strategy, network)
    if isinstance(strategy, FSDPStrategy):
        raise ValueError("FSDP's first form is not supported: use FSDP2, -c configs/trainer/fsdp2.yaml")
    return Whole(strategy, network)


def writes_files(strategy: Strategy) -> bool:
    """Whether checkpoints are ordinary files, written through the strategy's `checkpoint_io`; else folders."""
    return not isinstance(strategy, DeepSpeedStrategy | ModelParallelStrategy)


__all__ = ["Fsdp2", "Whole", "Zero", "Zero3", "sharding_of", "writes_files"]
