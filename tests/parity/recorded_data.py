"""Recorded clips as a data module, and masks kept as tensors: what the command line needs to replay a recording."""

from dataclasses import replace
from pathlib import Path

import sgmg_recordings
import torch
from lightning.pytorch import LightningDataModule
from samwise_recordings import IdTokenizer, Recording, clip_of, draw  # noqa: F401 (named by flag)
from torch.utils.data import DataLoader

from rvos_lightning.core.seams import MaskSink
from rvos_lightning.core.types import Batch, SegmentedWindow


class SamwiseClip(LightningDataModule):
    """The recorded video up to the end of the first recorded window (later windows have other lengths)."""

    def __init__(self, recording: Path) -> None:
        super().__init__()
        c = Recording(Path(recording)).config
        frames = draw(c["input_name"], c["frames"])[: c["clips"][0][1]]
        self.batch = Batch(clip_of(frames[None], [c["caption_ids"]]))

    def predict_dataloader(self) -> DataLoader:
        """One batch."""
        return DataLoader([self.batch], batch_size=None)


class KeepMasks(MaskSink):
    """Writes logits and masks of everything segmented to a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.parts = path, []

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Keep a window; write the file after the last."""
        self.parts.append((window.prediction.mask_logits.cpu(), window.masks.cpu()))
        if last:
            logits, masks = (torch.cat(kind, 1) for kind in zip(*self.parts, strict=True))
            torch.save({"logits": logits, "masks": masks}, self.path)


class SgMgClip(LightningDataModule):
    """A recorded video of SgMg, with its sentence as ids."""

    def __init__(self, recording: Path) -> None:
        super().__init__()
        golden = sgmg_recordings.Recording(Path(recording))
        c = golden.config
        frames = sgmg_recordings.draw("e2e.frames", (c["T"], 3, c["H"], c["W"]))
        clip = sgmg_recordings.clip_of([frames], sgmg_recordings.sentences(golden["input_ids"]))
        meta = [replace(m, original_size=tuple(c["orig_hw"])) for m in clip.meta]
        self.batch = Batch(replace(clip, meta=meta))

    def predict_dataloader(self) -> DataLoader:
        """One batch."""
        return DataLoader([self.batch], batch_size=None)
