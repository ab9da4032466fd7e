"""Bytes, FLOPs and kernels of one training step, counted on the meta device at any size, or on the CPU."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

# PyTorch's guide "Extending PyTorch" names this import for modes below autograd; there is no other path to it.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rvos_lightning.run.pretend import Pretend


@dataclass
class Cost:
    """One training step.

    Attributes:
        activations: bytes at the worst moment beside parameters, gradients and optimizer.
        flops: forward and backward.
        kernels: operations that a GPU has to be told one by one, forward and backward.
    """

    activations: float
    flops: float
    kernels: int = 0


class Meter(TorchDispatchMode):
    """Follows the life of every storage that operations make.

    Args:
        known: tensors that are accounted for elsewhere (parameters, the batch).
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.live = self.gradients = self.activations = self.kernels = 0
        self._storages = {id(tensor.untyped_storage()) for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at what it made."""
        result = func(*args, **(kwargs or {}))
        self.kernels += not func.is_view
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._storages:
            return
        self._storages.add(id(storage))
        self.live += storage.nbytes()
        weakref.finalize(storage, self._gone, id(storage), storage.nbytes()).atexit = False
        self.activations = max(self.activations, self.live - self.gradients)

    def _gone(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live -= size

    def gradient(self, parameter: Tensor) -> None:
        """Called as soon as a parameter has its gradient."""
        self.gradients += parameter.grad.untyped_storage().nbytes()  # type: ignore[union-attr]


PLAIN = functional.scaled_dot_product_attention


def fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` that keeps no matrix without numbers either, as GPUs and CPUs compute it.

    On the meta device PyTorch takes attention apart, and every matrix would be counted until the backward pass. This is
    the kernel that takes every mask and every width.
    """
    if not query.is_meta:
        return PLAIN(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    ahead = torch.broadcast_shapes(*(x.shape[:-3] for x in (query, key, value)))
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    parts = [x.expand(*ahead, *x.shape[-3:]).reshape(-1, *x.shape[-3:]) for x in (query, key, value)]
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
        shape = (*ahead, *query.shape[-3:-1], key.shape[-2])
        attn_mask = attn_mask.expand(shape).reshape(-1, *shape[-3:])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention  # PyTorch gives its fused kernels no other name
    mixed = kernel(*parts, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]
    return mixed.reshape(*ahead, *mixed.shape[-3:])


@contextmanager
def uncollected() -> Iterator[None]:
    """What a step leaves in cycles stays, as it may until the collector comes, so that every count is the same."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(network: nn.Module, loss: Callable[[], Tensor], batch: Sequence[Tensor]) -> Cost:
    """Count one forward and backward pass; gradients are gone afterwards.

    Args:
        network: whose parameters get gradients.
        loss: runs the forward pass.
        batch: tensors that exist anyway.
    """
    network.zero_grad(set_to_none=True)
    parameters = list(network.parameters())
    meter = Meter([*parameters, *network.buffers(), *batch])
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    hooks = [parameter.register_post_accumulate_grad_hook(meter.gradient) for parameter in trainable]
    counter = FlopCounterMode(display=False)
    # Not a TorchFunctionMode: those are off in the backward pass, in which checkpointed parts are computed again.
    with patch.object(functional, PLAIN.__name__, fused), uncollected(), counter, meter, Pretend():
        loss().backward()
    for hook in hooks:
        hook.remove()
    network.zero_grad(set_to_none=True)
    return Cost(meter.activations, counter.get_total_flops(), meter.kernels)


@dataclass
class State:
    """Bytes that stay from step to step.

    Attributes:
        parameters: all of them and the buffers.
        trainable: those that get gradients; as many bytes of gradients.
        optimizer: its state.
        unit: the largest part that FSDP2 or ZeRO-3 gathers at once.
        step: the optimizer's scratch space.
    """

    parameters: int
    trainable: int
    optimizer: int
    unit: int
    step: int


def state_of(network: nn.Module, optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], units: list[int]) -> State:
    """Count on the meta device; the optimizer makes one step there to show its state.

    Args:
        network: only shapes and dtypes count.
        optimizer: builds it from parameters.
        units: bytes of each unit of `sharding.blocks`.
    """
    everything = [*network.parameters(), *network.buffers()]
    shapes = [(p.shape, p.dtype) for p in network.parameters() if p.requires_grad]
    trainable = [nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for shape, dtype in shapes]
    for parameter in trainable:
        parameter.grad = torch.zeros_like(parameter)
    made = optimizer(trainable)  # type: ignore[arg-type]
    for group in made.param_groups:
        if group.get("fused"):  # keeps the same state, but has no kernel for meta
            group["fused"] = False
    made.step()
    kept = [value for state in made.state.values() for value in state.values() if isinstance(value, Tensor)]
    size = sum(map(bytes_of, trainable))
    total = sum(map(bytes_of, everything))
    return State(total, size, sum(map(bytes_of, kept)), max([total - sum(units), *units]), size)


def bytes_of(tensor: Tensor) -> int:
    """Size of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


def per_gpu(state: State, cost: Cost, gpus: int) -> dict[str, float]:
    """Bytes on each GPU under each strategy; 2 * 10^8 elements are DeepSpeed's default bucket."""
    bucket = min(state.trainable, 2 * 10**8 * 4)
    held = state.parameters + state.optimizer
    spread = (state.parameters + state.trainable + state.optimizer) / gpus
    return {
        "one process": held + max(cost.activations, state.trainable + state.step),  # no gradients before backward
        "ddp": held + state.trainable + max(cost.activations, state.step),
        "deepspeed2": state.parameters + (state.trainable + state.optimizer) / gpus + bucket + cost.activations,
        "deepspeed3": spread + 2 * state.unit + bucket + cost.activations,
        "deepspeed3_offload": 2 * state.unit + bucket + cost.activations,
        "fsdp2": spread + 2 * state.unit + cost.activations,
    }
