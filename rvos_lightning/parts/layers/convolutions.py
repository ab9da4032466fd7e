"""Small convolutional layers with which a network trained from scratch sees edges early."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip.

    Args:
        width: channels, a multiple of 8.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Float[Tensor, "images c h w"]) -> Float[Tensor, "images c h w"]:
        """Same shape."""
        return functional.gelu(x + self.layers(x))


def halving(inputs: int, width: int) -> list[nn.Module]:
    """Layers that halve a map; `width` is a multiple of 8."""
    return [nn.Conv2d(inputs, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()]


def refinement(width: int) -> nn.Sequential:
    """What turns a sum of feature maps into the map that a mask's kernel is multiplied with."""
    return nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 1))


class ConvStem(nn.Module):
    """3x3 convolutions in place of one patch embedding; channels last, as Hiera wants them.

    After Xiao et al. 2021, "Early convolutions help transformers see better".

    Args:
        width: output channels, a multiple of 8.
        stride: pixels per token, a power of 2.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        halvings = stride.bit_length() - 1
        layers = [layer for i in range(halvings) for layer in halving(width if i else 3, width)]
        self.proj = nn.Sequential(*layers, Residual(width))

    def forward(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images h w c"]:
        """h = height / stride, w = width / stride."""
        return self.proj(images).permute(0, 2, 3, 1)
