"""Every process holds all parameters: one process, DDP. The base of the sharded forms."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


class Whole:
    """What a network needs under a strategy that leaves its parameters whole.

    Args:
        strategy: the trainer's.
        network: what is trained.

    Attributes:
        whole: the network to evaluate with; while evaluation is on, its forward pass needs no other rank.
    """

    def __init__(self, strategy: Strategy, network: nn.Module):
        self.strategy, self.network, self.whole = strategy, network, network
        self._ddp: DistributedDataParallel | None = None

    def prepare(self, module: LightningModule, above: int) -> None:
        """Spread the parameters.

        Args:
            module: whose call is a whole training step.
            above: blocks with more parameters are gathered one at a time.
        """

    def start_evaluation(self) -> None:
        """DDP sends buffers round in every forward pass, and ranks have unequal numbers of them: once must do."""
        model = self.strategy.model
        if isinstance(model, DistributedDataParallel) and model.broadcast_buffers:
            self._ddp, model.broadcast_buffers = model, False
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def end_evaluation(self) -> None:
        """Back to training."""
        if self._ddp is not None:
            self._ddp.broadcast_buffers, self._ddp = True, None

    def reach(self, loss: Tensor) -> Tensor:
        """The same loss, attached to every trainable parameter: what it did not reach gets a gradient of zeros.

        The one rule by which DDP, FSDP2 and DeepSpeed find on every rank the gradients they wait for, and a parameter
        is treated alike with and without them, whatever a step's data left unused.
        """
        return Reach.apply(loss, *trainable(self.network))

    def after_backward(self) -> None:
        """All gradients have come."""

    def name_idle(self, loss: Tensor) -> None:
        """Say which trainable parameters `loss` does not reach, as far as their own graph nodes show it."""
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        indices = sorted(unreached(loss, [parameter for _, parameter in named]))
        idle = [named[i][0] for i in indices if not isinstance(named[i][1], DTensor)]  # those are spread again by now
        if idle:
            rank_zero_info(
                f"no loss reaches {len(idle)} trainable parameters, first {', '.join(idle[:3])}: they only decay. "
                "Freeze them (rvos_lightning.parts.weights.freeze) or add the objective that trains them"
            )

    def finite_before_step(self) -> bool:
        """Whether all gradients are finite, seen on this rank; costs one pass over them."""
        gradients = [parameter.grad for parameter in trainable(self.network) if parameter.grad is not None]
        local = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients]
        return bool(torch.nn.utils.get_total_norm(local).isfinite()) if local else True

    def finite_after_step(self) -> bool:
        """The same for engines that show gradients only when the step is done."""
        return True


class Reach(torch.autograd.Function):
    """Identity on the first argument; backward gives zeros to the others."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        """Make the zeros at once, as a parameter under ZeRO-3 has lost its shape when they are due."""
        ctx.zeros = [zeros_for(parameter.detach()) for parameter in parameters]
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The zeros."""
        return gradient, *ctx.zeros


def zeros_for(parameter: Tensor) -> Tensor:
    """Zeros of a parameter's shape; one number, repeated, where that is possible."""
    if isinstance(parameter, DTensor):
        return torch.zeros_like(parameter)
    return parameter.new_zeros(()).expand(parameter.shape)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Parameters that want gradients, in order."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def unreached(loss: Tensor, parameters: Iterable[Tensor]) -> set[int]:
    """Indices of parameters that the graph behind `loss` does not hold; walks every node, about 1 us each."""
    seen: set[Any] = set()
    held: set[int] = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            held.add(id(variable))
        pending += [following for following, _ in node.next_functions]
    return {index for index, parameter in enumerate(parameters) if id(parameter) not in held}


def blocks(network: nn.Module, above: int) -> Iterator[tuple[str, nn.Module]]:
    """Entries of every `ModuleList` and `Sequential` with more than `above` parameters.

    Only these are called as wholes wherever they are; so only they may be gathered and given back one at a time.
    """
    for parent, module in network.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        for name, block in module.named_children():
            container = isinstance(block, nn.ModuleList | nn.ModuleDict | nn.ParameterList)  # never called
            if not container and sum(p.numel() for p in block.parameters()) > above:
                yield f"{parent}.{name}" if parent else name, block
