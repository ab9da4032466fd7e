"""Three maps from one (simple feature pyramid, ViTDet: Li et al. 2022, section 3)."""

from jaxtyping import Float
from torch import Tensor, nn

Levels = tuple[Float[Tensor, "_images _c _h _w"], ...]
"""Fine, middle, coarse."""


class SimplePyramid(nn.Module):
    """Every level: a change of scale, 1x1 convolution, norm, 3x3 convolution, norm; no activation.

    Args:
        inputs: channels of the map.
        width: channels of every level.
        doubled: levels at 2, 1 and 1/2 of the map's scale (CLIP) instead of 1, 1/2 and 1/4 (SAM).
    """

    def __init__(self, inputs: int, width: int, doubled: bool) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2)
        scales = (up, nn.Identity(), nn.MaxPool2d(2)) if doubled else (nn.Identity(), nn.MaxPool2d(2), nn.MaxPool2d(4))
        self.levels = nn.ModuleList(
            _level(scale, inputs // 2 if doubled and i == 0 else inputs, width) for i, scale in enumerate(scales)
        )

    def forward(self, x: Float[Tensor, "images inputs h w"]) -> Levels:
        """The three levels."""
        return tuple(level(x) for level in self.levels)


def _level(scale: nn.Module, inputs: int, width: int) -> nn.Sequential:
    from sam2.modeling.sam2_utils import LayerNorm2d

    return nn.Sequential(
        scale,
        nn.Conv2d(inputs, width, 1, bias=False),
        LayerNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        LayerNorm2d(width),
    )
