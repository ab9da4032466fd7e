"""SgMg's parameters and multiply-adds beside the published and the counted numbers: `rvos parts --sizes sgmg`.

Published: the supplement of arXiv 2307.13537, Table A; the totals are counts of the released model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rvos_lightning.core.types import Clip, ClipMeta
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.text.tokenizers import WordTokenizer
from rvos_lightning.systems.sgmg.network import SgMg
from rvos_lightning.systems.sgmg.spectral import Kind, block
from rvos_lightning.systems.sgmg.video_swin import VideoSwin

FRAME = (368, 640)
SENTENCE = "a person in a red shirt on the left"


@dataclass(frozen=True)
class Row:
    """One line: what, our count, the number it stands beside, and a remark."""

    name: str
    count: int
    beside: str = ""
    remark: str = ""


def build(variant: Literal["t", "s", "b"], **options: object) -> SgMg:
    """The published network without memory for its weights."""
    with torch.device("meta"):
        return SgMg(VideoSwin(variant), Roberta(tokenizer=WordTokenizer(), pooler=True), **options).eval()  # type: ignore[arg-type]


def count(*modules: nn.Module | nn.Parameter) -> int:
    """Parameters of some modules."""
    single = [m for m in modules if isinstance(m, nn.Parameter)]
    return sum(p.numel() for m in modules if isinstance(m, nn.Module) for p in m.parameters()) + sum(
        p.numel() for p in single
    )


def rows() -> list[Row]:
    """The whole table."""
    return [*part_rows(), *total_rows(), *block_rows(), *multiply_adds()]


def part_rows() -> list[Row]:
    """Part by part, with Video-Swin-T."""
    net = build("t")
    transformer, fusion = net.transformer, net.fusion
    return [
        Row("visual encoder (T)", count(net.backbone), "27,844,326"),
        Row("text encoder", count(net.language.text), "124,055,040 + 590,592", "with its pooler"),
        Row("word and sentence projection", count(net.language.words, net.language.sentence), "2 x 197,376"),
        Row("input projections", count(fusion.project), "2,116,608"),
        Row("spectral blocks before the words", count(fusion.before), "4,724,736"),
        Row("spectral blocks after the words", count(fusion.after), "4,724,736"),
        Row("fusion attention", count(fusion.attention), "263,168"),
        Row("transformer encoder", count(transformer.encoder), "5,128,704"),
        Row("transformer decoder", count(transformer.decoder), "6,183,424"),
        Row("level codes and references", count(transformer.level_embed, transformer.reference), "1,538"),
        Row("queries", count(transformer.query_embed), "1,280"),
        Row("class heads", count(net.scores), "1,028"),
        Row("box heads", count(transformer.boxes), "530,448"),
        Row("kernel MLP (CPK)", count(net.kernels), "1,266,496"),
        Row("mask refiner (MSO)", count(net.refiner), "50,752"),
    ]


def total_rows() -> list[Row]:
    """Whole networks, and what is trained while the text encoder is frozen."""
    found = []
    beside = {"t": ("177,877,628", "53,231,996"), "s": ("199,536,236", ""), "b": ("238,382,430", "113,736,798")}
    for variant, (total, trained) in beside.items():
        net = build(variant)  # type: ignore[arg-type]
        found.append(Row(f"total, Video-Swin-{variant.upper()}", count(net), total))
        found.append(Row("  without text encoder", count(net) - count(net.language.text), trained))
    return found


def block_rows() -> list[Row]:
    """Table A counts the two blocks of one level; the released model has four levels."""
    unsure = "the paper lists no layers"
    published: list[tuple[Kind, str, str]] = [
        ("spectral", "2.4 M", ""),
        ("spatial", "4.7 M", unsure),
        ("linear", "", unsure),
    ]
    return [Row(f"SCF {kind}, one level", 2 * count(block(kind, 256)), said, why) for kind, said, why in published]


def multiply_adds() -> list[Row]:
    """Of one frame of 368 x 640 with Video-Swin-T, in evaluation; the text encoder left out."""
    text = Roberta(size=TextSize(layers=1), tokenizer=WordTokenizer(), pooler=True)
    net = SgMg(VideoSwin("t"), text).eval()
    meta = ClipMeta("v", "0", ("0",), FRAME, FRAME)
    clip = Clip(torch.zeros(1, 1, 3, *FRAME), torch.zeros(1, dtype=torch.long), [SENTENCE], [meta])
    net.requires_grad_(False)
    backbone, _ = counted(lambda: net.backbone(clip.frames))
    seeing, seen = counted(lambda: net.see(clip))
    reading, (words, real, sentence) = counted(lambda: net.language(clip.expressions))
    fusing, levels = counted(lambda: net.fusion.read(seen.levels, seen.soft, words, real))
    encoding, memory = counted(lambda: net.transformer.encode(net.transformer.levels(levels, seen.padding)))
    decoding, _ = counted(lambda: net.transformer.decode(memory, sentence))
    whole, _ = counted(lambda: net(clip))
    rest = whole - seeing - reading - fusing - encoding - decoding
    shared = "once a video, for all its sentences"
    return [
        Row("multiply-adds a frame, all", whole - reading, "61.4 G", "beside: counted on the released code"),
        Row("  visual encoder", backbone, "22.7 G", shared),
        Row("  levels, blocks before the words", seeing - backbone, "5.8 G", f"half a spectrum, nine means; {shared}"),
        Row("  attention to words, blocks after", fusing, "5.9 G", "likewise half a spectrum, nine means"),
        Row("  encoder", encoding, "25.0 G", "sampling itself is not counted"),
        Row("  decoder", decoding, "1.3 G"),
        Row("  kernels and refiner", rest, "0.7 G", "one query of one layer"),
    ]


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    """Multiply-adds of some work, and its result."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops() // 2, result


def table(lines: Sequence[Row]) -> str:
    """Plain text."""
    width = max(len(row.name) for row in lines)
    return "\n".join(f"{row.name:{width}s}  {row.count:>15,d}  {row.beside:22s}{row.remark}".rstrip() for row in lines)
