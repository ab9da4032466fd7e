"""Masks as palette or grey PNG files: the stored values, never the colours. Nothing here needs torch."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.limits import open_picture

SCALED = {b"\x02": 85, b"\x04": 17}  # by bit depth, byte 24 of a PNG
NO_NUMBERS = (".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".npy", ".npz", ".mat")
"""Suffixes of what somebody may have saved as a mask and we do not read; nobody means other files for masks."""

MOST_GREYS = 64  # more different values in one grey mask are no objects
Size = tuple[int, int]

if TYPE_CHECKING:
    from PIL import Image


def decode_ids(data: bytes, place: str) -> UInt8[np.ndarray, "height width"]:
    """Object numbers of a palette or grey PNG: the stored values, never the colours.

    Raises:
        DataError: unreadable, no PNG, or one whose values are no object numbers (colours, soft edges, above 255).
    """
    with open_picture(data, place) as image:
        if image.format != "PNG" or image.mode not in ("P", "L", "1", "I;16", "I"):
            raise DataError(f"{place}: {_no_numbers(image)}")
        ids = np.asarray(image)
        if image.mode == "L" and data[24:25] in SCALED:  # Pillow spreads 2 and 4 bits over 0 to 255
            ids = ids // SCALED[data[24:25]]
        if image.mode.startswith("I") and ids.max(initial=0) > 255:
            raise DataError(
                f"{place}: 16-bit values up to {int(ids.max())}; object numbers end at 255. Save it with 8 bits."
            )
        greys = np.count_nonzero(np.bincount(ids.ravel())) if image.mode == "L" else 0
        if greys > MOST_GREYS:
            raise DataError(
                f"{place}: {greys} different grey values, {int(ids.min())} to {int(ids.max())}: soft edges or a "
                "photograph, not object numbers. Threshold it, and save 0 and the object's number."
            )
        return ids.astype(np.uint8, copy=False)


def _no_numbers(image: "Image.Image") -> str:
    """Why an image holds no object numbers."""
    if image.format != "PNG":
        return f"a {image.format} file; a mask must be a PNG, as its values are object numbers. Save it as PNG."
    colours = image.convert("RGB").getcolors(64) or []
    named = ", ".join(str(colour) for _, colour in sorted(colours, reverse=True)[:4]) or "more than 64"
    return (
        "a mask must be a palette or grey PNG whose values are object numbers; this one has mode "
        f"{image.mode} with the colours {named}. Give each colour a number (0 background), or take the original file."
    )


def image_size(data: bytes, place: str) -> Size:
    """(height, width) from an image file's header."""
    with open_picture(data, place) as image:
        return image.height, image.width


def palette() -> list[int]:
    """The 256 colours of VOC and DAVIS: bits of the index dealt to red, green and blue, highest first."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            colours[index, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return [int(value) for value in colours.ravel()]
