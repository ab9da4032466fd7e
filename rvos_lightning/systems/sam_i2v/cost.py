"""Multiply-accumulates of SAM-I2V's parts on meta tensors: the published way of counting, and all of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.systems.sam_i2v.rope_attention import sine_2d
from rvos_lightning.systems.sam_i2v.temporal_integrator import STAGES, TemporalIntegrator, TemporalStage


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one frame.

    Attributes:
        plain: convolutions, linear layers and explicit matrix products: what the published counter sees.
        attention: products inside fused attention, which that counter leaves out.
    """

    plain: float
    attention: float = 0.0

    @property
    def total(self) -> float:
        """Everything."""
        return self.plain + self.attention


class _WithoutAttention(TorchFunctionMode):
    """Takes fused attention out of the computation and adds up its products."""

    products = 0.0

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Everything else runs as it is."""
        kwargs = kwargs or {}
        if function is not functional.scaled_dot_product_attention:
            return function(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        rows = query.shape[:-1].numel()
        self.products += rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def measure(call: Callable[[], object]) -> Cost:
    """Run `call` on meta tensors and count."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _WithoutAttention() as attention:
        call()
    return Cost(counter.get_total_flops() / 2, attention.products)


def image(size: int = 1024) -> Tensor:
    """One frame without numbers."""
    return torch.empty(1, 3, size, size, device="meta")


def encoder_cost(network: PromptedSegmenter, released: bool) -> Cost:
    """The image encoder on one frame; `released`: TinyViT's windows padded, padding asking, too."""
    sam = network.segmenter
    with _padded(sam.encoder) if released else nullcontext():
        return measure(lambda: sam.encoder(image(sam.image_size)))


@contextmanager
def _padded(encoder: nn.Module) -> Iterator[None]:
    """TinyViT as timm computes it."""
    from rvos_lightning.parts.segmenters.tiny_vit import SHORT

    plain = {short: long for long, short in SHORT.items()}
    changed = [(module, type(module)) for module in encoder.modules() if type(module) in plain]
    try:
        for module, short in changed:
            module.__class__ = plain[short]
        yield
    finally:
        for module, short in changed:
            module.__class__ = short


def integrator_cost(network: PromptedSegmenter, frames: int, released: bool) -> Cost:
    """The temporal integrator per new frame.

    Args:
        network: on the meta device.
        frames: clip length.
        released: in the released order: the whole clip through the 3-D stem for every frame, every slot through the
            last stage, and the third fusion, which nothing reads; else as this package computes it.
    """
    adapter, sam = network.adapter, network.segmenter
    sizes = [(width, sam.grid) for width in adapter.channels]
    levels = tuple(torch.empty(1, width, side, side, device="meta") for width, side in sizes)
    if not released:
        stem = torch.empty(1, adapter.stem.out_channels, frames, sam.grid, sam.grid, device="meta")
        weight = adapter.stem.weight.movedim(2, 0).flatten(0, 1)
        return measure(
            lambda: (
                functional.conv2d(image(sam.image_size), weight, stride=adapter.patch),
                adapter.integrate_levels(levels, stem),
            )
        )
    clip = torch.empty(1, 3, frames, sam.image_size, sam.image_size, device="meta")
    with _every_slot(adapter):
        return measure(lambda: _released_order(adapter, levels, adapter.stem(clip)))


@contextmanager
def _every_slot(adapter: TemporalIntegrator) -> Iterator[None]:
    """The last stage computes all slots, as released."""
    last: TemporalStage = adapter.temporal[STAGES - 1]  # type: ignore[assignment]
    last.newest_only = False
    try:
        yield
    finally:
        last.newest_only = True


def _released_order(adapter: TemporalIntegrator, levels: tuple[Tensor, ...], stem: Tensor) -> None:
    """Our steps, and the fusion that nothing reads: the same as the first of that kind."""
    adapter.integrate_levels(levels, stem)
    both = torch.empty(1, adapter.to_temporal[0][0].in_channels, *stem.shape[-2:], device="meta")
    adapter.to_temporal[0](both)


def memory_costs(network: PromptedSegmenter, memories: int = 7) -> dict[str, Cost]:
    """Memory encoder, memory attention and prompt generator of one object with so many memories."""
    memory, sam = network.memory, network.segmenter
    feature = torch.empty(1, memory.dim, sam.grid, sam.grid, device="meta")
    side = sam.grid * memory.mask_stride
    mask = torch.empty(1, 1, side, side, device="meta")
    pointers = memories * memory.dim // memory.memory_dim
    tokens = torch.empty(1, memories * sam.grid**2 + pointers, memory.memory_dim, device="meta")
    keep = torch.ones(1, tokens.shape[1], dtype=torch.bool, device="meta")
    position = sine_2d(memory.dim, sam.grid, sam.grid, device=torch.device("meta"))
    grid = (sam.grid, sam.grid)
    costs = {
        "memory encoder": measure(lambda: memory.memory_encoder(feature, mask, skip_mask_sigmoid=True)),
        "memory attention": measure(lambda: memory.memory_attention(feature, position, tokens, tokens, pointers)),
    }
    if memory.memory_prompt_generator is not None:
        generator = memory.memory_prompt_generator
        costs["memory prompt generator"] = measure(lambda: generator(tokens, tokens, keep, pointers, grid))
    return costs


def selector_cost(network: PromptedSegmenter, frames: int = 20) -> Cost:
    """Dot products of the current feature map with those of past frames."""
    return Cost(float(frames * network.memory.dim * network.segmenter.grid**2))


def decoder_cost(network: PromptedSegmenter, tokens: int = 5) -> Cost:
    """The mask decoder of one object with so many prompt tokens (two padding tokens, three memory prompts)."""
    sam = network.segmenter
    feature = torch.empty(1, sam.prompt_dim, sam.grid, sam.grid, device="meta")
    sparse = torch.empty(1, tokens, sam.prompt_dim, device="meta")
    return measure(lambda: sam.decode_masks(feature, sparse, feature))
