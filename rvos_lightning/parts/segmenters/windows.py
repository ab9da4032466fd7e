"""Cutting a map into attention windows of which the last in a row or column are not filled."""

from jaxtyping import Float
from torch import Tensor


def parts(x: Float[Tensor, "images _h _w _c"], axis: int, window: int) -> tuple[Tensor, ...]:
    """The cells of filled windows, and those of the last, cut one, along an axis."""
    cut = x.shape[axis] % window
    return x.split([size for size in (x.shape[axis] - cut, cut) if size], axis)


def windows(x: Float[Tensor, "images _h _w c"], tall: int, wide: int) -> Float[Tensor, "windows cells c"]:
    """Windows of so many cells, of a map that they fill."""
    return x.unflatten(2, (-1, wide)).unflatten(1, (-1, tall)).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def joined(
    x: Float[Tensor, "windows cells c"], shape: tuple[int, int, int], tall: int, wide: int
) -> Float[Tensor, "images _h _w c"]:
    """`windows` taken back, of a map with so many images, rows and columns."""
    images, height, width = shape
    cells = x.reshape(images, height // tall, width // wide, tall, wide, -1)
    return cells.transpose(2, 3).reshape(images, height, width, -1)
