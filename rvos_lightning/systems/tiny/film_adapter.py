"""Words and time enter the features: FiLM per stage, and a convolution over frames."""

import re
import zlib

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.core.seams import Adapter, Segmenter, agreed
from rvos_lightning.core.types import Clip, Features


class WordEncoder(nn.Module):
    """Hashed word embeddings and a GRU in each direction: no vocabulary file, word order kept.

    The second GRU starts at each sentence's own last word, not at the padding behind it: a sentence's states do not
    depend on the other sentences of the batch.

    Args:
        width: of word states and sentence (even).
        buckets: rows of the embedding table; two words share a row with probability 1 / buckets.
    """

    def __init__(self, width: int = 64, buckets: int = 4096):
        super().__init__()
        self.buckets = buckets
        self.embed = nn.Embedding(buckets + 1, width, padding_idx=0)
        self.order = nn.ModuleList(nn.GRU(width, width // 2, batch_first=True) for _ in range(2))
        self.pool = nn.Linear(width, 1)

    def forward(
        self, expressions: list[str]
    ) -> tuple[Float[Tensor, "batch words width"], Bool[Tensor, "batch words"], Float[Tensor, "batch width"]]:
        """Word states, which of them are words, and an attention-pooled sentence."""
        ids = self.tokenize(expressions)
        embedded, mask = self.embed(ids), ids > 0
        places = torch.arange(ids.shape[1], device=ids.device)
        mirrored = torch.where(mask, mask.sum(1, keepdim=True) - 1 - places, places)[..., None]
        onwards, backwards = self.order
        behind = backwards(embedded.take_along_dim(mirrored, 1))[0].take_along_dim(mirrored, 1)
        states = embedded + torch.cat([onwards(embedded)[0], behind], dim=2)
        weights = self.pool(states)[..., 0].masked_fill(~mask, -1e4).softmax(dim=1)
        return states, mask, torch.einsum("bw,bwc->bc", weights, states)

    @torch.compiler.disable
    def tokenize(self, expressions: list[str]) -> Int[Tensor, "batch words"]:
        """Rows of the embedding table, 0 behind a sentence; uncompiled: a graph would hold for these words only."""
        words = [
            [zlib.crc32(w.encode()) % self.buckets + 1 for w in re.findall(r"\w+", e.lower())] for e in expressions
        ]
        longest = max(1, *(len(row) for row in words))
        return torch.tensor([row + [0] * (longest - len(row)) for row in words], device=self.embed.weight.device)


class FiLMAdapter(Adapter):
    """After every stage: scale and shift by the sentence, then mix neighbouring frames.

    Feature-wise linear modulation after Perez et al. 2018; the time convolution sees two frames to each side at
    the coarsest stage, so that motion words mean something.

    Args:
        stage_channels: of the segmenter's stages; None asks it.
        width: of the word encoder.
    """

    def __init__(self, stage_channels: tuple[int, ...] | None = None, width: int = 64):
        super().__init__()
        self.stage_channels, self.text_dim = stage_channels, width
        self.words = WordEncoder(width)

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "FiLMAdapter":
        """Two layers for every stage of the segmenter."""
        super().fit_to(segmenter)
        stages = agreed("adapter.stage_channels", self.stage_channels, segmenter.stage_channels, segmenter)
        self.film = nn.ModuleList(nn.Linear(self.text_dim, 2 * channels) for channels in stages)
        self.time = nn.ModuleList(nn.Conv2d(channels, channels, (5, 1), padding=(2, 0)) for channels in stages)
        return self

    def forward(self, clip: Clip, segmenter: Segmenter) -> Features:
        """Encode every item's frames under its own sentence.

        Raises:
            ValueError: the clip has no expressions.
        """
        states, mask, sentence = self.words(clip.sentences())
        items, time = len(clip), clip.time

        def after_stage(stage: int, x: Tensor) -> Tensor:
            scale, shift = self.film[stage](sentence).repeat_interleave(time, dim=0)[..., None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift
            return x + functional.gelu(mix_time(x, self.time[stage], items))

        frames = clip.frames[clip.video].flatten(0, 1)  # language enters at the first stage: every item has its own
        pyramid = segmenter.encode(frames, after_stage)
        return Features(tuple(level.unflatten(0, (items, time)) for level in pyramid), states, mask, sentence)


def mix_time(x: Float[Tensor, "images c h w"], layer: nn.Module, items: int) -> Float[Tensor, "images c h w"]:
    """Convolve along time at every pixel; `images` is batch-major, then time."""
    along = x.unflatten(0, (items, -1)).transpose(1, 2).flatten(3)  # items, channels, time, pixels
    return layer(along).unflatten(3, x.shape[-2:]).transpose(1, 2).flatten(0, 1)
