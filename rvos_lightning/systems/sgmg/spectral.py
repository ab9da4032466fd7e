"""Spectrum-guided fusion of pixels with words (SgMg, ICCV 2023, section 3.2; arXiv 2307.13537)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.parts.layers.linear import pointwise

Kind = Literal["spectral", "spatial", "linear", "none"]
Maps = Float[Tensor, "images channels h w"]
Soft = Float[Tensor, "h w"]


def gaussian(size: tuple[int, int], sigma: float, device: torch.device | None = None) -> Soft:
    """The Gaussian of a spectrum's highest frequencies: 1 in the middle of an unshifted spectrum, `sigma` in bins."""
    rows = torch.arange(size[0], device=device) - size[0] // 2
    columns = torch.arange(size[1], device=device) - size[1] // 2
    squared = rows[:, None] ** 2 + columns[None] ** 2
    return torch.exp(-squared / (2 * sigma**2))


def gaussians(sizes: Sequence[tuple[int, int]], sigma: float, device: torch.device | None = None) -> list[Soft]:
    """One Gaussian a level: built for the first, then resized from level to level.

    The released code hands the map from block to block and resizes it there; resized maps are not the Gaussians of
    their own sizes, so the chain belongs to the published weights.
    """
    maps = [gaussian(sizes[0], sigma, device)]
    for size in sizes[1:]:
        maps.append(F.interpolate(maps[-1][None, None], size=size, mode="bilinear")[0, 0])
    return maps


class SpectralBlock(nn.Module):
    """Filters and mixes a map's spectrum: x + Re(IFFT(mix(FFT(x) (1 - a G)))), a from the map itself.

    Only the real part of the inverse transform is kept, so only the Hermitian part of the mixed spectrum matters: half
    of the spectrum's columns suffices, each handled together with its mirrored frequency. The gate wants the mean of a
    3 x 3 convolution over all places where it fits; by linearity this is the convolution's kernel on nine window means.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int = 256) -> None:
        super().__init__()
        self.mix_in = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.mix_out = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.local = nn.Conv2d(dim, dim, 3)
        self.gate = nn.Sequential(
            nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, 1, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Maps, soft: Soft) -> Maps:
        """The filtered maps; float32 whatever the precision around it, as spectra grow with the number of pixels."""
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # meta: where costs are counted
            x = x.float()
            return x + self.filtered(x, 1 - self.attenuation(x)[:, None] * soft)

    def attenuation(self, x: Maps) -> Float[Tensor, "images 1"]:
        """How strongly the highest frequencies are damped, one number in [0, 1] an image."""
        windows = window_means(x).flatten(1)
        return self.gate(F.linear(windows, self.local.weight.flatten(1), self.local.bias))

    def filtered(self, x: Maps, keep: Float[Tensor, "images h w"]) -> Maps:
        """What is added to `x`; `keep` is the share of every frequency that stays."""
        size, dim = x.shape[-2:], x.shape[1]
        half = size[1] // 2 + 1
        spectrum = torch.fft.rfft2(x)
        straight, mirrored = keep[:, None, :, :half], mirror(keep)[:, None, :, :half]
        weight = self.mix_in.weight
        real = pointwise(spectrum.real, weight[:, :dim])
        imaginary = pointwise(spectrum.imag, weight[:, dim:])
        bias = self.mix_in.bias[:, None, None]
        here = torch.relu((real + imaginary) * straight + bias)
        there = torch.relu((real - imaginary) * mirrored + bias)
        out, shift = self.mix_out.weight, self.mix_out.bias
        mixed_real = pointwise((here + there) / 2, out[:dim], shift[:dim])
        mixed_imaginary = pointwise((here - there) / 2, out[dim:])
        return torch.fft.irfft2(torch.complex(mixed_real, mixed_imaginary), s=size)


class PixelBlock(nn.Module):
    """The ablations of the supplementary's Table A: two convolutions of the map itself instead of its spectrum.

    The paper gives no list of layers; 3 x 3 kernels over 2 dim hidden channels have the 4.7 M parameters a level
    that it counts for the spatial variant.

    Args:
        dim: channels.
        kernel: 3 (spatial) or 1 (linear).
    """

    def __init__(self, dim: int = 256, kernel: int = 3) -> None:
        super().__init__()
        self.mix_in = nn.Conv2d(dim, 2 * dim, kernel, padding=kernel // 2)
        self.mix_out = nn.Conv2d(2 * dim, dim, kernel, padding=kernel // 2)

    def forward(self, x: Maps, soft: Soft) -> Maps:
        """The mixed maps; no spectrum, so `soft` is not used."""
        return x + self.mix_out(torch.relu(self.mix_in(x)))


class NoBlock(nn.Module):
    """No mixing at all; the maps as they come."""

    def forward(self, x: Maps, soft: Soft) -> Maps:
        """`x`."""
        return x


def block(kind: Kind, dim: int) -> nn.Module:
    """The block of a kind."""
    if kind == "spectral":
        return SpectralBlock(dim)
    return NoBlock() if kind == "none" else PixelBlock(dim, 3 if kind == "spatial" else 1)


def mirror(keep: Float[Tensor, "images h w"]) -> Float[Tensor, "images h w"]:
    """The value at -k for every frequency k; a Gaussian of even or resized sides is not symmetric."""
    return keep.flip((-2, -1)).roll((1, 1), (-2, -1))


def window_means(x: Maps) -> Float[Tensor, "images channels 9"]:
    """Mean of `x` under each tap of a 3 x 3 kernel that moves over all places where it fits, row by row."""
    height, width = x.shape[-2:]
    columns = x.sum(-1)
    columns = torch.stack(
        [
            columns - x[..., -1] - x[..., -2],
            columns - x[..., 0] - x[..., -1],
            columns - x[..., 0] - x[..., 1],
        ],
        -1,
    )
    rows = columns.sum(-2)
    windows = torch.stack(
        [
            rows - columns[..., -1, :] - columns[..., -2, :],
            rows - columns[..., 0, :] - columns[..., -1, :],
            rows - columns[..., 0, :] - columns[..., 1, :],
        ],
        -2,
    )
    return windows.flatten(-2) / ((height - 2) * (width - 2))
