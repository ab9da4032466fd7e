"""What `predict` leaves behind for people: palette masks, an overlay film, a contact sheet, a record."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from rvos_lightning.core.seams import MaskSink
from rvos_lightning.core.types import ClipMeta, SegmentedWindow
from rvos_lightning.data.reader import DataError
from rvos_lightning.metrics.layouts import voc_palette

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def palette() -> UInt8[Tensor, "256 3"]:
    """The VOC / DAVIS colour map."""
    return torch.from_numpy(voc_palette())


class Overlay(MaskSink):
    """Writes `predictions/<video>/` in the run folder during `predict`, window by window.

    Files: `masks/<frame>.png` (palette, label = place of the expression, counted from 1; where several claim a
    pixel the last one has it), `overlay.mp4` (H.264, source size and rate), `contact_sheet.png`, `record.json`. The
    record comes last: where it says `complete`, the video is done, and with the same weights and prompts it is left
    out when the prediction is run again in this folder.

    Args:
        film: write the mp4.
        sheet_frames: frames on the contact sheet.
        opacity: of the colours, 0 to 1.

    Attributes:
        skip_done: leave out videos that are done; the flag `--skip_done`.
    """

    skip_done = True

    def __init__(self, film: bool = True, sheet_frames: int = 8, opacity: float = 0.5):
        self.film, self.sheet_frames, self.opacity = film, sheet_frames, opacity
        self._open: dict[int, VideoOutput] = {}
        self._reader: Any = None
        self._keys: dict[int, str] = {}
        self._items: dict[int, list[Any]] = {}
        self._root = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the data module ask, once the weights are in place, which videos are done."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "predict" and hasattr(data, "leave_out"):
            data.leave_out = lambda reader: self._look_around(trainer, pl_module, reader)

    def _look_around(self, trainer: Trainer, pl_module: LightningModule, reader: Any) -> frozenset[int]:
        """Remember where frames come from and where pictures go; returns the numbers of videos that are done.

        Raises:
            DataError: two videos have one name, or a name leads out of the folder.
        """
        self._root, self._reader = Path(trainer.default_root_dir) / "predictions", reader
        folders = [folder_of(self._root, video.id) for video in reader.videos]
        if again := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise DataError(f"{reader.name}: two videos would both be written to {again}; rename one")
        run = digest(weights_digest(pl_module.network), pl_module.window, str(trainer.datamodule.eval_framing))
        self._items = {v: [] for v in range(len(folders))}
        for item in reader.items:
            self._items[item.video].append(item)
        self._keys = {v: digest(run, facts(reader, v, own)) for v, own in self._items.items()}
        done = [v for v, folder in enumerate(folders) if self.skip_done and read_key(folder) == self._keys[v]]
        done = trainer.strategy.broadcast(done)
        if done and trainer.is_global_zero:
            print(f"{len(done)} of {len(folders)} videos are done and left out (--skip_done false does them again)")
        return frozenset(done)

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Paint and encode one window of one or several videos."""
        if stage != "predict" or self._reader is None:
            return
        for number in window.clip.video.unique().tolist():
            rows = (window.clip.video == number).nonzero().flatten().tolist()
            metas = [window.clip.meta[row] for row in rows]
            index = next(i for i, video in enumerate(self._reader.videos) if video.id == metas[0].video)
            if index not in self._open:
                self._open[index] = VideoOutput(
                    self._root, index, self._reader, self._items[index], self._keys[index], self
                )
            output = self._open[index]
            frames = self._reader.read_frames(index, metas[0].positions)
            output.add(frames, window.masks[rows].cpu(), metas)
            if last and output.end_of_pass():
                print(f"{output.folder}", flush=True)
                del self._open[index]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Finish the files that are open, so that what was done can be seen."""
        for output in self._open.values():
            output.close(complete=False)
        self._open = {}


def folder_of(root: Path, video: str) -> Path:
    """Where a video's results go.

    Raises:
        DataError: outside the root.
    """
    if Path(video).is_absolute() or ".." in Path(video).parts or not Path(video).parts:
        raise DataError(f"video {video!r}: its name leads out of {root}; rename it")
    return root / video


def facts(reader: Any, video: int, own: Sequence[Any]) -> dict[str, Any]:
    """What a video's result depends on besides the weights: its source, and what is looked for in it."""
    said = [[item.id, item.expression] for item in own]
    described = reader.described(video) if hasattr(reader, "described") else {"data": [reader.name, reader.split]}
    return {"video": reader.videos[video].id, "frames": len(reader.videos[video].frames), "items": said, **described}


def weights_digest(network: nn.Module) -> str:
    """A short name of a network's numbers: of each tensor its name, shape and up to 64 values spread over it."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        flat = local.detach().flatten()
        found.update(flat[:: max(1, len(flat) // 64)].double().cpu().numpy().tobytes() if len(flat) else b"")
    return found.hexdigest()[:16]


def digest(*parts: Any) -> str:
    """A short name of values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_key(folder: Path) -> str | None:
    """The key of a video that is done; None where there is none."""
    try:
        record = json.loads((folder / "record.json").read_text())
    except (OSError, ValueError):
        return None
    return record.get("key") if isinstance(record, dict) and record.get("complete") else None


def file_names(frames: Sequence[str]) -> list[str]:
    """A PNG's name for each frame: without a picture's suffix where the names still differ without it."""
    plain = [name.replace("/", "_") for name in frames]
    short = [name.rpartition(".")[0] if name.lower().endswith(PICTURES) else name for name in plain]
    names = short if len(set(short)) == len(short) else plain
    if len(set(names)) < len(names):
        names = [f"{number:05d}_{name}" for number, name in enumerate(names)]
    return [f"{name}.png" for name in names]


class VideoOutput:
    """The open files of one video; its items may come in several passes over it.

    Args:
        root: parent of the video's folder.
        index: of the video in the reader.
        reader: gives frames at source size.
        own: the video's items, in the reader's order.
        key: what weights and prompts make of this video.
        style: how it is painted.
    """

    def __init__(self, root: Path, index: int, reader: Any, own: Sequence[Any], key: str, style: Overlay):
        video = reader.videos[index]
        self.folder, self.key, self.style = folder_of(root, video.id), key, style
        (self.folder / "masks").mkdir(parents=True, exist_ok=True)
        (self.folder / "record.json").unlink(missing_ok=True)  # what stands there is being replaced
        self.items = [item.id for item in own]
        self.texts = [item.expression or item.id for item in own]
        self.facts = facts(reader, index, own)
        self.names = file_names(video.frames)
        self.total = len(video.frames)
        self.colours = palette()
        self.areas: dict[str, list[int]] = {}
        self._start_pass()

    def _start_pass(self) -> None:
        self.passed = set(self.areas)
        self.sheet: list[Tensor] = []
        self.film: Film | None = None
        self.done = 0

    def add(
        self,
        frames: UInt8[Tensor, "time 3 height width"],
        masks: Bool[Tensor, "items time height width"],
        metas: Sequence[ClipMeta],
    ) -> None:
        """Save masks, encode the film, keep what the contact sheet shows."""
        numbers = torch.tensor([1 + self.items.index(meta.item) for meta in metas])
        labels = (masks * numbers[:, None, None, None]).amax(dim=0).byte()
        names = [self.names[position] for position in metas[0].positions]
        if self.passed:
            labels = torch.maximum(labels, torch.stack([self._before(name) for name in names]))
        for meta, mask in zip(metas, masks, strict=True):
            self.areas.setdefault(meta.item, []).extend(mask.flatten(1).sum(dim=1).tolist())
        painted = paint(frames, labels, self.colours, self.style.opacity)
        wanted = np.linspace(0, self.total - 1, min(self.style.sheet_frames, self.total)).astype(int)
        for name, label, picture in zip(names, labels, painted, strict=True):
            self._save(label, name)
            if self.done in wanted:
                self.sheet.append(picture)
            if self.style.film:
                self.film = self.film or Film(self.folder / "overlay.mp4", label.shape, metas[0].facts.fps)
                self.film.add(picture)
            self.done += 1

    def _save(self, label: UInt8[Tensor, "height width"], name: str) -> None:
        from PIL import Image

        image = Image.fromarray(label.numpy(), mode=None)
        image.putpalette(self.colours.flatten().tolist())
        image.save(self.folder / "masks" / name)

    def _before(self, name: str) -> UInt8[Tensor, "height width"]:
        """The labels of earlier passes."""
        from PIL import Image

        with Image.open(self.folder / "masks" / name) as image:
            return torch.from_numpy(np.array(image))

    def end_of_pass(self) -> bool:
        """Close the film; True, with sheet and record written, when no item is left."""
        if len(self.areas) < len(self.items):
            self._end_film()
            self._start_pass()
            return False
        self.close(complete=True)
        return True

    def _end_film(self) -> None:
        film, self.film = self.film, None
        if film is not None:
            film.close()

    def close(self, complete: bool) -> None:
        """Finish the film, write the sheet, and the record last; a sheet that cannot be drawn loses nothing else."""
        self._end_film()
        if self.sheet:
            try:
                write_sheet(self.sheet, self.texts, self.colours, self.folder / "contact_sheet.png")
            except (ValueError, RuntimeError) as error:
                warnings.warn(f"{self.folder}: no contact sheet ({error})", stacklevel=2)
        seen = [
            {"label": 1 + i, "expression": text, "area": area, "frames_visible": sum(a > 0 for a in area)}
            for i, (name, text) in enumerate(zip(self.items, self.texts, strict=True))
            if (area := self.areas.get(name)) is not None
        ]
        record = {"complete": complete, "key": self.key, "frames": self.done, "expressions": seen, "of": self.facts}
        partial = self.folder / "record.json.partial"
        partial.write_text(json.dumps(record, indent=1, default=str) + "\n")
        partial.replace(self.folder / "record.json")


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

    def __init__(self, path: Path, size: Sequence[int], rate: float | None):
        import av

        self.path, self.partial = path, path.with_name(f"{path.stem}.partial{path.suffix}")
        self.height, self.width = (max(2, side - side % 2) for side in size)
        self.container = av.open(str(self.partial), "w", options={"movflags": "faststart"})
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
        self.partial.replace(self.path)


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
        # Words are words: two dollar signs would make a formula.
        style = {"color": colours[i + 1].numpy() / 255, "fontsize": 11, "va": "center", "parse_math": False}
        figure.text(0.02, y, f"{i + 1}  {text}", **style)
    figure.savefig(path, dpi=100)
