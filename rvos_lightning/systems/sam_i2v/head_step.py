"""One call of the mask decoder with everything a frame can be asked."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from rvos_lightning.parts.segmenters.sam import Sam, SamMasks

ABSENT = -1024.0
"""Mask logit where the object-score head says the object is not there."""


@dataclass
class Asked:
    """What a group of items is asked on a frame.

    Attributes:
        points: clicks and box corners, in pixels of the square input; None for tracking.
        labels: of the points; 0 negative, 1 positive, 2 and 3 box corners, -1 padding.
        previous: earlier logits of the same frame as mask prompt.
        language: prompt tokens that do not come from a user.
        single: one mask even if the prompt is ambiguous.
    """

    points: Float[Tensor, "batch n 2"] | None = None
    labels: Int[Tensor, "batch n"] | None = None
    previous: Float[Tensor, "batch 1 h w"] | None = None
    language: Float[Tensor, "batch k dim"] | None = None
    single: bool = False

    @property
    def ambiguous(self) -> bool:
        """Three masks are asked for: no prompt at all, or one click."""
        worded = self.language is not None and self.language.shape[1] > 0
        return not self.single and not worded and (self.points is None or self.points.shape[1] <= 1)


@dataclass
class HeadOutput:
    """What the decoder said of one frame.

    Attributes:
        candidates: mask logits, three for an ambiguous prompt, else one.
        iou: estimated IoU of each candidate.
        chosen: the best candidate.
        token: the decoder token behind the object pointer.
        presence_logits: is the object there.
        pointed: False where the pointer is the "no object" one.
    """

    candidates: Float[Tensor, "batch m h w"]
    iou: Float[Tensor, "batch m"]
    chosen: Float[Tensor, "batch 1 h w"]
    token: Float[Tensor, "batch dim"]
    presence_logits: Float[Tensor, "batch 1"]
    pointed: Bool[Tensor, "batch 1"]


def head_step(
    sam: Sam,
    feature: Float[Tensor, "batch dim h w"],
    asked: Asked,
    memory_prompts: Float[Tensor, "batch q dim"],
    stable: bool,
) -> HeadOutput:
    """Prompt encoder, mask decoder, choice of the best mask.

    Args:
        sam: with the occlusion head.
        feature: conditioned feature of the frame.
        asked: the prompts.
        memory_prompts: tokens of the memory prompt generator; they come last.
        stable: fall back from an unstable single mask to the best of three (inference).
    """
    batch = len(feature)
    points, labels = asked.points, asked.labels
    if points is None or labels is None:
        points, labels = feature.new_zeros(batch, 1, 2), feature.new_full((batch, 1), -1, dtype=torch.int32)
    parts = [sam.embed_points(points, labels), memory_prompts]
    if asked.language is not None:
        parts.insert(1, asked.language)
    dense = sam.no_mask(batch) if asked.previous is None else sam.embed_mask(asked.previous)
    masks = sam.decode_masks(feature, torch.cat([part.to(memory_prompts.dtype) for part in parts], 1), dense)
    if masks.presence_logits is None:
        raise ValueError("SAM-I2V needs a segmenter with an object-score head: set segmenter.occlusion to true")
    return choose(masks, asked.ambiguous, stable)


def choose(masks: SamMasks, ambiguous: bool, stable: bool) -> HeadOutput:
    """Candidates of a decoder call, absent objects blanked, the best one by estimated IoU."""
    presence = masks.presence_logits
    logits = torch.where(presence[..., None, None] > 0, masks.mask_logits, ABSENT).float()
    rows = torch.arange(len(logits), device=logits.device)
    if ambiguous:
        best = masks.iou[:, 1:].argmax(1)
        candidates, iou = logits[:, 1:], masks.iou[:, 1:]
        return HeadOutput(
            candidates, iou, candidates[rows, best][:, None], masks.tokens[rows, best + 1], presence, presence > 0
        )
    single, iou = logits[:, :1], masks.iou[:, :1]
    if stable:
        # Stability is judged on the decoder's own logits, before blanking.
        single, iou = stable_single(masks.mask_logits, masks.iou)
        single = torch.where(presence[..., None, None] > 0, single, ABSENT).float()
    return HeadOutput(single, iou, single, masks.tokens[:, 0], presence, presence > 0)


def stability(mask_logits: Float[Tensor, "*batch h w"], delta: float = 0.05) -> Float[Tensor, "*batch"]:
    """Area above `delta` over area above `-delta`; 1 for empty masks."""
    inner = (mask_logits > delta).flatten(-2).sum(-1).float()
    outer = (mask_logits > -delta).flatten(-2).sum(-1).float()
    return torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)


def stable_single(
    mask_logits: Float[Tensor, "batch 4 h w"], iou: Float[Tensor, "batch 4"], threshold: float = 0.98
) -> tuple[Float[Tensor, "batch 1 h w"], Float[Tensor, "batch 1"]]:
    """Mask 0 where it is stable, else the best of masks 1 to 3."""
    rows = torch.arange(len(iou), device=iou.device)
    best = iou[:, 1:].argmax(1) + 1
    steady = stability(mask_logits[:, :1]) >= threshold
    mask = torch.where(steady[..., None, None], mask_logits[:, :1], mask_logits[rows, best][:, None])
    return mask, torch.where(steady, iou[:, :1], iou[rows, best][:, None])


def resize_mask(mask: Bool[Tensor, "h w"], size: int) -> Float[Tensor, "1 size size"]:
    """A user's mask at the side the memory encoder works with (antialiased, at half coverage)."""
    mask = mask[None, None].float()
    if mask.shape[-2:] != (size, size):
        mask = functional.interpolate(mask, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (mask[0] >= 0.5).float()


def fill_holes(mask_logits: Float[Tensor, "batch 1 h w"], area: int) -> Float[Tensor, "batch 1 h w"]:
    """Background components of at most `area` pixels (8-connected) become barely foreground."""
    import cv2

    background = (mask_logits[:, 0] <= 0).cpu().numpy().astype("uint8")
    holes = []
    for picture in background:
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(picture, connectivity=8)
        small = statistics[:, cv2.CC_STAT_AREA] <= area
        small[0] = False  # label 0 is the foreground
        holes.append(torch.from_numpy(small[labels]))
    return torch.where(torch.stack(holes)[:, None].to(mask_logits.device), 0.1, mask_logits)


def mask_as_output(
    sam: Sam,
    feature: Float[Tensor, "batch dim h w"],
    mask: Float[Tensor, "batch 1 high high"],
    mask_prompt: Float[Tensor, "batch 1 h4 w4"],
    memory_prompts: Float[Tensor, "batch q dim"],
) -> HeadOutput:
    """A given mask is the answer; the decoder only makes the pointer's token, from the mask as prompt."""
    inner = head_step(sam, feature, Asked(previous=mask_prompt, single=True), memory_prompts, stable=False)
    logits = mask * 20 - 10
    low = functional.interpolate(logits, mask_prompt.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
    present = (mask > 0).flatten(1).any(1, keepdim=True)
    presence = present.float() * 20 - 10
    return HeadOutput(low, torch.ones_like(presence), low, inner.token, presence, inner.pointed & present)
