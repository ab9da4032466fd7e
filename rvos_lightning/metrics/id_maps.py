"""Objects that share one map of numbers a frame: nobody may keep a pixel that another has."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from rvos_lightning.core.types import ClipMeta, SegmentedWindow

BACKGROUND = 0.1


def id_map_masks(window: SegmentedWindow, probable: bool = False) -> Bool[Tensor, "batch time height width"]:
    """A window's masks as its maps of object numbers hold them: one map a video, annotator and frame.

    Args:
        window: all items of its videos.
        probable: merge probabilities as ReferFormer does for Ref-DAVIS17 (below 0.5 nothing, background 0.1, the
            largest wins, ties to the lowest number), where a network gave some; else the lowest number keeps a
            disputed pixel.
    """
    said = window.masks if window.logits is None or not probable else window.logits().float().sigmoid()
    orders = [
        sorted(items, key=lambda index: (number_of(window.meta[index], index), index))
        for items in together(window.meta).values()
    ]
    if orders == [list(range(len(said)))]:
        return merge_objects(said)
    merged = torch.zeros_like(window.masks)
    for order in orders:
        merged[order] = merge_objects(said[order])
    return merged


def number_of(meta: ClipMeta, index: int) -> int:
    """An item's object number; its place in the batch where nobody says."""
    return index if meta.facts.object is None else meta.facts.object


def together(meta: Sequence[ClipMeta]) -> dict[tuple[Any, ...], list[int]]:
    """Batch indices of items that share maps: one video, one annotator."""
    groups = defaultdict(list)
    for index, entry in enumerate(meta):
        groups[entry.source, entry.video, entry.facts.annotator].append(index)
    return dict(groups)


def merge_objects(masks: Tensor) -> Bool[Tensor, "objects time height width"]:
    """Objects' masks or probabilities [objects, time, height, width] without overlap; as they are if they have none."""
    if masks.dtype == torch.bool:
        if masks.numel() == 0 or (len(masks) < 256 and masks.view(torch.uint8).sum(0, dtype=torch.uint8).max() <= 1):
            return masks
        taken, merged = torch.zeros_like(masks[0]), torch.empty_like(masks)
        for mask, own in zip(masks, merged, strict=True):  # `cumsum` would count in eight bytes a pixel
            torch.logical_and(mask, ~taken, out=own)
            taken |= mask
        return merged
    probabilities = torch.where(masks < 0.5, 0.0, masks.float())
    best, which = probabilities.max(0)
    first = (probabilities == best).int().argmax(0)  # ties go to the lowest object on every device
    which = torch.where(best > BACKGROUND, first, -1)
    return which == torch.arange(len(masks), device=masks.device)[:, None, None, None]
