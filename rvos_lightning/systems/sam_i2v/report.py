"""SAM-I2V's published parameter and FLOPs tables beside ours: `rvos parts --sizes sam_i2v`.

Published: supplement of arXiv 2506.01304 (its "FLOPs" are multiply-accumulates). Counted on meta tensors at 1024 px,
one object, seven memories.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.parts.segmenters.sam import Variant
from rvos_lightning.systems.sam_i2v import cost, official

VARIANTS: tuple[Variant, ...] = ("tiny_sam", "mobile_sam", "edge_sam", "slim_sam", "slim_sam_77", "sam_b")


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        name: of the part.
        parameters: ours.
        unused: parameters of the released checkpoint that nothing reads; we have none.
        published_parameters: as printed in the supplement, in millions.
        counted: multiply-accumulates by the published way of counting; None where it counts none.
        total: all multiply-accumulates of our computation.
        published: as printed, in billions.
        remark: why they differ.
    """

    name: str
    parameters: int
    unused: int = 0
    published_parameters: str = ""
    counted: float | None = None
    total: float = 0.0
    published: str = ""
    remark: str = ""


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def unused(prefix: str) -> int:
    """Numbers in the released checkpoint that nothing reads."""
    return sum(math.prod(shape) for name, shape in official.DROPPED_SHAPES.items() if name.startswith(prefix))


def rows() -> list[Row]:
    """Every part of the released configuration, and the totals."""
    with torch.device("meta"):
        network = official.build().eval().requires_grad_(False)
    parts = [*image_rows(network), *upgrader_rows(network), *loose_rows(network)]
    upgrader = [row for row in parts if row.published_parameters]
    return [*parts, upgrader_total(upgrader), total(parts, count(network))]


def image_rows(network: PromptedSegmenter) -> list[Row]:
    """Encoder and decoder, which the image SAM brings."""
    sam = network.segmenter
    encoder, decoder = cost.encoder_cost(network, released=False), cost.decoder_cost(network)
    released = cost.encoder_cost(network, released=True)
    return [
        # The released trunk attends with explicit products, which the published counter sees.
        Row("image encoder", count(sam.encoder), unused("image_encoder.trunk_image"), "", released.total, encoder.total,
            remark="unused: its classifier; true: windows not padded"),
        Row("mask decoder", count(sam.mask_decoder), 0, "", decoder.plain, decoder.total),
        Row("prompt encoder", count(sam.prompt_encoder), 0),
    ]  # fmt: skip


def upgrader_rows(network: PromptedSegmenter) -> list[Row]:
    """What SAM-I2V adds."""
    memory, adapter = network.memory, network.adapter
    published = cost.integrator_cost(network, 3, released=True)
    ours = cost.integrator_cost(network, adapter.frames, released=False)
    parts = cost.memory_costs(network)
    encoder, attention, prompts = parts.values()
    return [
        Row("temporal feature integrator", count(adapter), unused("image_encoder.trunk_video"), "3.7", published.plain,
            ours.total, "26.3", f"published for 3 frames; true: {adapter.frames}, stem once a frame, no dead fusion"),
        Row("memory encoder", count(memory.memory_encoder), 0, "1.4", encoder.plain, encoder.total, "5.8"),
        Row("memory selector", 0, 0, "0.0", None, cost.selector_cost(network).total, "0.107",
            "published: 102 maps' worth of operations; true: 20 dot products, shared by all objects"),
        Row("memory attention", count(memory.memory_attention), 0, "2.8", attention.plain, attention.total, "14.6",
            "fused attention is left out of the published count"),
        Row("memory prompt generator", count(memory.memory_prompt_generator), 0, "0.6", prompts.plain, prompts.total,
            "0.9"),
    ]  # fmt: skip


def loose_rows(network: PromptedSegmenter) -> list[Row]:
    """Pointer layers and single embeddings."""
    memory = network.memory
    modules = (memory.memory_attention, memory.memory_encoder, memory.memory_prompt_generator)
    rest = count(memory) - sum(count(module) for module in modules)
    return [Row("pointer layers, embeddings", rest, unused("no_mem_pos_enc"))]


def upgrader_total(parts: Sequence[Row]) -> Row:
    """Sum of what SAM-I2V adds."""
    return Row("upgrader", sum(row.parameters for row in parts), sum(row.unused for row in parts), "8.5",
               sum(row.counted or 0.0 for row in parts), sum(row.total for row in parts), "47.707",
               "published parameters: sum of the rounded entries")  # fmt: skip


def total(parts: Sequence[Row], parameters: int) -> Row:
    """The whole model."""
    if parameters != sum(row.parameters for row in parts):
        raise AssertionError("a part of the network is missing from the table")
    return Row("total", parameters, sum(row.unused for row in parts), "18.9", sum(row.counted or 0.0 for row in parts),
               sum(row.total for row in parts), "87.4",
               "counting rules for the trunk (window padding, norms) differ by about 1 %")  # fmt: skip


def table(lines: Sequence[Row]) -> str:
    """Plain text."""
    head = ("part", "parameters", "unused*", "published M", "GMAC, published way", "GMAC, true", "published G")
    text = ["{:28s} {:>11s} {:>8s} {:>11s} {:>19s} {:>10s} {:>11s}".format(*head)]
    for row in lines:
        counted = "-" if row.counted is None else f"{row.counted / 1e9:.2f}"
        true = f"{row.total / 1e9:.2f}" if row.total else "-"
        text.append(
            f"{row.name:28s} {row.parameters:11,d} {row.unused:8,d} {row.published_parameters:>11s} {counted:>19s} "
            f"{true:>10s} {row.published:>11s}  {row.remark}".rstrip()
        )
    return "\n".join([*text, "* in the released checkpoint beside ours, read by nothing"])
