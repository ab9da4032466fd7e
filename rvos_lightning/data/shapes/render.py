"""Draws scenes: each thing is a signed distance evaluated only in a small patch around it, all frames at once."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from rvos_lightning.data.shapes.scene import COLOURS, Scene, Thing, frame_times

WALL = (92, 92, 100)


def _polygon(points: Float[np.ndarray, "corners 2"], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a convex polygon given counter-clockwise in screen axes (approximate outside corners)."""
    distance = np.full_like(x, -np.inf)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        length = np.hypot(x1 - x0, y1 - y0)
        distance = np.maximum(distance, ((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length)
    return distance


_TRIANGLE = np.array([(np.sin(a), -np.cos(a)) for a in (0, -2.0944, 2.0944)][::-1]) * 1.08


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape of radius 1 around the origin, negative inside."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - 0.95
    if shape == "ring":
        return np.abs(np.sqrt(x * x + y * y) - 0.72) - 0.26
    x_abs, y_abs = np.abs(x), np.abs(y)
    if shape == "square":
        return np.maximum(x_abs, y_abs) - 0.84
    if shape == "cross":
        arm = np.maximum(np.minimum(x_abs, y_abs) - 0.3, np.maximum(x_abs, y_abs) - 0.95)
        return arm
    if shape == "triangle":
        return _polygon(_TRIANGLE, x, y)
    angle = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    return np.sqrt(x * x + y * y) * (np.cos(angle) + np.sin(angle) * 1.18) - 0.98


@lru_cache(maxsize=4)
def _texture(side: int) -> UInt8[np.ndarray, "height width"]:
    """A fixed field of smooth blotches and grain around 128, from which backgrounds are cut."""
    random = np.random.default_rng(7)
    field = np.zeros((side, side))
    for cells, weight in ((8, 22.0), (32, 9.0)):
        coarse = random.standard_normal((cells, cells))
        at = np.arange(side) * cells / side
        low, part = at.astype(int), at % 1
        smooth = part * part * (3 - 2 * part)
        rows = coarse[low % cells] * (1 - smooth[:, None]) + coarse[(low + 1) % cells] * smooth[:, None]
        field += weight * (rows[:, low % cells] * (1 - smooth) + rows[:, (low + 1) % cells] * smooth)
    field += random.standard_normal((side, side)) * 4
    return np.clip(field + 128, 0, 255).astype(np.uint8)


def background(
    size: int, frames: int, strength: float, drift: float, random: np.random.Generator
) -> UInt8[np.ndarray, "time height width 3"]:
    """A grey, mildly textured ground of random tint.

    Args:
        strength: contrast of the texture, 0 to 1.
        drift: pixels a frame, up to which the texture slides, so that motion alone does not tell things from ground.
    """
    side = 512 if size < 512 else 2 * size
    texture = _texture(side)
    row, column = random.integers(0, side - size, size=2)
    shift = random.uniform(-drift, drift, size=2) if drift else (0.0, 0.0)
    tint = random.uniform(24, 92) + random.uniform(-14, 14, size=3)
    canvas = np.empty((frames, size, size, 3), dtype=np.uint8)
    for t in range(frames if drift else 1):
        top, left = int(row + shift[0] * t) % (side - size), int(column + shift[1] * t) % (side - size)
        cut = texture[top : top + size, left : left + size, None].astype(np.float32)
        canvas[t] = np.clip(tint.astype(np.float32) + (cut - 128) * strength, 0, 255)
    if not drift:
        canvas[1:] = canvas[0]
    return canvas


def _cover(thing: Thing, centres: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Soft coverage patches [time, p, p] and the pixel of their top left corner [time, 2] (row, column)."""
    radius = thing.radius * size
    reach = int(np.ceil(radius * 1.15)) + 1
    corner = np.floor(centres[:, ::-1] * size).astype(int) - reach
    grid = np.arange(2 * reach + 1, dtype=np.float32) + 0.5
    offset = (corner - centres[:, ::-1] * size).astype(np.float32)
    y, x = offset[:, 0, None, None] + grid[:, None], offset[:, 1, None, None] + grid
    cosine, sine = np.float32(np.cos(thing.tilt) / radius), np.float32(np.sin(thing.tilt) / radius)
    distance = _distance(thing.shape, x * cosine + y * sine, y * cosine - x * sine)
    return np.clip(0.5 - distance * np.float32(radius), 0, 1), corner


def render(
    scene: Scene, size: int, frames: int, random: np.random.Generator, strength: float = 0.25, drift: float = 0.0
) -> tuple[UInt8[np.ndarray, "time height width 3"], UInt8[np.ndarray, "time height width"]]:
    """RGB frames and, per pixel, 1 + index of the thing seen there (0 for ground and walls)."""
    canvas = background(size, frames, strength, drift, random)
    labels = np.zeros((frames, size, size), dtype=np.uint8)
    times = frame_times(frames)
    for index, thing in enumerate(scene.things):
        patches, corners = _cover(thing, thing.centres(times), size)
        colour = np.asarray(COLOURS[thing.colour], dtype=np.float32)
        side = patches.shape[-1]
        for t in np.flatnonzero(times >= thing.appears - 1e-9):
            top, left = corners[t]
            y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + side, size), min(left + side, size)
            if y0 >= y1 or x0 >= x1:
                continue
            cover = patches[t, y0 - top : y1 - top, x0 - left : x1 - left]
            view = canvas[t, y0:y1, x0:x1]
            view[:] = view + (colour - view) * cover[..., None]
            labels[t, y0:y1, x0:x1][cover >= 0.5] = index + 1
    for first, last in scene.walls:
        columns = slice(round(first * size), round(last * size))
        canvas[:, :, columns] = WALL
        labels[:, :, columns] = 0
    return canvas, labels
