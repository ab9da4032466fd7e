"""Parameters of SAM + CLIP beside the published numbers: `rvos parts --sizes clip_sam`.

Published: the table of the paper's supplementary material (WACV 2025).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.text.bert import Bert
from rvos_lightning.parts.text.tokenizers import WordTokenizer
from rvos_lightning.systems.clip_sam.network import ClipSam
from rvos_lightning.systems.clip_sam.towers import ClipTower


@dataclass(frozen=True)
class Row:
    """One line of the table: what, our count, what was published, and what to know about it."""

    name: str
    count: int
    published: str = ""
    remark: str = ""


def count(*modules: nn.Module, trained: bool = False) -> int:
    """Parameters of modules."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad or not trained)


def network(**options: object) -> ClipSam:
    """A published network that holds no memory."""
    with torch.device("meta"):
        return ClipSam(Sam("sam_b"), ClipTower(), Bert(tokenizer=WordTokenizer()), allow_oracle=True, **options)  # type: ignore[arg-type]


def rows() -> list[Row]:
    """The whole table."""
    ours, released, grown = network(), network(preset="released"), network(no_target=True)
    bridge = ours.bridge
    return [
        Row("CLIP ViT-L/14@336", count(ours.tower.model.visual), "304.3 M", "frozen"),
        Row("SAM ViT-B", count(ours.sam.encoder), "89.67 M", "frozen"),
        Row("SAM decoder", count(ours.sam.mask_decoder), "4.06 M", "its IoU head is frozen"),
        Row("BERT", count(ours.text), "108.9 M", "released: 10 of 12 layers and no embedding are ever stepped"),
        Row("DFAM", count(bridge.queries), "6.90 M"),
        Row("DFAM, with no-target head", count(grown.bridge.queries)),
        Row("PWAM", count(bridge.fusion), "7.88 M", "0.788 M: the digits agree, the printed decimal point does not"),
        Row("CLIP pyramid, width 768", count(released.bridge.clip_pyramid), "", "released"),
        Row("CLIP pyramid, width 256", count(bridge.clip_pyramid), "", "default"),
        Row("pixel decoder, width 768", count(released.bridge.pixel_decoder), "", "released"),
        Row("pixel decoder, width 256", count(bridge.pixel_decoder), "", "default"),
        Row("SAM pyramid", count(bridge.sam_pyramid)),
        Row("sparse token", count(bridge.sparse)),
        Row(
            "linear 768 to 256",
            count(ours.word_projection),
            "",
            "one for words, one for categories where used",
        ),
        Row("trained, released", count(released, trained=True), "130.0 M", "the published sum names no pyramids"),
        Row("trained, default", count(ours, trained=True), "", "without the category linear and unused mask heads"),
        Row("trained but BERT, default", count(ours, trained=True) - count(ours.text), "", "referring parameters"),
    ]


def table(lines: Sequence[Row]) -> str:
    """Plain text, one line each."""
    width = max(len(row.name) for row in lines)
    return "\n".join(f"{r.name:{width}s} {r.count:>13,}  {r.published:>8s}  {r.remark}".rstrip() for r in lines)
