"""The one picture people look at during training: input, truth and prediction of fixed clips."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.seams import MaskSink
from rvos_lightning.core.types import SegmentedWindow

TRUTH = (0.1, 0.8, 0.2)
PREDICTION = (0.95, 0.2, 0.15)


class FilmStrip(MaskSink):
    """Writes `film/<step>.png` after every validation: for each fixed item, rows input, truth, prediction.

    The same picture goes to every logger that takes images (TensorBoard, W&B, MLflow).

    Args:
        items: how many items of the validation set are shown.
        frames: how many frames of each, spread over its first window.
        height: pixels per frame.
    """

    def __init__(self, items: int = 4, frames: int = 8, height: int = 96):
        self.items, self.frames, self.height = items, frames, height
        self._strips: list[Tensor] = []
        self._captions: list[str] = []

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Keep the first items' first windows."""
        if stage == "predict" or window.targets is None or window.clip.meta[0].positions[:1] != (0,):
            return
        for item in range(min(len(window.clip), self.items - len(self._strips))):
            self._strips.append(self._strip(window, item))
            words = window.clip.expressions
            self._captions.append(words[item] if words else window.clip.meta[item].item)

    def _strip(self, window: SegmentedWindow, item: int) -> UInt8[Tensor, "3 rows columns"]:
        clip, targets = window.clip, window.targets
        assert targets is not None
        shown = torch.linspace(0, clip.time - 1, min(self.frames, clip.time)).long()
        height, width = clip.meta[item].size
        frames = clip.frames[int(clip.video[item])][shown][..., :height, :width].cpu()
        size = (self.height, max(1, round(self.height * width / height)))
        frames = functional.interpolate(frames.float(), size=size, mode="bilinear", antialias=True)
        rows = [frames]
        for masks, colour in ((targets.masks, TRUTH), (window.masks, PREDICTION)):
            rows.append(tint(frames, shrink(masks[item, shown.to(masks.device)].cpu(), size), colour))
        strip = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
        return (strip * 255).round().clamp(0, 255).byte()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the picture and forget it."""
        strips, self._strips, captions, self._captions = self._strips, [], self._captions, []
        if strips and not trainer.sanity_checking:
            self._publish(trainer, strips, captions)

    @rank_zero_only
    def _publish(self, trainer: Trainer, strips: list[Tensor], captions: list[str]) -> None:
        width = max(strip.shape[-1] for strip in strips)
        wide = [functional.pad(strip, (0, width - strip.shape[-1])) for strip in strips]
        lines = [caption_line(caption, width) for caption in captions]
        film = torch.cat([part for pair in zip(lines, wide, strict=True) for part in pair], dim=-2)
        folder = Path(trainer.default_root_dir) / "film"
        folder.mkdir(parents=True, exist_ok=True)
        from torchvision.io import write_png

        write_png(film, str(folder / f"{trainer.global_step:07d}.png"))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("film", [film.permute(1, 2, 0).numpy()], step=trainer.global_step)
            elif hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("film", film, trainer.global_step)


def caption_line(caption: str, width: int, height: int = 16) -> UInt8[Tensor, "3 height width"]:
    """White words on black."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).text((4, 2), caption, fill="white")
    return torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)


def shrink(masks: Bool[Tensor, "time height width"], size: tuple[int, int]) -> Float[Tensor, "time h w"]:
    """Masks at display size, as coverage in [0, 1]."""
    return functional.interpolate(masks[:, None].float(), size=size, mode="bilinear", antialias=True)[:, 0]


def tint(
    frames: Float[Tensor, "time 3 h w"], coverage: Float[Tensor, "time h w"], colour: tuple[float, float, float]
) -> Float[Tensor, "time 3 h w"]:
    """Frames with a half-transparent colour where the mask is."""
    alpha = 0.6 * coverage[:, None]
    return frames * (1 - alpha) + alpha * torch.tensor(colour)[None, :, None, None]
