"""A still image as a short film: ReferFormer's way to pre-train video networks on RefCOCO."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad
from torchvision.transforms.v2 import functional as F

from rvos_lightning.data.clips.sample import Augmentation, ClipSample
from rvos_lightning.data.clips.transforms import COLOURS, words_of


class PseudoVideo(Augmentation):
    """The picture once as it is and otherwise warped and re-lit, in random order; black comes into view.

    Expects a clip that repeats one picture, as every sampling rule makes of an image; leaves real clips alone.

    Args:
        degrees: rotation up to so many degrees.
        translate: shift up to this share of the sides.
        perspective: every corner moves up to this share of the sides.
        brightness: added to all channels, up to this (of 255).
        hue: shift up to this share of the colour circle; none where the words name a colour.
        blur: probability of motion blur with a kernel of 9 or 11 pixels.
    """

    def __init__(
        self,
        degrees: float = 20.0,
        translate: float = 0.1,
        perspective: float = 0.08,
        brightness: float = 40.0,
        hue: float = 5 / 180,
        blur: float = 0.25,
    ) -> None:
        self.degrees, self.translate, self.perspective = degrees, translate, perspective
        self.brightness, self.hue, self.blur = brightness, hue, blur

    def __call__(self, sample: ClipSample, random: np.random.Generator) -> ClipSample:
        """See `Augmentation`."""
        time = len(sample.frames)
        if time == 1 or len(set(sample.meta[0].positions)) > 1:
            return sample
        maps = torch.stack([torch.eye(3)] + [self._homography(random) for _ in range(time - 1)])
        maps = maps[torch.from_numpy(random.permutation(time))]
        grid = _grid(maps, *sample.frames.shape[-2:])
        frames = grid_sample(self._relit(sample, random), grid, align_corners=False)
        frames = torch.stack([self._blurred(frame, random) for frame in frames])
        masks = grid_sample(sample.masks.movedim(1, 0).float(), grid, mode="nearest", align_corners=False)
        return replace(sample, frames=frames.round().to(torch.uint8), masks=masks.movedim(0, 1) > 0.5)

    def _relit(self, sample: ClipSample, random: np.random.Generator) -> Float[Tensor, "time 3 h w"]:
        frames = []
        coloured = bool(words_of(sample) & COLOURS)
        for frame in sample.frames:
            which = int(random.integers(3))  # brightness, hue, or both
            shift, turn = random.uniform(-self.brightness, self.brightness), random.uniform(-self.hue, self.hue)
            if which != 0 and not coloured:
                frame = F.adjust_hue(frame, float(turn))
            frames.append((frame.float() + (shift if which != 1 else 0.0)).clamp(0, 255))
        return torch.stack(frames)

    def _homography(self, random: np.random.Generator) -> Float[Tensor, "3 3"]:
        """From places in the new picture to places in the old one, in coordinates from -1 to 1."""
        angle = math.radians(float(random.uniform(-self.degrees, self.degrees)))
        shift = [float(s) for s in random.uniform(-2 * self.translate, 2 * self.translate, size=2)]
        affine = torch.tensor(
            [[math.cos(angle), -math.sin(angle), shift[0]], [math.sin(angle), math.cos(angle), shift[1]], [0, 0, 1.0]]
        )
        corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
        moved = corners + torch.from_numpy(random.uniform(-1, 1, size=(4, 2))).float() * 2 * self.perspective
        return affine @ _through(corners, moved)

    def _blurred(self, frame: Float[Tensor, "3 h w"], random: np.random.Generator) -> Float[Tensor, "3 h w"]:
        draw, size, angle = random.random(), int(random.choice((9, 11))), float(random.uniform(0, math.pi))
        if draw >= self.blur:
            return frame
        kernel = torch.zeros(size, size)
        steps = torch.linspace(-(size // 2), size // 2, 4 * size)
        kernel[
            (steps * math.sin(angle)).round().long() + size // 2, (steps * math.cos(angle)).round().long() + size // 2
        ] = 1
        around = pad(frame[:, None], [size // 2] * 4, mode="replicate")
        return conv2d(around, (kernel / kernel.sum())[None, None])[:, 0]


def _through(start: Float[Tensor, "4 2"], end: Float[Tensor, "4 2"]) -> Float[Tensor, "3 3"]:
    """The homography that takes four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(start.tolist(), end.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solution = torch.linalg.solve(torch.tensor(rows), torch.tensor(values))
    return torch.cat([solution, torch.ones(1)]).reshape(3, 3)


def _grid(maps: Float[Tensor, "time 3 3"], height: int, width: int) -> Float[Tensor, "time h w 2"]:
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) * 2 / height - 1, (torch.arange(width) + 0.5) * 2 / width - 1, indexing="ij"
    )
    places = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    moved = places @ maps.transpose(1, 2)
    return (moved[..., :2] / moved[..., 2:]).reshape(len(maps), height, width, 2)
