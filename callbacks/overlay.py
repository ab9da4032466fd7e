"""What `predict` leaves behind for people: palette masks, an overlay film, a contact sheet, a record."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from rvos_lightning.core.seams import MaskSink
from rvos_lightning.core.types import SegmentedWindow
from rvos_lightning.metrics.layouts import voc_palette


def palette() -> UInt8[Tensor, "256 3"]:
    """The VOC / DAVIS colour map."""
    return torch.from_numpy(voc_palette())


class Overlay(MaskSink):
    """Writes `predictions/<video>/` in the run folder during `predict`, window by window.

    Files: `masks/<frame>.png` (palette, label = place of the expression, counted from 1; where several claim a
    pixel the last one has it), `overlay.mp4` (H.264, source size and rate), `contact_sheet.png`, `record.json`.

    Args:
        film: write the mp4.
        sheet_frames: frames on the contact sheet.
        opacity: of the colours, 0 to 1.
    """

    def __init__(self, film: bool = True, sheet_frames: int = 8, opacity: float = 0.5):
        self.film, self.sheet_frames, self.opacity = film, sheet_frames, opacity
        self._open: VideoOutput | None = None
        self._reader: Any = None
        self._root = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where frames come from (at source size) and where pictures go."""
        self._root = Path(trainer.default_root_dir) / "predictions"
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._reader = data.read("predict")

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Paint and encode one window."""
        if stage != "predict":
            return
        meta = window.clip.meta[0]
        if self._open is None:
            self._open = VideoOutput(self._root, window, self._reader, self)
        index = self._open.index
        frames = self._reader.read_frames(index, meta.positions)
        self._open.add(frames, window.masks.cpu(), meta.frames)
        if last:
            print(f"{self._open.folder}", flush=True)
            self._open.close()
            self._open = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Finish the file that is open, so that what was done can be seen."""
        if self._open is not None:
            self._open.close()
            self._open = None


class VideoOutput:
    """The open files of one video."""

    def __init__(self, root: Path, window: SegmentedWindow, reader: Any, style: Overlay):
        meta = window.clip.meta[0]
        self.index = next(i for i, video in enumerate(reader.videos) if video.id == meta.video)
        self.total = len(reader.videos[self.index].frames)
        self.folder = root / meta.video
        (self.folder / "masks").mkdir(parents=True, exist_ok=True)
        self.style = style
        self.expressions = list(window.clip.expressions or [m.item for m in window.clip.meta])
        self.colours = palette()
        self.areas: list[list[int]] = [[] for _ in self.expressions]
        self.sheet: list[Tensor] = []
        self.film = Film(self.folder / "overlay.mp4", meta.original_size, meta.facts.fps) if style.film else None
        self.done = 0

    def add(
        self,
        frames: UInt8[Tensor, "time 3 height width"],
        masks: Bool[Tensor, "items time height width"],
        names: tuple[str, ...],
    ) -> None:
        """Save masks, encode the film, keep what the contact sheet shows."""
        from PIL import Image

        order = torch.arange(1, len(masks) + 1)[:, None, None, None]
        labels = (masks * order).amax(dim=0).byte()
        painted = paint(frames, labels, self.colours, self.style.opacity)
        for item, mask in enumerate(masks):
            self.areas[item] += mask.flatten(1).sum(dim=1).tolist()
        wanted = np.linspace(0, self.total - 1, min(self.style.sheet_frames, self.total)).astype(int)
        for name, label, picture in zip(names, labels, painted, strict=True):
            image = Image.fromarray(label.numpy(), mode=None)
            image.putpalette(self.colours.flatten().tolist())
            image.save(self.folder / "masks" / f"{Path(name).stem}.png")
            if self.done in wanted:
                self.sheet.append(picture)
            if self.film is not None:
                self.film.add(picture)
            self.done += 1

    def close(self) -> None:
        """Finish the film, write sheet and record."""
        if self.film is not None:
            self.film.close()
        if self.sheet:
            write_sheet(self.sheet, self.expressions, self.colours, self.folder / "contact_sheet.png")
        record = {
            "frames": self.done,
            "expressions": [
                {"label": i + 1, "expression": text, "area": area, "frames_visible": sum(a > 0 for a in area)}
                for i, (text, area) in enumerate(zip(self.expressions, self.areas, strict=True))
            ],
        }
        (self.folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def paint(
    frames: UInt8[Tensor, "time 3 height width"],
    labels: UInt8[Tensor, "time height width"],
    colours: UInt8[Tensor, "entries 3"],
    opacity: float,
) -> UInt8[Tensor, "time 3 height width"]:
    """Frames with every label's colour laid over."""
    alpha = (labels > 0)[:, None] * opacity
    colour = colours[labels.long()].permute(0, 3, 1, 2)
    return (frames * (1 - alpha) + colour * alpha).round().byte()


class Film:
    """An H.264 file that browsers play, encoded frame by frame.

    Args:
        path: where it goes.
        size: (height, width); odd sizes lose their last row or column, as 4:2:0 colour demands even ones.
        rate: frames per second; 10 when unknown.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float | None):
        import av

        self.height, self.width = (max(2, side - side % 2) for side in size)
        self.container = av.open(str(path), "w", options={"movflags": "faststart"})
        self.stream = self.container.add_stream("libx264", rate=Fraction(rate or 10).limit_denominator(1001))
        self.stream.width, self.stream.height, self.stream.pix_fmt = self.width, self.height, "yuv420p"

    def add(self, picture: UInt8[Tensor, "3 height width"]) -> None:
        """Encode one frame; a picture of one pixel is stretched to two."""
        import av

        if min(picture.shape[1:]) < 2:
            picture = picture.expand(3, max(2, picture.shape[1]), max(2, picture.shape[2]))
        array = picture[:, : self.height, : self.width].permute(1, 2, 0).contiguous().numpy()
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))

    def close(self) -> None:
        """Flush and close."""
        self.container.mux(self.stream.encode())
        self.container.close()


def write_sheet(pictures: list[Tensor], expressions: list[str], colours: Tensor, path: Path) -> None:
    """Frames in a grid with the expressions in their colours below."""
    from matplotlib.figure import Figure

    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[1:]
    figure = Figure(figsize=(3 * columns, 3 * rows * height / width + 0.35 * len(expressions) + 0.2))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for axis, picture in zip(grid.flat, pictures, strict=False):
        axis.imshow(picture.permute(1, 2, 0).numpy())
    foot = 0.35 * len(expressions) / figure.get_figheight()
    figure.subplots_adjust(0.01, foot + 0.02, 0.99, 0.99, 0.02, 0.02)
    for i, text in enumerate(expressions):
        y = foot * (1 - (i + 0.5) / len(expressions))
        figure.text(0.02, y, f"{i + 1}  {text}", color=(colours[i + 1].numpy() / 255), fontsize=11, va="center")
    figure.savefig(path, dpi=100)
