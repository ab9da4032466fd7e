"""Makes films that tell their frames' numbers by brightness, in the ways that films come into the world."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

STEP = 10


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Brightness says the number; the upper left quarter is white, so that turns and mirrors show."""
    frame = np.full((height, width, 3), 20 + number * STEP % 200, np.uint8)
    frame[: height // 2, : width // 2] = 255
    return frame


def write_film(path: Path, numbers: Sequence[int], size: tuple[int, int] = (48, 64), **how: Any) -> Path:
    """H.264 by default; `how`: codec, format, gop, bf, faststart."""
    import av

    options = {"g": str(how.get("gop", 12)), "bf": str(how.get("bf", 0)), "crf": "4"}
    muxer = {"movflags": "faststart"} if how.get("faststart") and path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", format=how.get("format"), options=muxer) as container:
        stream = container.add_stream(how.get("codec", "libx264"), rate=Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], how.get("pix_fmt", "yuv420p")
        for number in numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(frames: torch.Tensor) -> list[int]:
    """Which pictures these are, by the brightness of the lower right corner (as it is stored)."""
    return [round((float(frame[:, -8:, -8:].float().mean()) - 20) / STEP) for frame in frames]


def hide_first(path: Path, count: int) -> None:
    """What trimming without re-encoding does to an mp4: its edit list starts later."""
    data = bytearray(path.read_bytes())
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    movie = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    at = data.index(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, at)
    struct.pack_into(">Ii", data, at, duration - count * movie // 25, start + count * scale // 25)
    path.write_bytes(data)


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes (a, b, c, d) of the display matrix into an mp4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    values = [value * 65536 for value in matrix]
    struct.pack_into(">9i", data, at, values[0], values[1], 0, values[2], values[3], 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def damage(path: Path, share: float = 0.5, length: int = 400) -> None:
    """Zeros in the middle of a film's data."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)
    data[at : at + length] = bytes(length)
    path.write_bytes(data)
