"""Recorded clips as a data module, and masks kept as tensors: what the command line needs to replay a recording."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import sa2va_rules
import sam_i2v_rule
import sgmg_recordings
import torch
from lightning.pytorch import LightningDataModule
from samwise_recordings import IdTokenizer, Recording, clip_of, draw  # noqa: F401 (named by flag)
from torch.utils.data import DataLoader

from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import Batch, Clip, ClipMeta, SegmentedWindow
from rvos_lightning.data.clips.given_prompts import GivenPrompts, GivingUser
from rvos_lightning.systems.sa2va.mllm_prompter import MLLMPrompter
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


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


class I2vClip(LightningDataModule):
    """The recorded SAM-I2V video, one object clicked on its first frame."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        count, *size = sam_i2v_rule.FRAMES
        pixels = sam_i2v_rule.given("e2e.frames", count, 3, *size)[:frames] * STD + MEAN
        names = tuple(map(str, range(frames)))
        meta = [ClipMeta("v", "0", names, tuple(size), sam_i2v_rule.SIZE, tuple(range(frames)))]
        *xy, frame = sam_i2v_rule.CLICK
        user = GivingUser(GivenPrompts([{"object": "0", "frame": frame, "clicks": [xy]}]), meta)
        self.batch = Batch(Clip(pixels[None], torch.zeros(1, dtype=torch.long), None, meta, user))

    def predict_dataloader(self) -> DataLoader:
        """One batch."""
        return DataLoader([self.batch], batch_size=None)


class ReplayedSelector(MemorySelector):
    """Draws what was drawn in a recording, whose probabilities must be ours."""

    def __init__(self, recording: Path) -> None:
        super().__init__(draw="random")
        recorded, calls = sam_i2v_rule.Recording(Path(recording)), count()

        def draw(probs: torch.Tensor, keep: int) -> torch.Tensor:
            name = f"click.draw{next(calls)}"
            assert (probs - recorded[f"{name}.probs"].flatten()).abs().max() < 1e-5
            assert len(recorded[f"{name}.idx"].flatten()) == keep
            return recorded[f"{name}.idx"].flatten().long()

        self.injected = draw


class Sa2vaClip(LightningDataModule):
    """The recorded Sa2VA video of square, normalised frames."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        pixels = sa2va_rules.given("frames", (frames, 3, 1024, 1024))[None]
        names, positions = tuple(map(str, range(frames))), tuple(range(frames))
        size = sa2va_rules.stated(r"\(h,w\)=\((\d+),(\d+)\)", (270, 480))
        meta = [ClipMeta("v", "0", names, (1024, 1024), size, positions)]
        self.batch = Batch(Clip(pixels, torch.zeros(1, dtype=torch.long), ["the thing"], meta))

    def predict_dataloader(self) -> DataLoader:
        """One batch."""
        return DataLoader([self.batch], batch_size=None)


class RecordedAnswer(MLLMPrompter):
    """A language model whose answer's projected [SEG] state is the recorded one.

    Args:
        positions: of the frames it was shown.
        options: of `MLLMPrompter`.
    """

    def __init__(self, positions: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.positions = tuple(positions)

    def ask(self, clip: Clip) -> SpokenPrompt:
        """The recorded embedding for every frame."""
        token = sa2va_rules.given("seg_embed", (1, 256))[:, None, None].expand(-1, clip.time, -1, -1)
        return SpokenPrompt(token, spoken=torch.ones(1, dtype=torch.bool), answers=["[SEG]."], positions=self.positions)


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
