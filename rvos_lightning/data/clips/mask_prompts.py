"""Which pixels a picture means that somebody gives as a mask."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from rvos_lightning.data.limits import open_picture
from rvos_lightning.data.reader import DataError

MOST_GREYS = 8
"""More grey values than this are soft edges or a photograph, not numbers of a few objects."""
REMEDY = "save a PNG that is 0 off the object and 255 on it"


def object_in(data: bytes, place: str) -> Bool[Tensor, "height width"]:
    """The object in a mask picture: numbers or greys above 0, the opaque part of a cut-out, or one colour on black.

    Raises:
        DataError: unreadable, JPEG (which changes values), soft edges, several objects or colours, nothing marked, or
            all four corners, as where the object is black on white.
    """
    with open_picture(data, place) as picture:
        if picture.format == "JPEG":
            raise DataError(f"{place} is a JPEG, which changes values around edges: {REMEDY}")
        if picture.mode in ("P", "L", "1", "I;16", "I") and "transparency" not in picture.info:
            values = np.array(picture)
            found = len(np.unique(values))
            if picture.mode != "P" and found > MOST_GREYS:
                raise DataError(f"{place} has {found} grey values: soft edges or a photograph; {REMEDY}")
            several = np.unique(values[values > 0]).tolist()
            if len(several) > 1:
                shown = ", ".join(str(int(value)) for value in several[:4])
                raise DataError(f"{place} holds the values {shown}: several objects, of which one is meant; {REMEDY}")
            marked = values > 0  # a palette's indices are the mask, not its colours
        else:
            marked = _painted(np.array(picture.convert("RGBA")), place)
    if not marked.any():
        raise DataError(f"{place} marks no pixel: {REMEDY}")
    if marked[[0, 0, -1, -1], [0, -1, 0, -1]].all():
        raise DataError(
            f"{place} marks all four corners: black on white, or an object that is cut out? {REMEDY}; "
            "for an object that really reaches there, clear one corner"
        )
    return torch.from_numpy(marked)


def _painted(pixels: np.ndarray, place: str) -> np.ndarray:
    """The opaque part of a cut-out, or what is painted in one colour on black."""
    alpha = pixels[..., 3]
    if alpha.min() < 255:
        if np.count_nonzero((alpha > 16) & (alpha < 239)) > alpha.size // 4:
            raise DataError(f"{place} is half transparent: {REMEDY}")
        return alpha > 127
    codes = pixels[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found = np.unique(codes)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        raise DataError(f"{place} has {len(found)} colours, so it is unclear which is the object: {REMEDY}")
    return codes > 0
