"""Pictures of a video as one file: a film that browsers play, a sheet of some frames."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from rvos_lightning.data.whole import whole, writing
from rvos_lightning.run.drawing import FAINT, GROUND, Entry, Picture, in_a_row, legend, stacked, words_strip

CELL = 420
"""Most pixels a frame of a contact sheet is wide or high."""

BT709, LIMITED = 1, 1
"""Colour description of high-definition video, and its range 16 to 235 (numbers of ITU-T H.273)."""


MOST_SIDE = 8192
"""Most pixels a side of a film has: no level of H.264 reaches further, and encoders refuse twice as many."""


class Film:
    """An H.264 file that browsers play in the colours it was drawn in (BT.709, and says so), encoded frame by frame.

    Args:
        path: where it goes.
        size: (height, width); odd sizes lose their last row or column, as 4:2:0 colour demands even ones, and larger
            ones than H.264 has are shown smaller.
        rate: frames per second; 10 when unknown.
    """

    def __init__(self, path: Path, size: Sequence[int], rate: float | None):
        import av

        self.path, self.partial = path, path.with_name(f"{path.stem}.partial{path.suffix}")
        self.scale = min(1.0, MOST_SIDE / max(size))
        scaled = [int(side * self.scale) for side in size]
        self.height, self.width = (max(2, side - side % 2) for side in scaled)
        with writing(path):
            self.container = av.open(str(self.partial), "w", options={"movflags": "faststart"})
        self.stream = self.container.add_stream("libx264", rate=Fraction(rate or 10).limit_denominator(1001))
        self.stream.width, self.stream.height, self.stream.pix_fmt = self.width, self.height, "yuv420p"
        coder = self.stream.codec_context
        coder.colorspace = coder.color_primaries = coder.color_trc = BT709
        coder.color_range = LIMITED

    def add(self, picture: UInt8[Tensor, "3 height width"]) -> None:
        """Encode one frame; a picture of one pixel is stretched to two."""
        import av

        if min(picture.shape[1:]) < 2:
            picture = picture.expand(3, max(2, picture.shape[1]), max(2, picture.shape[2]))
        array = picture.permute(1, 2, 0).numpy()
        if self.scale < 1:
            array = cv2.resize(array, (self.width, self.height), interpolation=cv2.INTER_AREA)
        array = np.ascontiguousarray(array[: self.height, : self.width])
        frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED
        )
        with writing(self.path):
            self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Flush and close."""
        with writing(self.path):
            self.container.mux(self.stream.encode())
            self.container.close()
            self.partial.replace(self.path)


class Sheet:
    """Some frames of a video side by side, with their numbers, and a legend below.

    Args:
        total: frames of the video.
        count: frames shown: those of `wanted` first, the others spread over the video.
        wanted: positions that should be among them.
    """

    def __init__(self, total: int, count: int, wanted: Sequence[int] = ()):
        count = min(count, total)
        asked = list(dict.fromkeys(wanted))[:count]
        spread = [int(p) for p in np.linspace(0, total - 1, count).astype(int)] if count else []
        while len(set(asked) | set(spread)) > count:  # the one next to another that is shown goes first
            every = sorted(set(asked) | set(spread))
            near = {p: min(abs(p - other) for other in every if other != p) for p in spread if p not in asked}
            spread.remove(min(near, key=near.__getitem__))
        self.shown = set(asked) | set(spread)
        self.cells: list[tuple[Picture, str]] = []

    def add(self, picture: Picture, position: int, name: str) -> None:
        """Keep a frame, made small, if it is to be shown."""
        if position not in self.shown:
            return
        scale = min(1.0, CELL / picture.shape[1], CELL / picture.shape[0])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        small = picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        number = name.lstrip("0") or "0"
        text = f"frame {position}" if number == str(position) else f"frame {position}  ({name})"
        self.cells.append((small, text))

    def write(self, entries: Sequence[Entry], path: Path) -> None:
        """Write the picture; nothing where no frame came."""
        if not self.cells:
            return
        from PIL import Image

        columns = min(len(self.cells), 4 if self.cells[0][0].shape[1] >= 300 else 6)
        framed = [stacked([picture, words_strip(text, picture.shape[1], 13, FAINT)]) for picture, text in self.cells]
        rows = [in_a_row(framed[i : i + columns], gap=8) for i in range(0, len(framed), columns)]
        grid = stacked(rows, gap=4)
        sheet = stacked([grid, legend(tuple(entries), max(320, grid.shape[1]), 17)], gap=4)
        framed_whole = np.full((sheet.shape[0] + 16, sheet.shape[1] + 16, 3), GROUND, np.uint8)
        framed_whole[8:-8, 8:-8] = sheet
        with whole(path) as partial:
            Image.fromarray(framed_whole).save(partial)
