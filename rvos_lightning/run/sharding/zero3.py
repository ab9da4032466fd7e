"""DeepSpeed: ZeRO 1 and 2 spread optimizer states and gradients over the ranks, ZeRO 3 the parameters, too."""

import copy
import math
from contextlib import ExitStack

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from rvos_lightning.parts.weights import reproducible_prefixes
from rvos_lightning.run.sharding.whole import Reach, Whole, blocks, trainable, unreached


class Zero(Whole):
    """ZeRO 1 and 2: parameters are whole on every rank, gradients belong to DeepSpeed's engine."""

    def prepare(self, module: LightningModule, above: int) -> None:
        """Leave frozen parameters out of checkpoints when all of them can be read again from their files."""
        prefixes = tuple(reproducible_prefixes(self.network))
        frozen = [name for name, parameter in self.network.named_parameters() if not parameter.requires_grad]
        self.strategy.exclude_frozen_parameters = bool(prefixes) and all(n.startswith(prefixes) for n in frozen)

    def finite_before_step(self) -> bool:
        """Not known: gradients lie in the engine's own buffers."""
        return True

    def finite_after_step(self) -> bool:
        """By the norm that the engine clipped with; -1 is its sign for NaN or infinity."""
        norm = self.strategy.deepspeed_engine.get_global_grad_norm()
        return norm is None or (math.isfinite(norm) and norm >= 0)


class Zero3(Zero):
    """Parameters are gathered when a module's forward or backward pass asks for them."""

    def __init__(self, strategy: Strategy, network: nn.Module):
        super().__init__(strategy, network)
        self._held = ExitStack()

    def prepare(self, module: LightningModule, above: int) -> None:
        """Keep a network without numbers for `start_evaluation`, then tell DeepSpeed what belongs to no block."""
        super().prepare(module, above)
        empty = {
            id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            for parameter in self.network.parameters()
        }
        self._empty = copy.deepcopy(self.network, empty)  # before DeepSpeed puts hooks into it
        self._hold_loose(module, above)

    def _hold_loose(self, module: nn.Module, above: int) -> None:
        """Gather what belongs to no large block for the whole of a training step, as FSDP2's own unit is.

        Such parameters may be used by methods, by another module, or inside a module that returns a dataclass.
        DeepSpeed gathers them when the forward pass asks for them, but does not see that the backward pass needs them
        again. Blocks are left to DeepSpeed; ranks must call them in one order, which is why nothing that differs
        between ranks may decide which parts of a network run.
        """
        import deepspeed

        self._spread = {id(parameter) for _, block in blocks(self.network, above) for parameter in block.parameters()}
        for parameter in self.network.parameters():
            if id(parameter) not in self._spread:
                deepspeed.zero.register_external_parameter(module, parameter)

    def start_evaluation(self) -> None:
        """A whole copy, called past the engine, which compares notes between ranks in each call.

        The copy is there for the reason that `Fsdp2` gathers all units. Costs the memory of all parameters.
        """
        self._engine, self.strategy.model = self.strategy.model, self.strategy.lightning_module
        self.whole = filled(self._empty, self.network)

    def end_evaluation(self) -> None:
        """Give the copy's memory back."""
        self.whole, self.strategy.model = self.network, self._engine

    def reach(self, loss: Tensor) -> Tensor:
        """As the base, but only what was not reached, gathered until its zeros have come.

        Outside of its call a block's parameters have no shape; and DeepSpeed reduces what has a gradient, and would
        else apply the gradient that a block had when it last ran.
        """
        import deepspeed

        parameters = trainable(self.network)
        idle = [parameters[index] for index in sorted(unreached(loss, parameters))]
        self._held.enter_context(deepspeed.zero.GatheredParameters([p for p in idle if id(p) in self._spread]))
        return Reach.apply(loss, *idle)

    def after_backward(self) -> None:
        """Spread again what `reach` has gathered."""
        self._held.close()


def filled(empty: nn.Module, network: nn.Module) -> nn.Module:
    """A copy of `empty` with the parameters, gathered one by one, and buffers of the ZeRO-3 network."""
    import deepspeed

    copied, state = copy.deepcopy(empty), {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter]):
            state[name] = parameter.detach().clone()
    copied.load_state_dict(state, strict=False, assign=True)
    copied.to(next(iter(state.values())).device)
    for own, source in zip(copied.buffers(), network.buffers(), strict=True):
        own.copy_(source)
    return copied.train(network.training)
