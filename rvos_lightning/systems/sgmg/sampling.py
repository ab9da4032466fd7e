"""The sampling of deformable attention (arXiv 2010.04159) on a CPU: every place and head sums one bag of rows.

transformers samples maps of channels, all points of all heads, and then weighs and sums them: 32 channels from 32
places of memory, and an array of all samples. A head's channels at a cell lie beside each other, though, so that four
rows a point, weighted by bilinear interpolation times attention, are what `embedding_bag` adds up without keeping any.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from rvos_lightning.parts.layers.linear import on_cpu, plain_cpu

Values = Float[Tensor, "images places heads channels"]
Sizes = list[tuple[int, int]]


class BagAttention(MultiScaleDeformableAttention):
    """transformers' sampling, by bags on a CPU, as it is elsewhere and in training under `torch.compile`.

    The compiler cannot follow the backward pass of bags. Without gradients it can, and must: what inductor makes of
    `grid_sample` draws every sample anew for each use.
    """

    def forward(  # the names are transformers'
        self,
        value: Values,
        value_spatial_shapes: Int[Tensor, "levels 2"],
        value_spatial_shapes_list: Sizes,
        level_start_index: Int[Tensor, "levels"] | None,
        sampling_locations: Float[Tensor, "images queries heads levels points 2"],
        attention_weights: Float[Tensor, "images queries heads levels points"],
        im2col_step: int,
    ) -> Float[Tensor, "images queries all"]:
        """Weighted sums of samples, heads beside each other."""
        kept = torch.is_grad_enabled()
        if not (plain_cpu(value) if kept else on_cpu(value)):
            return super().forward(
                value,
                value_spatial_shapes,
                value_spatial_shapes_list,
                level_start_index,
                sampling_locations,
                attention_weights,
                im2col_step,
            )
        sums = SampledSum.apply if kept else sums_of_bags
        return sums(value, sampling_locations, attention_weights, value_spatial_shapes_list)


class SampledSum(torch.autograd.Function):
    """Sums of bags, image by image; the backward pass draws up the bags again instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, value: Values, places: Tensor, attention: Tensor, sizes: Sizes) -> Tensor:
        """See `BagAttention`."""
        ctx.save_for_backward(value, places, attention)
        ctx.sizes = sizes
        return sums_of_bags(value, places, attention, sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of values, places and attention."""
        value, places, attention = ctx.saved_tensors
        found = []
        for image in range(len(value)):
            back = grad[image].reshape(-1, value.shape[-1])
            found.append(_image_gradients(value[image], places[image], attention[image], ctx.sizes, back))
        values, moves, shares = (torch.stack(x) for x in zip(*found, strict=True))
        return values, moves, shares, None


def sums_of_bags(value: Values, places: Tensor, attention: Tensor, sizes: Sizes) -> Tensor:
    """Weighted sums of samples, image by image."""
    sums = []
    for table, where, weight in zip(value, places, attention, strict=True):
        rows, weights = bags(where, weight, sizes)
        sums.append(F.embedding_bag(rows, framed(table, sizes), mode="sum", per_sample_weights=weights))
    return torch.stack(sums).view(*places.shape[:2], -1)


def _image_gradients(
    value: Tensor, places: Tensor, attention: Tensor, sizes: Sizes, grad: Float[Tensor, "bags channels"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one image."""
    with torch.enable_grad():
        places, attention = places.detach().requires_grad_(), attention.detach().requires_grad_()
        rows, weights = bags(places, attention, sizes)
        drawn = weights.detach().requires_grad_()
        table = framed(value.detach(), sizes)
        sums = F.embedding_bag(rows, table, mode="sum", per_sample_weights=drawn)
    (asked,) = torch.autograd.grad(sums, drawn, grad)
    moves, shares = torch.autograd.grad(weights, (places, attention), asked)
    # what a row gave to bags comes back from them: the transposed sparse product, which sorts nothing
    owners = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
    where = torch.stack([rows.flatten().long(), owners])
    weights = weights.detach().flatten()
    sparse = torch.sparse_coo_tensor(where, weights, (len(table), len(rows)), check_invariants=False)
    return unframed(torch.sparse.mm(sparse, grad), value, sizes), moves, shares


def bags(
    places: Float[Tensor, "queries heads levels points 2"],
    attention: Float[Tensor, "queries heads levels points"],
    sizes: Sizes,
) -> tuple[Int[Tensor, "bags rows"], Float[Tensor, "bags rows"]]:
    """Rows of a framed table that each query and head adds up, and their weights; four rows for a point.

    Args:
        places: (x, y) from 0 to 1 across each level.
        attention: weight of each point.
        sizes: (height, width) of the levels.
    """
    heads, points = places.shape[1], places.shape[3]
    ends = places.new_tensor([[width, height] for height, width in sizes])[:, None]
    # beyond the frame of zeros all is zero, as on it
    cells = torch.minimum((places * ends - 0.5).clamp(min=-1), ends)
    corner = cells.detach().floor()
    right, down = (cells - corner).flatten(2, 3).flatten(0, 1).unbind(-1)
    with torch.no_grad():
        wide = ends[..., 0] + 3
        starts = [0, *torch.tensor([(height + 3) * (width + 3) for height, width in sizes[:-1]]).cumsum(0).tolist()]
        first = corner[..., 0] + (corner[..., 1] + 1) * wide + (ends.new_tensor(starts)[:, None] + 1)
        first = first.nan_to_num(0).to(torch.int32) * heads + torch.arange(heads, dtype=torch.int32)[:, None, None]
        first = first.flatten(2).flatten(0, 1)
        below = (wide * heads).to(torch.int32).expand(-1, points).flatten()
        rows = torch.stack([first, first + heads, first + below, first + (below + heads)], 1)
    lower = down * attention.flatten(2).flatten(0, 1)
    upper = attention.flatten(2).flatten(0, 1) - lower
    upper_right, lower_right = upper * right, lower * right
    weights = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], 1)
    return rows.flatten(1), weights.flatten(1)


def framed(value: Float[Tensor, "places heads channels"], sizes: Sizes) -> Float[Tensor, "rows channels"]:
    """All levels' cells with a frame of zeros, one cell wide above and left, two below and right, heads apart."""
    maps = value.flatten(1).split([height * width for height, width in sizes])
    maps = [F.pad(x.unflatten(0, size), (0, 0, 1, 2, 1, 2)).flatten(0, 1) for x, size in zip(maps, sizes, strict=True)]
    return torch.cat(maps).view(-1, value.shape[-1])


def unframed(table: Float[Tensor, "rows channels"], like: Tensor, sizes: Sizes) -> Tensor:
    """The cells inside the frames, of the shape of `like`."""
    maps = table.view(-1, *like.shape[1:]).split([(height + 3) * (width + 3) for height, width in sizes])
    inner = [
        x.unflatten(0, (size[0] + 3, size[1] + 3))[1:-2, 1:-2].flatten(0, 1)
        for x, size in zip(maps, sizes, strict=True)
    ]
    return torch.cat(inner)
