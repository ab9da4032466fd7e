"""Spectrum-guided cross-modal fusion over four levels (SgMg, ICCV 2023; arXiv 2307.13537)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.systems.sgmg.positions import word_code
from rvos_lightning.systems.sgmg.spectral import Kind, block, gaussians

Maps = list[Float[Tensor, "images dim _h _w"]]


class Language(nn.Module):
    """Words and sentence, brought to the network's width.

    Args:
        text: reads the sentences.
        dim: width.
        dropout: on the projected words and sentence.
    """

    def __init__(self, text: TextEncoder, dim: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.text = text
        self.words = self._projection(text.width, dim, dropout)
        self.sentence = self._projection(text.width, dim, dropout)

    @staticmethod
    def _projection(width: int, dim: int, dropout: float) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim, eps=1e-12), nn.Dropout(dropout))

    def forward(
        self, expressions: list[str]
    ) -> tuple[Float[Tensor, "batch words dim"], Bool[Tensor, "batch words"], Float[Tensor, "batch dim"]]:
        """Word states, which of them are real, and one vector a sentence."""
        words, real, sentence = self.text(expressions)
        if real is None:
            real = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
        return self.words(words), real, self.sentence(sentence)


class SpectrumFusion(nn.Module):
    """Four levels of one width; on each, a block before and a block after the words are mixed in.

    `see` does all that needs no words, once a video; `read` does the rest, once a sentence.

    Args:
        channels: of the backbone's last three taps; a fourth level is made from the last of them.
        dim: width of all levels.
        heads: of the attention from pixels to words.
        kind: of the blocks; spectral, or an ablation.
        sigma: of the Gaussian over the spectrum, in frequency bins of the first level.
    """

    def __init__(
        self, channels: Sequence[int], dim: int = 256, heads: int = 8, kind: Kind = "spectral", sigma: float = 7.0
    ) -> None:
        super().__init__()
        self.sigma = sigma
        groups = min(32, dim // 2)
        projections = [nn.Conv2d(width, dim, 1) for width in channels]
        projections.append(nn.Conv2d(channels[-1], dim, 3, stride=2, padding=1))
        for projection in projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        self.project = nn.ModuleList(nn.Sequential(projection, nn.GroupNorm(groups, dim)) for projection in projections)
        self.before = nn.ModuleList(block(kind, dim) for _ in projections)
        self.after = nn.ModuleList(block(kind, dim) for _ in projections)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def see(self, taps: Sequence[Tensor]) -> tuple[Maps, list[Tensor]]:
        """Levels before any word, and the Gaussian of each."""
        levels = [project(tap) for project, tap in zip(self.project, [*taps, taps[-1]], strict=True)]
        soft = gaussians([tuple(x.shape[-2:]) for x in levels], self.sigma, levels[0].device)
        return [mix(x, g) for mix, x, g in zip(self.before, levels, soft, strict=True)], soft

    def read(
        self,
        levels: Maps,
        soft: list[Tensor],
        words: Float[Tensor, "batch words dim"],
        real: Bool[Tensor, "batch words"],
    ) -> Maps:
        """Levels after the words; images are the frames of all items, item by item."""
        code = word_code(real, words.shape[-1])
        fused = [self.attend(x, words, real, code) for x in levels]
        return [mix(x, g) for mix, x, g in zip(self.after, fused, soft, strict=True)]

    def attend(self, level: Tensor, words: Tensor, real: Tensor, code: Tensor) -> Tensor:
        """Every pixel of every frame asks the words of its item; the answer multiplies the pixel."""
        batch = len(words)
        pixels = level.flatten(2).unflatten(0, (batch, -1)).transpose(2, 3).flatten(1, 2)
        padding = None if bool(real.all()) else ~real
        key = words + code.to(words.dtype)
        answer = self.attention(pixels, key, words, key_padding_mask=padding, need_weights=False)[0]
        answer = answer.unflatten(1, (-1, level.shape[-2] * level.shape[-1])).transpose(2, 3)
        return level * answer.flatten(0, 1).unflatten(-1, level.shape[-2:])


def nearest(mask: Bool[Tensor, "images height width"], size: tuple[int, int]) -> Bool[Tensor, "images h w"]:
    """A mask at another size by the nearest pixel up and left."""
    return F.interpolate(mask[:, None].float(), size=size)[:, 0].bool()
