"""Dual feature alignment (DFAM): queries that find instances in SAM's map and are named by CLIP and the sentence."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.parts.layers.mlp import MLP
from rvos_lightning.systems.clip_sam.attention import CrossBlock, FeedForward, SelfBlock, sine_code
from rvos_lightning.systems.clip_sam.outputs import QueryOutput
from rvos_lightning.systems.clip_sam.pyramid import Levels

CLIP_SCALE = math.log(1 / 0.07)
"""Where CLIP's own logit scale starts."""


class Names(NamedTuple):
    """What queries are compared with.

    Attributes:
        clip: CLIP vectors: the sentences of the batch (of all processes), then the category table.
        sentences: sentence vectors of the text encoder, in the order of the first columns of `clip`.
    """

    clip: Float[Tensor, "columns text"]
    sentences: Float[Tensor, "sentences c"]


class Stream(nn.Module):
    """Masked cross-attention to one level, self-attention, feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross, self.among = CrossBlock(width, heads), SelfBlock(width, heads)
        self.forward_layer = FeedForward(width, hidden)


class Dfam(nn.Module):
    """The query module.

    The carried stream and the masks follow from the image alone (unless `language_feedback`), so they are computed once
    per image however many sentences look at it; only the side branch, which is classified, is run for every pair.

    Args:
        width: channels.
        text: channels of CLIP's text vectors.
        queries: how many.
        layers: how many, at least 3; layer i reads level i of the pyramids, coarse to fine, and so on round.
        heads: attention heads.
        hidden: width of the feed-forward layers.
        no_target: add the head that says "there is no such thing".
        pool: over the queries: `max` of either logit (as released), or `lse_margin`: of their difference.
        language_feedback: the side branch flows back into the carried stream through a gate that starts at zero.
        logit_scale: where both logit scales start (the released code starts at 1).
        clamp: largest logit scale; None for none (released).
    """

    def __init__(
        self,
        width: int = 256,
        text: int = 768,
        queries: int = 100,
        layers: int = 3,
        heads: int = 8,
        hidden: int = 1024,
        no_target: bool = False,
        pool: str = "max",
        language_feedback: bool = False,
        logit_scale: float = CLIP_SCALE,
        clamp: float | None = math.log(100),
    ) -> None:
        super().__init__()
        if layers < 3:
            raise ValueError(f"queries: {layers} layers leave pyramid levels unread; give at least 3")
        self.content, self.place = (nn.Parameter(torch.empty(queries, width).normal_()) for _ in range(2))
        self.level = nn.Parameter(torch.empty(3, width).normal_())
        self.carried = nn.ModuleList(Stream(width, heads, hidden) for _ in range(layers))
        self.side = nn.ModuleList(Stream(width, heads, hidden) for _ in range(layers))
        self.mask_norm, self.name_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mask_head = MLP(width, width, width, 3)
        self.name_head = nn.Linear(width, width)
        self.to_clip, self.to_sentence = nn.Linear(width, text), nn.Linear(width, width)
        self.clip_scale, self.sentence_scale = (nn.Parameter(torch.tensor([logit_scale])) for _ in range(2))
        self.no_target = MLP(width, width, 2, 2) if no_target else None
        self.feedback = nn.Parameter(torch.zeros(layers, width)) if language_feedback else None
        self.pool, self.clamp = pool, clamp

    def forward(
        self,
        sam_map: Float[Tensor, "images c h w"],
        sam_levels: Levels,
        clip_levels: Levels,
        names: Names,
        image: Int[Tensor, "pairs"],
    ) -> tuple[list[QueryOutput], Float[Tensor, "pairs 2"] | None]:
        """Outputs of the learned queries and after every layer, and the logits (target, no target).

        Args:
            sam_map: SAM's embedding.
            sam_levels: its pyramid, coarse to fine.
            clip_levels: the pixel decoder's maps of every pair, coarse to fine.
            names: what queries are compared with.
            image: which image each pair looks at; with `language_feedback` one image a pair.
        """
        if self.feedback is not None:
            sam_map, sam_levels = sam_map[image], tuple(level[image] for level in sam_levels)
            image = torch.arange(len(image), device=image.device)
        x = self.content.expand(len(sam_map), -1, -1)
        named = self.name_head(self.name_norm(self.content)).expand(len(image), -1, -1)
        outputs = [self._output(x, named, sam_map, names, image)]
        for i, (carried, side) in enumerate(zip(self.carried, self.side, strict=True)):
            masks = outputs[-1].masks
            level = i % len(sam_levels)
            key, value = self._tokens(sam_levels[level], level)
            x = carried.cross(x, key, value, self.place, may_look(masks, sam_levels[level].shape[-2:]))
            x = carried.forward_layer(carried.among(x, self.place))
            key, value = self._tokens(clip_levels[level], level)
            y = side.cross(x[image], key, value, None, may_look(masks, clip_levels[level].shape[-2:])[image])
            y = side.forward_layer(side.among(y))  # the side branch has no query positions at all
            if self.feedback is not None:
                x = x + self.feedback[i] * y
            named = self.name_head(self.name_norm(y))
            outputs.append(self._output(x, named, sam_map, names, image))
        return outputs, self._absent(named)

    def _tokens(self, level: Float[Tensor, "rows c h w"], index: int) -> tuple[Tensor, Tensor]:
        """Keys (with positions) and values (without) of one pyramid level."""
        value = level.flatten(2).transpose(1, 2) + self.level[index]
        return value + sine_code(*level.shape[-2:], level.shape[1], level.device).to(value.dtype), value

    def _output(self, x: Tensor, named: Tensor, sam_map: Tensor, names: Names, image: Tensor) -> QueryOutput:
        masks = torch.einsum("iqc,ichw->iqhw", self.mask_head(self.mask_norm(x)), sam_map)
        clip = self._scale(self.clip_scale) * cosine(self.to_clip(named), names.clip)
        sentence = self._scale(self.sentence_scale) * cosine(self.to_sentence(named), names.sentences)
        return QueryOutput(masks, image, clip, sentence)

    def _scale(self, scale: Float[Tensor, "1"]) -> Float[Tensor, "1"]:
        return (scale if self.clamp is None else scale.clamp(max=self.clamp)).exp()

    def _absent(self, named: Float[Tensor, "pairs queries c"]) -> Float[Tensor, "pairs 2"] | None:
        if self.no_target is None:
            return None
        logits = self.no_target(named)
        if self.pool == "max":
            return logits.amax(1)
        margin = (logits[..., 1] - logits[..., 0]).logsumexp(1) - math.log(logits.shape[1])
        return torch.stack((-margin, margin), -1) / 2


def may_look(masks: Float[Tensor, "images queries h w"], size: torch.Size) -> Bool[Tensor, "images queries positions"]:
    """Where a query's own mask lies; everywhere for a query whose mask is empty at this size."""
    masks = masks.detach()
    if masks.shape[-2:] != size:
        masks = functional.interpolate(masks, size=tuple(size), mode="bilinear", align_corners=False)
    inside = (masks.sigmoid() >= 0.5).flatten(2)
    return inside | ~inside.any(2, keepdim=True)


def cosine(
    queries: Float[Tensor, "pairs queries d"], names: Float[Tensor, "columns d"]
) -> Float[Tensor, "pairs queries columns"]:
    """Cosine similarities; 1e-7 is added to the lengths."""
    queries = queries / (queries.norm(dim=-1, keepdim=True) + 1e-7)
    return queries @ (names / (names.norm(dim=-1, keepdim=True) + 1e-7)).T
