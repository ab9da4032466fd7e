"""What `predict` leaves behind for people: palette masks, an overlay film, a contact sheet, a record."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks.film import Film, Sheet
from rvos_lightning.core.bounds import FromZero, Share
from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import ClipMeta, SegmentedWindow
from rvos_lightning.data.lightning_module import data_of
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.video_files import file_names
from rvos_lightning.data.whole import whole, writing
from rvos_lightning.metrics.layouts import voc_palette
from rvos_lightning.run.drawing import (
    Colour,
    Entry,
    counted,
    draw_marks,
    legend,
    letters,
    magnify,
    marks_of,
    number_at,
    outline,
    pick_colours,
    stacked,
)

MOST_LABELS = 255


def palette() -> UInt8[Tensor, "256 3"]:
    """The VOC / DAVIS colour map."""
    return torch.from_numpy(voc_palette())


class Overlay(MaskSink):
    """Writes `predictions/<video>/` in the run folder during `predict`, window by window.

    Files: `masks/<frame>.png` (palette, label = place of the expression, counted from 1; where several claim a
    pixel the last one has it), `overlay.mp4` (H.264 at the source's rate: outlines, prompts, and below the picture
    what each colour stands for), `contact_sheet.png`, `record.json`; of a single picture `overlay.png` in place of film
    and sheet. The record comes last: where it says `complete`, the video is done, and with the same weights and prompts
    it is left out when the prediction is run again in this folder.

    Args:
        film: write the mp4.
        sheet_frames: frames on the contact sheet; those that were pointed at come first.
        opacity: of the colours inside the outlines, 0 to 1.

    Attributes:
        skip_done: leave out videos that are done; the flag `--skip_done`.
    """

    skip_done = True

    def __init__(self, film: bool = True, sheet_frames: FromZero = 8, opacity: Share = 0.35):
        self.film, self.sheet_frames, self.opacity = film, sheet_frames, opacity
        self._open: dict[int, VideoOutput] = {}
        self._reader: Any = None
        self._keys: dict[int, str] = {}
        self._items: dict[int, list[Any]] = {}
        self._root = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the data module ask, once the weights are in place, which videos are done."""
        data = data_of(trainer)
        if stage == "predict" and data is not None:
            data.leave_out = lambda reader: self._look_around(trainer, pl_module, reader)

    def _look_around(self, trainer: Trainer, pl_module: LightningModule, reader: Any) -> frozenset[int]:
        """Remember where frames come from and where pictures go; returns the numbers of videos that are done.

        Raises:
            DataError: two videos have one name, a name leads out of the folder, or it holds other results.
        """
        self._root, self._reader = Path(trainer.default_root_dir) / "predictions", reader
        folders = [folder_of(self._root, video.id) for video in reader.videos]
        if again := next((folder for folder, count in Counter(folders).items() if count > 1), None):
            raise DataError(f"{reader.name}: two videos would both be written to {again}; rename one")
        run = digest(weights_digest(pl_module.network), pl_module.window, str(data_of(trainer).eval_framing))
        self._items = {v: [] for v in range(len(folders))}
        for item in reader.items:
            self._items[item.video].append(item)
        if (most := max(map(len, self._items.values()), default=0)) > MOST_LABELS:
            raise DataError(
                f"{reader.name}: {most} expressions or objects for one video, but a palette picture has {MOST_LABELS} "
                "labels: ask for fewer in one command, or leave the pictures out: --callbacks.overlay null"
            )
        self._keys = {v: digest(run, facts(reader, v, own)) for v, own in self._items.items()}
        found = [read_key(folder) if self.skip_done else None for folder in folders]
        if other := next((folders[v] for v, key in enumerate(found) if key not in (None, self._keys[v])), None):
            raise DataError(
                f"{other}: holds results of other weights, prompts or frames: give another --trainer.default_root_dir, "
                "or none, or --skip_done false to replace them"
            )
        done = [v for v, key in enumerate(found) if key is not None]
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
            with suppress(Exception):  # what ended the run is told; a second failure would hide it
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
        with writing(self.folder):
            (self.folder / "masks").mkdir(parents=True, exist_ok=True)
        (self.folder / "record.json").unlink(missing_ok=True)  # what stands there is being replaced
        self.items = [item.id for item in own]
        self.facts = facts(reader, index, own)
        given = self.facts.get("prompts", [])
        self.marks = marks_of(given, self.items)
        self.texts = [item.expression or named(item.id, given) for item in own]
        self.said = [item.expression or item.id for item in own]
        self.names = file_names(video.frames)
        self.total = len(video.frames)
        self.palette = palette()
        self.colours: dict[int, Colour] = {}
        self.areas: dict[str, list[int]] = {}
        self._start_pass()

    def _start_pass(self) -> None:
        self.passed = set(self.areas)
        self.sheet = Sheet(self.total, self.style.sheet_frames, [mark.frame for mark in self.marks])
        self.film: Film | None = None
        self.done = 0

    def add(
        self,
        frames: UInt8[Tensor, "time 3 height width"],
        masks: Bool[Tensor, "items time height width"],
        metas: Sequence[ClipMeta],
    ) -> None:
        """Save masks, encode the film, keep what the contact sheet shows."""
        places = [self.items.index(meta.item) for meta in metas]
        numbers = (1 + torch.tensor(places)).byte()  # bytes: eight times less to write than whole numbers
        labels = (masks * numbers[:, None, None, None]).amax(dim=0)
        names = [self.names[position] for position in metas[0].positions]
        if self.passed:
            labels = torch.maximum(labels, torch.stack([self._before(name) for name in names]))
        for meta, mask in zip(metas, masks, strict=True):
            self.areas.setdefault(meta.item, []).extend(int(np.count_nonzero(one)) for one in mask.numpy())
        pictures = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy())
        if places[0] not in self.colours:
            self.colours |= dict(zip(places, pick_colours(pictures, masks.numpy()), strict=True))
        for i, (name, position) in enumerate(zip(names, metas[0].positions, strict=True)):
            self._save(labels[i], name)
            own = dict(zip(places, masks[:, i].numpy(), strict=True))
            self._show(self._painted(pictures[i], own, labels[i].numpy(), position, metas[0].facts.fps), metas[0], name)
            self.done += 1

    def _painted(
        self,
        picture: UInt8[np.ndarray, "height width 3"],
        own: Mapping[int, Bool[np.ndarray, "height width"]],
        labels: UInt8[np.ndarray, "height width"],
        position: int,
        rate: float | None,
    ) -> tuple[UInt8[np.ndarray, "high wide 3"], list[Entry]]:
        """The picture with everything drawn on it, small ones enlarged, and its legend's lines."""
        high, wide = picture.shape[:2]
        times = max(1, min(-(-320 // wide), 2048 // high))
        shown = {place: own.get(place, labels == 1 + place) for place in sorted(self.colours)}
        picture = np.ascontiguousarray(magnify(picture, times))
        large = {place: magnify(mask, times) for place, mask in shown.items() if mask.any()}
        for place, mask in large.items():
            outline(picture, mask, self.colours[place], self.style.opacity)
        for place, mask in large.items() if len(self.items) > 1 else ():
            number_at(picture, mask, 1 + place, self.colours[place])
        hold = max(1, round((rate or 2) / 2))  # half a second: on a single frame of a film nobody sees them
        near = [mark for mark in self.marks if mark.frame <= position < mark.frame + hold and mark.item in self.colours]
        draw_marks(picture, near, self.colours, times)
        lines = [Entry(self.colours[place], self.texts[place], place not in large) for place in shown]
        return picture, lines

    def _show(self, painted: tuple[UInt8[np.ndarray, "high wide 3"], list[Entry]], meta: ClipMeta, name: str) -> None:
        picture, lines = painted
        words = legend(tuple(lines), picture.shape[1], letters(picture.shape))
        if self.total == 1:
            from PIL import Image

            with whole(self.folder / "overlay.png") as path:
                Image.fromarray(stacked([picture, words])).save(path)
            return
        self.sheet.add(picture, self.done, name.removesuffix(".png"))
        if self.style.film:
            both = stacked([picture, words])
            self.film = self.film or Film(self.folder / "overlay.mp4", both.shape[:2], meta.facts.fps)
            self.film.add(torch.from_numpy(both).permute(2, 0, 1))

    def _save(self, label: UInt8[Tensor, "height width"], name: str) -> None:
        from PIL import Image

        image = Image.fromarray(label.numpy(), mode=None)
        image.putpalette(self.palette.flatten().tolist())
        with whole(self.folder / "masks" / name) as path:
            image.save(path)

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
        try:
            lines = [Entry(colour, self.texts[place]) for place, colour in sorted(self.colours.items())]
            self.sheet.write(lines, self.folder / "contact_sheet.png")
        except (ValueError, OSError) as error:
            warnings.warn(f"{self.folder}: no contact sheet ({error})", stacklevel=2)
        seen = [
            {
                "label": 1 + i,
                "expression": text,
                "colour": self.colours[i],
                "area": area,
                "frames_visible": sum(a > 0 for a in area),
            }
            for i, (name, text) in enumerate(zip(self.items, self.said, strict=True))
            if (area := self.areas.get(name)) is not None
        ]
        record = {"complete": complete, "key": self.key, "frames": self.done, "expressions": seen, "of": self.facts}
        with whole(self.folder / "record.json") as path:
            path.write_text(json.dumps(record, indent=1, default=str) + "\n")


def named(item: str, prompts: Sequence[Mapping[str, Any]]) -> str:
    """A prompted object in words: `horse (3 clicks, 1 box)`."""
    own = [entry for entry in prompts if str(entry["object"]) == item]
    clicks = sum(len(entry.get("clicks", [])) for entry in own)
    said = counted(clicks, sum("box" in entry for entry in own), sum("mask" in entry for entry in own))
    return f"{item} ({said})" if said else item
