"""One Cross-Modal Temporal (CMT) adapter: words into pixels and pixels into words, over a whole clip."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rvos_lightning.parts.layers.lean import lean_relu
from rvos_lightning.systems.samwise.attention import FusedAttention

Pixels = Float[Tensor, "batch time dim h w"]


class CrossModalTemporal(nn.Module):
    """Additive updates for one stage's pixels and words (SAMWISE, section 3.2).

    Args:
        channels: of the trunk stage.
        text_width: of the words.
        dim: inner width.
        heads: of every attention.
        patch: side of a tube, in cells, for Hierarchical Selective Attention; None leaves it out.
        dropout: of that attention.
    """

    def __init__(self, channels: int, text_width: int, dim: int, heads: int, patch: int | None, dropout: float) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(channels, dim, 1, bias=False), nn.BatchNorm2d(dim))
        # A transposed convolution only for its weight layout and initialisation; `forward` applies it as a plain one.
        self.up = nn.Sequential(nn.ConvTranspose2d(dim, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.text_down = nn.Linear(text_width, dim, bias=False)
        self.text_up = nn.Linear(dim, text_width, bias=False)
        self.selective = None if patch is None else SelectiveAttention(dim, heads, patch, dropout)
        self.vision_from_text = FusedAttention(dim, heads)
        self.text_from_vision = FusedAttention(dim, heads)

    def forward(
        self,
        pixels: Float[Tensor, "batch time channels h w"],
        words: Float[Tensor, "batch words text"],
        real: Bool[Tensor, "batch words"] | None,
    ) -> tuple[Float[Tensor, "batch time channels h w"], Float[Tensor, "batch words text"]]:
        """What to add to pixels and words; `real` is False on padding, which is then not attended."""
        time = pixels.shape[1]
        x = self.narrow(pixels)
        text = self.text_down(words)
        mixed = self.read_text(self.mix(x), text, real)
        text = text * self.text_from_vision(text, x.mean(1).flatten(2).transpose(1, 2))
        convolution, norm = self.up
        update = F.conv2d(mixed.flatten(0, 1), convolution.weight.transpose(0, 1))
        return lean_relu(norm(update)).unflatten(0, (-1, time)), self.text_up(text)

    def narrow(self, pixels: Float[Tensor, "batch time channels h w"]) -> Pixels:
        """Pixels at the inner width."""
        return F.relu(self.down(pixels.flatten(0, 1))).unflatten(0, (-1, pixels.shape[1]))

    def mix(self, x: Pixels) -> Pixels:
        """Pixels that have looked at others of their tube, before they read."""
        return x if self.selective is None else x + self.selective(x)

    def read_text(
        self, x: Pixels, text: Float[Tensor, "batch words dim"], real: Bool[Tensor, "batch words"] | None
    ) -> Pixels:
        """Every pixel times what it reads from the sentence (a product, no residual: official code)."""
        queries = x.permute(0, 1, 3, 4, 2).flatten(1, 3)
        read = queries * self.vision_from_text(queries, text, real)
        return read.unflatten(1, (x.shape[1], x.shape[3], x.shape[4])).permute(0, 1, 4, 2, 3)


class SelectiveAttention(nn.Module):
    """Hierarchical Selective Attention: self-attention inside tubes of patch x patch cells over all frames."""

    def __init__(self, dim: int, heads: int, patch: int, dropout: float) -> None:
        super().__init__()
        self.patch = patch
        self.place = nn.Parameter(nn.init.trunc_normal_(torch.empty(patch * patch, dim), std=0.02))
        self.norm = nn.LayerNorm(dim)
        self.attention = FusedAttention(dim, heads, dropout)
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Pixels) -> Pixels:
        """The update of every cell.

        Raises:
            ValueError: the map is not a whole number of patches.
        """
        tokens = self.norm(self.tubes(x))
        return self.untube(self.linear(self.attention(tokens, tokens)), x.shape)

    def tubes(self, x: Pixels) -> Float[Tensor, "tubes tokens dim"]:
        """Tubes of every clip row by row; inside a tube frame by frame, row by row, with time and place codes."""
        _, time, dim, height, width = x.shape
        p = self.patch
        if height % p or width % p:
            raise ValueError(f"HSA patch {p} does not divide the {height} x {width} map; change patches or image_size")
        cut = x.unflatten(4, (-1, p)).unflatten(3, (-1, p))  # batch time dim rows p columns p
        cut = cut.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, time, p * p, dim)
        return (cut + self.place + time_code(time, dim, x.device)[:, None]).flatten(1, 2)

    def untube(self, tokens: Float[Tensor, "tubes tokens dim"], shape: torch.Size) -> Pixels:
        """The inverse of the cutting."""
        batch, time, dim, height, width = shape
        p = self.patch
        cut = tokens.reshape(batch, height // p, width // p, time, p, p, dim)
        return cut.permute(0, 3, 6, 1, 4, 2, 5).reshape(shape)


def time_code(time: int, dim: int, device: torch.device) -> Float[Tensor, "time dim"]:
    """Sine code of frames 1..time scaled to one turn of the clip's own length (official code)."""
    steps = torch.arange(1, time + 1, device=device) * (2 * math.pi / (time + 1e-6))
    exponents = torch.div(torch.arange(dim, device=device), 2, rounding_mode="floor") * (2 / dim)
    angles = steps[:, None] / 10000.0**exponents
    return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1).flatten(1)
