"""A segmenter of a few thousand parameters with the same seams as SAM: the template for a new one."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.core.seams import Decoded, Pyramid, Segmenter, StageHook
from rvos_lightning.parts.layers.convolutions import Residual, halving, refinement


class TinySegmenter(Segmenter):
    """Three convolutional stages at strides 2, 4, 8 and a dot-product mask head at stride 2.

    Args:
        widths: channels of the stages, multiples of 8.
        prompt_dim: width of prompt tokens and of the head.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64), prompt_dim: int = 32):
        super().__init__()
        self.channels = self.stage_channels = tuple(widths)
        self.prompt_dim, self.stride = prompt_dim, 8
        inputs = (5, *widths[:-1])  # RGB and the pixel's x and y: "left of" needs to know where it is
        self.stages = nn.ModuleList(
            nn.Sequential(*halving(i, o), Residual(o)) for i, o in zip(inputs, widths, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, prompt_dim, 1) for width in widths)
        self.smooth = refinement(prompt_dim)
        self.presence = nn.Linear(2 * prompt_dim, 1)

    def prepare(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 height width"]:
        """RGB in [-1, 1], at any size."""
        return images * 2 - 1

    def encode(self, images: Float[Tensor, "images 3 height width"], after_stage: StageHook | None = None) -> Pyramid:
        """Maps at strides 2, 4, 8."""
        x = torch.cat([self.prepare(images), coordinates(images)], dim=1)
        pyramid = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if after_stage is not None:
                x = after_stage(i, x)
            pyramid.append(x)
        return tuple(pyramid)

    def decode(
        self,
        features: Pyramid,
        tokens: Float[Tensor, "batch tokens dim"],
        dense: Float[Tensor, "batch dim h w"] | None = None,
    ) -> Decoded:
        """Mask logits at stride 2: dot product of the first token with fused features."""
        size = features[0].shape[-2:]
        fused = sum(
            functional.interpolate(lateral(level), size=size, mode="bilinear", align_corners=False)
            for lateral, level in zip(self.lateral, features, strict=True)
        )
        pixels = self.smooth(fused if dense is None else fused + functional.interpolate(dense, size=size))
        mask_logits = torch.einsum("bchw,bc->bhw", pixels, tokens[:, 0]) / self.prompt_dim**0.5 - 2.0
        seen = torch.cat([pixels.amax(dim=(-2, -1)), tokens[:, 0]], dim=1)
        return Decoded(mask_logits, presence_logits=self.presence(seen)[:, 0], token=tokens[:, 0])


def coordinates(images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images 2 height width"]:
    """x and y of every pixel in [-1, 1]."""
    height, width = images.shape[-2:]
    y = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype).expand(height, width)
    return torch.stack([x, y]).expand(len(images), -1, -1, -1)
