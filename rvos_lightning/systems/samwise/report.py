"""Parameters of SAMWISE beside the published numbers: `rvos parts --sizes samwise`.

Published: CVPR 2025 paper and supplementary (Tables 1, 3, 4; CLIP-B text) and the repository's README (RoBERTa).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.text.clip import ClipText
from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.parts.text.roberta import Roberta
from rvos_lightning.parts.text.tokenizers import WordTokenizer
from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
from rvos_lightning.systems.samwise.conditional_memory import ConditionalMemory, ConditionalMemoryEncoder
from rvos_lightning.systems.samwise.motion_prompter import MotionPrompter


@dataclass(frozen=True)
class Row:
    """One line of the table: what, our count, and what was published (in the words it was published in)."""

    name: str
    count: int
    published: str = ""
    remark: str = ""


def adapters(text: TextEncoder, segmenter: Sam2, **options: object) -> CMTAdapter:
    """The CMT adapters of a configuration; the text encoder hangs below them and is counted apart."""
    return CMTAdapter(text, **options).fit_to(segmenter)  # type: ignore[arg-type]


def beside(segmenter: Sam2, adapter: CMTAdapter) -> tuple[MotionPrompter, ConditionalMemoryEncoder]:
    """The text MLP and the Conditional Memory Encoder of a configuration."""
    memory = ConditionalMemory().fit_to(segmenter, adapter)
    return MotionPrompter().fit_to(segmenter, adapter), memory.encoder


def count(modules: Iterable[nn.Module] | nn.Module) -> int:
    """Parameters of one or several modules."""
    modules = [modules] if isinstance(modules, nn.Module) else modules
    return sum(p.numel() for module in modules for p in module.parameters())


def rows() -> list[Row]:
    """The whole table, counted on built modules that hold no memory."""
    with torch.device("meta"):
        return [*module_rows(), *total_rows(), *layer_rows(), *width_rows()]


def module_rows() -> list[Row]:
    """The released model, part by part (RoBERTa, Hiera-B+)."""
    sam, text = Sam2("hiera_b+"), Roberta(tokenizer=WordTokenizer())
    fitted = adapters(text, sam)
    cmt, (mlp, cme) = fitted.adapters, beside(sam, fitted)
    trained = count(cmt) + count(cme)
    return [
        Row("Hiera-B+ trunk", count(sam.image_encoder.trunk)),
        Row("SAM 2 with text MLP", count(sam) + count(mlp)),
        Row("RoBERTa-base", count(text) - count(text.model.embeddings.token_type_embeddings), "", "as in fairseq"),
        *(Row(f"CMT adapter {i}", count(adapter)) for i, adapter in enumerate(cmt.values())),
        Row("Conditional Memory Encoder", count(cme), "", "the official one keeps 512 more that it never uses"),
        Row("CMT + CME", trained, "4.9 M", "the repository leaves out the text MLP"),
        Row("all that is trained", trained + count(mlp)),
    ]


def total_rows() -> list[Row]:
    """Whole models by text encoder and trunk."""
    found = []
    published = {("RoBERTa", "hiera_b+"): "202 M (paper), 210 M (repository)", ("CLIP-B", "hiera_b+"): "150 M"}
    for name, text in (
        ("CLIP-B", ClipText(tokenizer=WordTokenizer())),
        ("RoBERTa", Roberta(tokenizer=WordTokenizer())),
    ):
        for variant in ("hiera_t", "hiera_b+", "hiera_l"):
            sam = Sam2(variant)  # type: ignore[arg-type]
            fitted = adapters(text, sam)
            parts = (sam, text, fitted.adapters, *beside(sam, fitted))
            remark = "without the LM head that the official file carries (642,393)" if name == "RoBERTa" else ""
            found.append(Row(f"total, {name}, {variant}", count(parts), published.get((name, variant), ""), remark))
    return found


def layer_rows() -> list[Row]:
    """Supplementary, ablation of the adapted layers (CLIP-B)."""
    sam, text = Sam2("hiera_b+"), ClipText(tokenizer=WordTokenizer())
    mlp, cme = beside(sam, adapters(text, sam))
    rest = count(mlp) + count(cme)
    found = [Row("no adapter: text MLP", count(mlp), "0.3 M")]
    for stages, published, remark in (
        ((3,), "2.2 M", "with text MLP and CME"),
        ((2, 3), "3.5 M", "with text MLP and CME"),
        ((1, 2, 3), "4.2 M", "adapters alone"),
    ):
        alone = count(adapters(text, sam, stages=stages, patches=(8, 4, 2)).adapters)
        label = "layers " + ", ".join(map(str, stages))
        shown = alone if remark == "adapters alone" else alone + rest
        found.append(Row(f"{label} ({remark})", shown, published))
    return found


def width_rows() -> list[Row]:
    """Supplementary, ablation of the adapters' width (CLIP-B)."""
    sam, text = Sam2("hiera_b+"), ClipText(tokenizer=WordTokenizer())
    rest = count(beside(sam, adapters(text, sam)))
    found = []
    for dim, published in ((64, "1.0 M"), (128, "2.1 M"), (256, "4.2 M"), (384, "8.8 M")):
        alone = count(adapters(text, sam, dim=dim).adapters)
        found.append(Row(f"width {dim}, adapters alone", alone, published))
        found.append(Row(f"width {dim}, with text MLP and CME", alone + rest, published))
    return found


def table(lines: Sequence[Row]) -> str:
    """Plain text."""
    width = max(len(row.name) for row in lines)
    return "\n".join(
        f"{row.name:{width}s}  {row.count:>13,d}  {row.published:34s}{row.remark}".rstrip() for row in lines
    )
