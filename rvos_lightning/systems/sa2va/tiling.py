"""Pictures for the language model and for SAM2, resampled exactly as the released code does (Pillow bicubic).

InternVL2.5 cuts a picture in up to twelve square tiles and appends a thumbnail; video frames are squashed.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Normalisation = Literal["train", "video", "image"]


def grids(max_tiles: int = 12, min_tiles: int = 1) -> list[tuple[int, int]]:
    """All (columns, rows) with an allowed number of tiles, by that number."""
    sizes = range(1, max_tiles + 1)
    found = [(c, r) for c in sizes for r in sizes if min_tiles <= c * r <= max_tiles]
    return sorted(found, key=lambda grid: grid[0] * grid[1])


def choose_grid(width: int, height: int, tile: int = 448, max_tiles: int = 12) -> tuple[int, int]:
    """The (columns, rows) closest in aspect ratio; on a tie the larger one if the picture has enough pixels."""
    best, best_gap = (1, 1), float("inf")
    for columns, rows in grids(max_tiles):
        gap = abs(width / height - columns / rows)
        if gap < best_gap or (gap == best_gap and width * height > 0.5 * tile * tile * columns * rows):
            best, best_gap = (columns, rows), gap
    return best


def tile_image(image: "Image", tile: int = 448, max_tiles: int = 12) -> Float[Tensor, "tiles 3 tile tile"]:
    """Normalised tiles, row by row, and, when there are several, the squashed whole picture last."""
    from PIL import Image

    image = image.convert("RGB")
    columns, rows = choose_grid(*image.size, tile, max_tiles)
    whole = image.resize((columns * tile, rows * tile), Image.Resampling.BICUBIC)
    corners = [(c * tile, r * tile) for r in range(rows) for c in range(columns)]
    tiles = [whole.crop((x, y, x + tile, y + tile)) for x, y in corners]
    if len(tiles) > 1:
        tiles.append(image.resize((tile, tile), Image.Resampling.BICUBIC))
    return torch.stack([normalise(to_pixels(t)) for t in tiles])


def squash(image: "Image", size: int) -> UInt8[Tensor, "3 size size"]:
    """The whole picture at size x size, aspect ratio not preserved (448: language model, 1024: SAM2)."""
    from PIL import Image

    return to_pixels(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def to_pixels(image: "Image") -> UInt8[Tensor, "3 height width"]:
    """A Pillow picture as a tensor."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise(pixels: UInt8[Tensor, "*any 3 h w"], how: Normalisation = "train") -> Float[Tensor, "*any 3 h w"]:
    """ImageNet normalisation of uint8 pixels.

    `train` is float32 throughout; the released chat code rounds mean and std to bfloat16 for videos (`video`)
    and computes in bfloat16 for images (`image`), which changes pixels by up to 1e-2.
    """
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
    if how == "train":
        return (pixels.float() / 255 - mean) / std
    half_mean, half_std = mean.bfloat16(), std.bfloat16()
    if how == "video":
        return ((pixels.float() / 255 - half_mean) / half_std).bfloat16()
    return (pixels.bfloat16() / 255 - half_mean) / half_std


def resize_frames(
    frames: Float[Tensor, "frames 3 height width"], size: int, resample: Literal["torch", "pillow"] = "torch"
) -> Float[Tensor, "frames 3 size size"]:
    """RGB in [0, 1] squashed to size x size; `pillow` goes through uint8 on the CPU and equals the released code."""
    if frames.shape[-2:] == (size, size):
        return frames
    if resample == "torch":
        resized = F.interpolate(frames, (size, size), mode="bicubic", antialias=True, align_corners=False)
        return resized.clamp(0, 1)
    return torch.stack([_pillow(frame, size) for frame in frames]).to(frames.device)


def normalise_frames(frames: Float[Tensor, "frames 3 h w"]) -> Float[Tensor, "frames 3 h w"]:
    """ImageNet normalisation of RGB in [0, 1]."""
    mean, std = (frames.new_tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (frames - mean) / std


def _pillow(frame: Float[Tensor, "3 height width"], size: int) -> Float[Tensor, "3 size size"]:
    from PIL import Image

    pixels = (frame * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return squash(Image.fromarray(pixels), size).float() / 255
