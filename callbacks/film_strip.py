"""The one picture people look at during training: input, truth and prediction of fixed clips."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import SegmentedWindow, UserPrompt
from rvos_lightning.metrics.region_boundary import boundary_measure, frame_counts, region_similarity
from rvos_lightning.run.drawing import (
    FAINT,
    GROUND,
    INK,
    Colour,
    Mark,
    Picture,
    counted,
    draw_marks,
    in_a_row,
    outline,
    pick_colours,
    stacked,
    words_strip,
)

ROWS = ("input", "truth", "prediction")
LABEL, GAP = 76, 4
"""Pixels for the names of the rows, and between frames."""


@dataclass
class Strip:
    """One item's rows, and what its frames have scored so far."""

    video: str
    item: str
    words: str
    picture: Picture
    scores: list[float] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """`J&F 0.83 · the red circle · shapes 3`."""
        score = f"J&F {sum(self.scores) / len(self.scores):.2f}" if self.scores else "J&F -"
        return f"{score} · {self.words} · {self.video}"


class FilmStrip(MaskSink):
    """Writes `film/<step>.png` after every validation: for each fixed item, rows input, truth, prediction.

    Items are of different videos, as far as there are enough. Above each stand its J&F over the whole video and its
    sentence, or how it was pointed at (clicks and boxes are drawn into the input). The same picture goes to every
    logger that takes images (TensorBoard, W&B, MLflow).

    Args:
        items: how many items of the validation set are shown.
        frames: how many frames of each, spread over its first window.
        height: pixels per frame.
    """

    def __init__(self, items: int = 4, frames: int = 8, height: int = 96):
        self.items, self.frames, self.height = items, frames, height
        self._videos: list[Strip] = []
        self._others: list[Strip] = []

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Draw the first windows of the first items; count the frames of all their windows."""
        if stage == "predict" or window.targets is None or window.clip is None:
            return
        if window.meta[0].positions[:1] == (0,):
            self._choose(window)
        known = {(strip.video, strip.item): strip for strip in (*self._videos, *self._others)}
        for row, meta in enumerate(window.meta):
            if (strip := known.get((meta.video, meta.item))) is not None:
                strip.scores += scores_of(window, row)

    def _choose(self, window: SegmentedWindow) -> None:
        """One item of every video, another one each time (else all might be about the first); more as a reserve."""
        by_video: dict[str, list[int]] = {}
        for row, meta in enumerate(window.meta):
            by_video.setdefault(meta.video, []).append(row)
        for rows in by_video.values():
            if len(self._videos) >= self.items:
                return
            chosen = rows[len(self._videos) % len(rows)]
            if all(strip.video != window.meta[chosen].video for strip in self._videos):
                self._videos.append(self._strip(window, chosen))
            reserve = [row for row in rows if row != chosen][: max(0, self.items - len(self._others))]
            self._others += [self._strip(window, row) for row in reserve]

    def _strip(self, window: SegmentedWindow, row: int) -> Strip:
        clip, targets, meta = window.clip, window.targets, window.meta[row]
        assert clip is not None and targets is not None
        shown = torch.linspace(0, clip.time - 1, min(self.frames, clip.time)).long()
        high, wide = meta.size
        frames = clip.frames[int(clip.video[row])][shown.to(clip.frames.device)][..., :high, :wide]  # type: ignore[union-attr]
        frames = (frames.float().cpu().permute(0, 2, 3, 1) * 255).round().byte().numpy()
        size = (max(1, round(self.height * wide / high)), self.height)
        pictures = np.stack([cv2.resize(frame, size, interpolation=way(frame.shape, size)) for frame in frames])
        given = () if clip.user is None else clip.user.said(row)
        marks = [mark for prompt in given if (mark := mark_of(prompt, size)) is not None]
        masks = [
            np.stack([shrink(mask, size) for mask in every[row][shown.to(every.device)].cpu().numpy()])
            for every in (targets.masks, window.masks)
        ]
        colours = pick_colours(pictures, np.stack([masks[0] | masks[1]] * 2))
        words = said_with(given, meta.item) if given or not clip.expressions else clip.expressions[row]
        positions = [meta.positions[int(i)] for i in shown]
        return Strip(meta.video, meta.item, words, rows_of(pictures, masks, colours, marks, positions))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the picture and forget it."""
        strips = (self._videos + self._others)[: self.items]
        self._videos, self._others = [], []
        if strips and not trainer.sanity_checking:
            self._publish(trainer, strips)

    @rank_zero_only
    def _publish(self, trainer: Trainer, strips: list[Strip]) -> None:
        width = max(strip.picture.shape[1] for strip in strips)
        parts = [part for s in strips for part in (words_strip(s.heading, width, 13, INK), s.picture)]
        film = torch.from_numpy(np.pad(stacked(parts, gap=3), ((6, 6), (6, 6), (0, 0)))).permute(2, 0, 1)
        folder = Path(trainer.default_root_dir) / "film"
        folder.mkdir(parents=True, exist_ok=True)
        from torchvision.io import write_png

        write_png(film.contiguous(), str(folder / f"{trainer.global_step:07d}.png"))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("film", [film.permute(1, 2, 0).numpy()], step=trainer.global_step)
            elif hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("film", film, trainer.global_step)


def rows_of(
    pictures: np.ndarray, masks: list[np.ndarray], colours: list[Colour], marks: list[Mark], positions: list[int]
) -> Picture:
    """Named rows of frames with gaps, their numbers below; truth and prediction in colours of their own."""
    rows = []
    for number, name in enumerate(ROWS):
        row = pictures.copy()
        for i, picture in enumerate(row):
            if number:
                outline(picture, masks[number - 1][i], colours[number - 1])
            else:
                draw_marks(picture, [mark for mark in marks if mark.frame == positions[i]], colours)
        label = words_strip(name, LABEL, 12, colours[number - 1] if number else FAINT)
        label = np.pad(label, ((0, max(0, row.shape[1] - len(label))), (0, 0), (0, 0)), constant_values=GROUND[0])
        rows.append(in_a_row([label[: row.shape[1]], *row], GAP))
    wide = pictures.shape[2]
    numbers = [words_strip(str(position), max(wide, 24), 10, FAINT) for position in positions]
    return stacked([*rows, in_a_row([np.full((1, LABEL, 3), GROUND, np.uint8), *numbers], GAP)], GAP)


def scores_of(window: SegmentedWindow, row: int) -> list[float]:
    """J&F of an item's annotated frames."""
    targets = window.targets
    assert targets is not None
    chosen = targets.annotated[row].cpu()
    counts = frame_counts(targets.masks[row].cpu()[chosen], window.masks[row].cpu()[chosen])
    return ((region_similarity(counts) + boundary_measure(counts)) / 2).tolist()


def mark_of(prompt: UserPrompt, size: tuple[int, int]) -> Mark | None:
    """A prompt on a picture of (width, height); masks are not drawn."""
    if prompt.points is None or prompt.labels is None:
        return None
    points = [(float(x) * size[0], float(y) * size[1]) for x, y in prompt.points.cpu()]
    labels = prompt.labels.tolist()
    clicks = tuple((x, y, label == 1) for (x, y), label in zip(points, labels, strict=True) if label < 2)
    corners = [point for point, label in zip(points, labels, strict=True) if label >= 2]
    return Mark(prompt.frame, 0, clicks, (*corners[0], *corners[1]) if len(corners) == 2 else None)


def said_with(given: Sequence[UserPrompt], item: str) -> str:
    """An object that was pointed at, in words: `object 2, 3 clicks on frame 0`."""
    boxes = sum(2 in prompt.labels.tolist() for prompt in given if prompt.labels is not None)
    clicks = sum(int((prompt.labels < 2).sum()) for prompt in given if prompt.labels is not None)
    masks = sum(prompt.mask is not None for prompt in given)
    said = counted(clicks, boxes, masks)
    frames = ", ".join(map(str, sorted({prompt.frame for prompt in given})))
    return f"object {item}" + (f", {said} on frame {frames}" if said else "")


def shrink(mask: Bool[np.ndarray, "high wide"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """A mask at display size (width, height): what covers at least half of a pixel."""
    return cv2.resize(mask.astype(np.float32), size, interpolation=way(mask.shape, size)) >= 0.5


def way(shape: tuple[int, ...], size: tuple[int, int]) -> int:
    """How to come to another size without stairs or blur."""
    return cv2.INTER_AREA if shape[0] > size[1] else cv2.INTER_LINEAR
