"""What strategies need of us: FSDP2 blocks, frozen parameters left out of shards, batches in low precision.

FSDP2 gathers a module's parameters when its `forward` is called. So only whole *blocks* (entries of a `ModuleList` or
`Sequential`, which are always called) become units of their own; everything else belongs to the network's own
unit, gathered for the whole of `Network.forward`, wherever inside it is used.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn

from rvos_lightning.parts.weights import reproducible_prefixes


def shard(network: nn.Module, mesh: Any, above: int) -> list[str]:
    """Apply `fully_shard` to each block with more than `above` parameters, inner ones first, then to the network.

    Args:
        network: changed in place; its parameters become distributed tensors.
        mesh: one-dimensional device mesh to spread over.
        above: smaller blocks stay in the unit around them, as gathering tiny units costs more than it saves.

    Returns:
        Names of the blocks that became units.
    """
    from torch.distributed.fsdp import fully_shard

    units = list(blocks(network, above))
    for _, block in reversed(units):  # parents come before their children
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return [name for name, _ in units]


def blocks(network: nn.Module, above: int) -> Iterator[tuple[str, nn.Module]]:
    """Entries of every `ModuleList` and `Sequential` that are blocks of their own size."""
    for parent, module in network.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        for name, block in module.named_children():
            container = isinstance(block, nn.ModuleList | nn.ModuleDict | nn.ParameterList)  # never called
            if not container and sum(p.numel() for p in block.parameters()) > above:
                yield f"{parent}.{name}" if parent else name, block


def template(strategy: Strategy, network: nn.Module) -> nn.Module | None:
    """Under ZeRO-3 the network without its numbers and before DeepSpeed puts hooks into it; for `whole`."""
    if not (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3):
        return None
    empty = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in network.parameters()
    }
    return copy.deepcopy(network, empty)


def hold_loose(strategy: Strategy, root: nn.Module, network: nn.Module, above: int) -> None:
    """Under ZeRO-3, gather what belongs to no large block for the whole of a training step, as FSDP2's own unit is.

    Such parameters may be used by methods, by another module, or inside a module that returns a dataclass. DeepSpeed
    gathers them when the forward pass asks for them, but does not see that the backward pass needs them again.

    Args:
        strategy: nothing is done unless it is ZeRO-3.
        root: the module whose call is the whole step.
        network: searched for parameters.
        above: entries of lists with more parameters are blocks, left to DeepSpeed. Ranks must call them in one order,
            which is why nothing that differs between ranks may decide which parts of a network run.
    """
    if not (isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3):
        return
    import deepspeed

    spread = {id(parameter) for _, block in blocks(network, above) for parameter in block.parameters()}
    for parameter in network.parameters():
        if id(parameter) not in spread:
            deepspeed.zero.register_external_parameter(root, parameter)


@contextmanager
def whole(strategy: Strategy, network: nn.Module, empty: nn.Module | None) -> Iterator[nn.Module]:
    """A network whose parameters are whole on every rank, so that no forward pass needs the others.

    In evaluation ranks have other videos, other numbers of windows and frames: gathering a unit's parameters in each
    forward pass would wait for ranks that make no such pass, for ever. Costs the memory of all parameters.

    Args:
        strategy: decides what has to be done.
        network: as trained.
        empty: made by `template`.
    """
    if isinstance(strategy, ModelParallelStrategy):
        with unsharded(network):
            yield network
    elif empty is not None:
        with past_engine(strategy):
            yield filled(empty, network)
    else:
        yield network


@contextmanager
def unsharded(network: nn.Module) -> Iterator[None]:
    """Gather all FSDP2 units, and spread them again at the end."""
    from torch.distributed.fsdp import FSDPModule

    units = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    yield
    for unit in units:
        unit.set_reshard_after_forward(unit is not network, recurse=False)  # the root's parameters stay by default
        unit.reshard()


@contextmanager
def past_engine(strategy: Strategy) -> Iterator[None]:
    """Call the steps directly: DeepSpeed's engine compares notes between ranks in each call."""
    engine, strategy.model = strategy.model, strategy.lightning_module
    yield
    strategy.model = engine


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


def spare_frozen(strategy: Strategy, network: nn.Module) -> None:
    """DeepSpeed leaves frozen parameters out of its shards when all of them can be read again from their files."""
    if isinstance(strategy, DeepSpeedStrategy):
        prefixes = tuple(reproducible_prefixes(network))
        frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
        strategy.exclude_frozen_parameters = bool(prefixes) and all(name.startswith(prefixes) for name in frozen)


def convert_batches(plugin: Precision) -> None:
    """Let a precision plugin convert our frozen batches, which Lightning's own loop over collections refuses."""
    convert = plugin.convert_input
    plugin.convert_input = lambda data: converted(data, convert)  # type: ignore[method-assign]


def converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    """A copy in which every floating-point tensor went through `convert`; dataclasses are entered."""
    if is_dataclass(value) and not isinstance(value, type):
        changes = {entry.name: converted(getattr(value, entry.name), convert) for entry in fields(value)}
        return replace(value, **changes)
    return convert(value) if isinstance(value, Tensor) and value.is_floating_point() else value
