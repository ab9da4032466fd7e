"""A single-digit-sized SAMWISE, every part present, for tests."""

from math import prod

import torch

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Targets
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.segmenters.sam2_build import Sam2Size
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.text.tokenizers import WordTokenizer
from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
from rvos_lightning.systems.samwise.conditional_memory import ConditionalMemory
from rvos_lightning.systems.samwise.motion_prompter import MotionPrompter

TINY = Sam2Size(
    embed_dim=8,
    stages=(1, 1, 1, 1),
    global_blocks=(),
    windows=(4, 4, 4, 2),
    hidden=16,
    memory_width=8,
    memory_layers=1,
    memory_mlp=16,
    decoder_mlp=16,
    decoder_heads=2,
    dropout=0.0,
    fuser_scale=0.1,
)
TEXT = TextSize(vocabulary=0, width=16, layers=4, heads=2, mlp=16, positions=16, dropout=0.0)


def segmenter(**options) -> Sam2:
    """Sam2 at 64 px; random, every parameter away from zero."""
    options = {"size": TINY, "image_size": 64, "frozen": False, **options}
    return Sam2(**options)


def samwise(memory: dict | None = None, adapter: dict | None = None, seed: int = 0, **sam2) -> PromptedSegmenter:
    """The whole network."""
    torch.manual_seed(seed)
    sam = segmenter(**sam2)
    text = Roberta(size=TEXT, tokenizer=WordTokenizer(buckets=16), frozen=False)
    adapters = CMTAdapter(
        text,
        **{"text_layers": (1, 2, 3, 4), "dim": 8, "heads": 2, "patches": (4, 2, 2), "dropout": 0.0, **(adapter or {})},
    )
    bank = ConditionalMemory(**{"window": 2, "heads": 2, "hidden": 8, "dropout": 0.0, **(memory or {})})
    return lively(PromptedSegmenter(sam, adapters, MotionPrompter(), bank))


@torch.no_grad()
def lively(net: PromptedSegmenter) -> PromptedSegmenter:
    """Weights under which activations keep their size, so that no difference hides; objects count as present."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=prod(parameter.shape[1:]) ** -0.5)
    if net.segmenter.object_scores:
        net.segmenter.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(3.0)
    return net


def clip(
    videos: int = 2, time: int = 5, expressions: list[str] | None = None, video=None, size=(64, 64), seed=1
) -> Clip:
    """Random frames, one sentence per video unless said otherwise."""
    generator = torch.Generator().manual_seed(seed)
    expressions = expressions or ["the red one", "a circle that moves left"][:videos]
    video = torch.arange(len(expressions)) if video is None else torch.tensor(video)
    frames = torch.rand(videos, time, 3, *size, generator=generator)
    names = tuple(map(str, range(time)))
    meta = [ClipMeta(f"v{int(v)}", str(i), names, size, size, tuple(range(time))) for i, v in enumerate(video)]
    return Clip(frames, video, expressions, meta)


def batch(**options) -> Batch:
    """A clip and targets for it."""
    made = clip(**options)
    time, (height, width) = made.time, made.frames.shape[-2:]
    masks = torch.zeros(len(made), time, height, width, dtype=torch.bool)
    masks[:, :, 10:30, 20:40] = True
    return Batch(made, Targets(masks, torch.ones(len(made), time, dtype=torch.bool)))
