"""Conditional patch kernels: every query predicts two small point-wise layers that segment encoded features.

SgMg, ICCV 2023 (arXiv 2307.13537); dynamic layers and relative coordinates as in CondInst (arXiv 2003.05664).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.parts.layers.mlp import MLP

Patches = Float[Tensor, "layers images queries channels h w"]


class PatchKernels(nn.Module):
    """From a query's state to its mask, `patch` x `patch` sub-pixels in every cell of the finest level.

    Args:
        dim: channels of states and features.
        stride: pixels between neighbouring cells.
        patch: sub-pixels along a cell's side; a cell's mask has their square as channels, row by row.
        inner: channels between the two layers.
        conditional_patches: False: one logit a cell, stretched bilinearly to the sub-pixels (an ablation).
    """

    def __init__(
        self, dim: int = 256, stride: int = 8, patch: int = 4, inner: int = 16, conditional_patches: bool = True
    ) -> None:
        super().__init__()
        self.dim, self.stride, self.patch, self.inner = dim, stride, patch, inner
        self.outer = patch**2 if conditional_patches else 1
        self.splits = [inner * (dim + 2), self.outer * inner, inner, self.outer]
        self.kernels = MLP(dim, dim, sum(self.splits), 3)
        for layer in self.kernels.layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        features: Float[Tensor, "images dim h w"],
        states: Float[Tensor, "layers images queries dim"],
        centres: Float[Tensor, "layers images queries 2"],
    ) -> Patches:
        """Patch masks (logits) of all given queries.

        Args:
            features: encoded places of the finest level.
            states: of the queries after some decoder layers.
            centres: x, y of the queries' boxes in pixels of the picture.
        """
        return self.apply_kernels(self.kernels(states), features, centres)

    def apply_kernels(
        self, parameters: Float[Tensor, "layers images queries all"], features: Tensor, centres: Tensor
    ) -> Patches:
        """Both dynamic layers as matrix products over all cells.

        A cell's coordinates relative to the query are "centre minus cell": the centre joins the bias, the cell's own
        place joins the features as two further channels.
        """
        layers, images, queries, _ = parameters.shape
        weight1, weight2, bias1, bias2 = parameters.float().split(self.splits, -1)
        weight1 = weight1.unflatten(-1, (self.inner, self.dim + 2))
        place = weight1[..., self.dim :]
        bias1 = bias1 + (place * centres.float()[..., None, :]).sum(-1)
        weight1 = torch.cat([weight1[..., : self.dim], -place], -1)
        rows = weight1.permute(1, 0, 2, 3, 4).flatten(1, 3)
        seen = torch.cat([features.float(), self.cells(features)], 1).flatten(2)
        hidden = torch.baddbmm(bias1.transpose(0, 1).reshape(images, -1, 1), rows, seen)
        hidden = torch.relu(hidden).view(images * layers * queries, self.inner, -1)
        weight2 = weight2.transpose(0, 1).reshape(-1, self.outer, self.inner)
        bias2 = bias2.transpose(0, 1).reshape(-1, self.outer, 1)
        masks = torch.baddbmm(bias2, weight2, hidden).unflatten(-1, features.shape[-2:])
        if self.outer == 1 < self.patch:
            masks = F.interpolate(masks, scale_factor=self.patch, mode="bilinear")
            masks = F.pixel_unshuffle(masks, self.patch)
        return masks.view(images, layers, queries, *masks.shape[1:]).transpose(0, 1)

    def cells(self, features: Tensor) -> Float[Tensor, "images 2 h w"]:
        """x and y of the cells' centres in pixels."""
        height, width = features.shape[-2:]
        rows = torch.arange(height, device=features.device) * self.stride + self.stride // 2
        columns = torch.arange(width, device=features.device) * self.stride + self.stride // 2
        places = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)]).float()
        return places.expand(len(features), -1, -1, -1)
