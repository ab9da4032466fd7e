"""Multi-granularity segmentation optimizer: coarse masks refined with raw visual features (SgMg, ICCV 2023)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Masks = Float[Tensor, "masks channels _h _w"]


class Refiner(nn.Module):
    """Two residual steps on a patch mask: beside the second tap of the backbone, then, enlarged, beside the first.

    The first convolution of a step reads mask and features together; it is a sum of a convolution of each, so that the
    features' part is the same for all masks of a frame and is computed once (`see`).

    Args:
        channels: of the backbone's first two taps.
        patch: sub-pixels along a cell's side; masks have their square as channels.
        inner: channels inside a step.
    """

    def __init__(self, channels: tuple[int, int], patch: int = 4, inner: int = 16) -> None:
        super().__init__()
        outer = patch**2
        self.patch, self.outer = patch, outer
        self.coarse_in = nn.Conv2d(outer + channels[1], inner, 3, padding=1)
        self.coarse_out = nn.Conv2d(inner, outer, 3, padding=1)
        self.fine_in = nn.Conv2d(outer + channels[0], inner, 3, padding=1)
        self.fine_out = nn.Conv2d(inner, outer, 3, padding=1)

    def see(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """What the backbone's first two taps contribute to the two steps, whatever the mask."""
        return self.part_of_features(self.fine_in, fine), self.part_of_features(self.coarse_in, coarse)

    def part_of_features(self, convolution: nn.Conv2d, features: Tensor) -> Tensor:
        """The share of a step's first convolution that reads features."""
        return F.conv2d(torch.relu(features), convolution.weight[:, self.outer :], convolution.bias, padding=1)

    def forward(self, masks: Masks, seen: tuple[Tensor, Tensor]) -> Masks:
        """Refined patch masks on the grid of the first tap; `seen` has one row a mask, or one row for all."""
        fine, coarse = seen
        masks = self.step(masks, coarse, self.coarse_in, self.coarse_out)
        masks = F.interpolate(masks, size=fine.shape[-2:], mode="bilinear")
        return self.step(masks, fine, self.fine_in, self.fine_out)

    def step(self, masks: Masks, seen: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Masks:
        """One residual step; as published, the ReLU before it also cuts the mask's negative logits."""
        inner = F.conv2d(torch.relu(masks), first.weight[:, : self.outer], padding=1) + seen
        return masks + second(torch.relu(inner))


def pixels(masks: Float[Tensor, "*lead channels h w"], patch: int) -> Float[Tensor, "*lead height width"]:
    """Sub-pixels in their places: `patch` times as many rows and columns."""
    return F.pixel_shuffle(masks, patch).squeeze(-3)
