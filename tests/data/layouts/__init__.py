"""Makers of tiny data sets in the exact official layouts, from a scene of moving rectangles."""

from layouts.scene import (
    Scene,
    encode,
    make_scene,
    tarred,
    truth,
    write_frames,
    write_json,
    write_palette,
    write_picture,
)

__all__ = [
    "Scene",
    "encode",
    "make_scene",
    "tarred",
    "truth",
    "write_frames",
    "write_json",
    "write_palette",
    "write_picture",
]
