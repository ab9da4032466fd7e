"""Temporal feature integrator (TFI): short clips of raw frames enter the image features (paper 3.2)."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.core.seams import Adapter, Segmenter, agreed
from rvos_lightning.core.types import Clip, Features

STAGES = 3


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _conv_norm_gelu(source: int, target: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(source, target, kernel, padding=kernel // 2), LayerNorm2d(target), nn.GELU())


def along_time(conv: nn.Conv3d, x: Float[Tensor, "n c slots h w"]) -> Float[Tensor, "n c2 fewer_slots h w"]:
    """A (taps,1,1) convolution as a plane's, of slots and places, for which there are faster kernels on a CPU."""
    plane = functional.conv2d(x.flatten(3), conv.weight.flatten(3), conv.bias)
    return plane.unflatten(3, x.shape[3:])


class TemporalStage(nn.Module):
    """Three residual steps of a spatial (1,3,3) and a temporal (3,1,1) convolution.

    Args:
        dim: channels.
        newest_only: compute only what reaches the newest slot (the last stage is read nowhere else).
    """

    def __init__(self, dim: int, newest_only: bool):
        super().__init__()
        self.newest_only = newest_only
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.spatial = nn.ModuleList(nn.Conv3d(dim, dim, (1, 3, 3), padding=(0, 1, 1)) for _ in range(3))
        self.temporal = nn.ModuleList(nn.Conv3d(dim, dim, (3, 1, 1)) for _ in range(3))

    def forward(self, x: Float[Tensor, "n c slots h w"]) -> Float[Tensor, "n c newest_slots h w"]:
        """All slots, or only the newest one."""
        for i, (norm, spatial, temporal) in enumerate(zip(self.norms, self.spatial, self.temporal, strict=True)):
            # What step i must deliver: the newest slot and the older ones that later steps still look at.
            needed = min(len(self.norms) - i, x.shape[2]) if self.newest_only else x.shape[2]
            used = min(needed + 1, x.shape[2])
            x = x[:, :, -used:]
            hidden = _quick_gelu(spatial(norm(x.movedim(1, -1)).movedim(-1, 1)))
            older = 1 if used == needed else 0  # zero padding beyond the oldest slot
            change = along_time(temporal, functional.pad(hidden, (0, 0, 0, 0, older, 1)))
            x = _quick_gelu(x[:, :, -needed:] + change)
        return x


class TemporalIntegrator(Adapter):
    """Integrates the last frames into the last three encoder levels.

    Args:
        channels: of the segmenter's last three levels; None asks it.
        dim: of the integrated feature; None: the segmenter's prompt width.
        temporal_dim: of the temporal branch.
        frames: clip length, current frame included (5 as released; the paper's cost table counts 3).
        patch: side of a stem patch; None: the segmenter's stride.
        within: encodes the frames with language inside the encoder (the original has none); None for clicks.
    """

    def __init__(
        self,
        channels: tuple[int, int, int] | None = None,
        dim: int | None = None,
        temporal_dim: int = 96,
        frames: int = 5,
        patch: int | None = None,
        within: Adapter | None = None,
    ):
        super().__init__()
        self.channels, self.dim, self.patch = channels, dim, patch
        self.temporal_dim, self.frames, self.looks_back = temporal_dim, frames, frames - 1
        self.within = within

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "TemporalIntegrator":
        """The branch at the widths of the segmenter's last three levels."""
        super().fit_to(segmenter)
        if self.within is not None:  # before: it has its own initialisation
            self.within.fit_to(segmenter)
            self.text_dim = self.within.text_dim
        levels = tuple(segmenter.channels[-STAGES:])
        if len(levels) < STAGES:
            name = type(segmenter).__name__
            raise ValueError(f"TemporalIntegrator reads the last {STAGES} levels, {name} has {len(levels)}")
        self.channels = agreed("adapter.channels", self.channels, levels, segmenter)
        self.dim = dim = agreed("adapter.dim", self.dim, segmenter.prompt_dim, segmenter)
        self.patch = patch = agreed("adapter.patch", self.patch, segmenter.stride, segmenter)
        own, both = self.temporal_dim, dim + self.temporal_dim
        self.stem = nn.Conv3d(3, own, (5, patch, patch), stride=(1, patch, patch), padding=(2, 0, 0))
        self.taps = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in self.channels)
        self.temporal = nn.ModuleList(TemporalStage(own, i == STAGES - 1) for i in range(STAGES))
        # The original has a third one whose output nothing reads.
        self.to_temporal = nn.ModuleList(_conv_norm_gelu(both, own, 1) for _ in range(STAGES - 1))
        self.to_image = nn.ModuleList(_conv_norm_gelu(both, dim, 1) for _ in range(STAGES))
        self.integrate = nn.ModuleList(_conv_norm_gelu(dim, dim, 3) for _ in range(STAGES))
        for module in (self.stem, self.taps, self.temporal, self.to_temporal, self.to_image, self.integrate):
            module.apply(_initialise)
        return self

    def forward(self, clip: Clip, segmenter: Segmenter) -> Features:
        """Encode each video once (each item, where language is `within`), integrate, one row an item."""
        frames = clip.frames if clip.past is None else torch.cat([clip.past, clip.frames], 1)
        slots = clip_slots(frames.shape[1], self.frames).to(frames.device)[-clip.time :]
        stem = self.stem_slots(segmenter.prepare(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]), slots)
        if self.within is not None:
            inner = self.within(clip, segmenter)
            levels = tuple(level.flatten(0, 1) for level in inner.pyramid[-STAGES:])
            stem = stem.unflatten(0, (-1, clip.time))[clip.video].flatten(0, 1)
            return replace(inner, pyramid=(self.integrate_levels(levels, stem).unflatten(0, (-1, clip.time)),))
        fused = self.integrate_levels(segmenter.encode(clip.frames.flatten(0, 1))[-STAGES:], stem)
        fused = fused.unflatten(0, (-1, clip.time))
        alone = len(fused) == 1
        return Features((fused.expand(len(clip), -1, -1, -1, -1) if alone else fused[clip.video],))

    def stem_slots(
        self, pixels: Float[Tensor, "video time 3 h w"], slots: Int[Tensor, "current slot"]
    ) -> Float[Tensor, "images c slot gh gw"]:
        """The 3-D stem for every current frame's slots, each frame convolved once (the stem is linear over time)."""
        taps = self.stem.weight.shape[2]
        weight = self.stem.weight.movedim(2, 0).flatten(0, 1)
        parts = functional.conv2d(pixels.flatten(0, 1), weight, stride=self.patch)
        parts = parts.unflatten(1, (taps, -1)).unflatten(0, pixels.shape[:2])  # video time tap c h w
        count = slots.shape[1]
        total = 0
        for tap in range(taps):
            source = torch.arange(count, device=slots.device) + tap - taps // 2
            inside = (source >= 0) & (source < count)
            gathered = parts[:, slots[:, source.clamp(0, count - 1)], tap]  # video current slot c h w
            total = total + gathered * inside.view(-1, 1, 1, 1)
        return (total + self.stem.bias.view(-1, 1, 1)).flatten(0, 1).transpose(1, 2)

    def integrate_levels(
        self, levels: tuple[Float[Tensor, "images _c _h _w"], ...], temporal: Float[Tensor, "images c slot h w"]
    ) -> Float[Tensor, "images dim h w"]:
        """Three rounds of exchange between the temporal branch and the image levels."""
        grid = temporal.shape[-2:]
        carried: Tensor | float = 0.0
        fused = temporal
        for i in range(STAGES):
            temporal = self.temporal[i](temporal)
            level = levels[i]
            if level.shape[-2:] != grid:
                level = functional.interpolate(level, grid, mode="bilinear", align_corners=False)
            image = self.taps[i](level) + carried
            both = torch.cat([image, temporal[:, :, -1]], 1)
            fused = self.to_image[i](both)
            carried = self.integrate[i](fused)
            if i < STAGES - 1:
                temporal = torch.cat([temporal[:, :, :-1], self.to_temporal[i](both)[:, :, None]], 2)
        return carried + fused


def clip_slots(time: int, frames: int) -> Int[Tensor, "current slot"]:
    """For every frame of a video the frames in its clip: the past, then itself, repeated while the past is short."""
    current = torch.arange(time)[:, None]
    start = (current - frames + 1).clamp(min=0)
    return torch.minimum(start + torch.arange(frames), current)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
