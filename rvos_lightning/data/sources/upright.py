"""Pictures as a viewer shows them: cameras store what they saw and a note how to turn or mirror it."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

Axes = tuple[int, int, int, int]
"""(a, b, c, d): column x and row y of a stored pixel are shown in column a x + c y and row b x + d y."""

STORED: Axes = (1, 0, 0, 1)
EXIF: Mapping[int, Axes] = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""Values of the EXIF field Orientation (EXIF 2.3, section 4.6.4)."""
ORIENTATION = 0x0112


def turned(picture: UInt8[Tensor, "3 h w"], axes: Axes) -> UInt8[Tensor, "3 height width"]:
    """A stored picture, as it is shown."""
    a, b, c, d = axes
    across, down = (a, d) if a else (c, b)
    shown = picture if a else picture.transpose(1, 2)
    flips = [axis for axis, sign in ((2, across), (1, down)) if sign < 0]
    return shown.flip(flips).contiguous() if flips or not a else picture


def of_photo(data: bytes) -> Axes:
    """How an image file asks to be shown."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return EXIF.get(image.getexif().get(ORIENTATION, 1), STORED)
    except Exception:  # a damaged note is no reason to refuse a readable picture
        return STORED


def of_frame(frame: Any) -> Axes:
    """How a film's frame asks to be shown: its display matrix, to the nearest quarter turn, with mirroring."""
    note = frame.side_data.get("DISPLAYMATRIX")
    if note is None or len(bytes(note)) < 36:
        return STORED
    matrix = np.frombuffer(bytes(note), np.int32, 9).reshape(3, 3)[:2, :2].astype(np.int64)
    straight, across = np.abs(np.diag(matrix)).sum(), abs(matrix[0, 1]) + abs(matrix[1, 0])
    if not straight and not across:
        return STORED
    kept = np.eye(2, dtype=np.int64) if straight >= across else 1 - np.eye(2, dtype=np.int64)
    a, b, c, d = (np.where(matrix < 0, -1, 1) * kept).ravel().tolist()
    return a, b, c, d


def rgb(frame: Any) -> UInt8[Tensor, "3 height width"]:
    """A decoded frame as a player shows it."""
    picture = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    return turned(picture, of_frame(frame)).contiguous()
