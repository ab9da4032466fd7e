"""GroundingDINO finds a box, SAM 2 turns it into masks: the baselines of SAMWISE's Table 2."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Clip, Features, Prediction, Prompt, State
from rvos_lightning.parts.memories.sam2_memory import Sam2Memory
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.systems.grounded_sam2.detector import Detector


class GroundedSam2(Network):
    """Zero-shot: nothing is trained.

    Args:
        segmenter: SAM 2, prompted by boxes.
        detector: finds the sentence's box.
        frames: `first`: a box on the video's first frame, then SAM 2's memory tracks; `all`: a box on every frame, each
            segmented by itself.
    """

    def __init__(self, segmenter: Sam2, detector: Detector, frames: Literal["first", "all"] = "first") -> None:
        super().__init__()
        self.segmenter, self.detector, self.frames = segmenter, detector, frames
        self.segmenter.empty_points = 1  # what SAM 2 sends along with a box
        self.memory = Sam2Memory(conditioning=1, prompted=1)

    @torch.no_grad()
    def forward(self, clip: Clip, state: State | None = None) -> Prediction:
        """Masks of one window; every video is encoded once, however many sentences look at it.

        Raises:
            ValueError: the clip has no expressions.
        """
        levels = self.segmenter.encode(clip.frames.flatten(0, 1))
        levels = tuple(level.unflatten(0, clip.frames.shape[:2])[clip.video] for level in levels)
        return self.every_frame(clip, levels) if self.frames == "all" else self.first_frame(clip, levels, state)

    def first_frame(self, clip: Clip, levels: tuple[Tensor, ...], state: State | None) -> Prediction:
        """A box where the video begins; later windows go on from the memory."""
        if state is None:
            tokens = self.boxes(clip, 1)
        else:  # never looked at
            tokens = levels[-1].new_zeros(len(clip), 1, 2, self.segmenter.prompt_dim)
        prompt = Prompt(tokens[:, :1].expand(-1, clip.time, -1, -1))
        return self.memory(Features(levels), prompt, self.segmenter, state, clip)

    def every_frame(self, clip: Clip, levels: tuple[Tensor, ...]) -> Prediction:
        """A box on every frame, no memory."""
        fine, middle, pixels = (level.flatten(0, 1) for level in levels)
        sam, shape = self.segmenter, (len(clip), clip.time)
        decoded = sam.decode((fine, middle, sam.no_memory(pixels)), self.boxes(clip, clip.time).flatten(0, 1))
        masks = sam.on_frame(sam.upscale(self.memory.gate(decoded)), tuple(clip.frames.shape[-2:]))
        presence = decoded.presence_logits
        return Prediction(
            masks.unflatten(0, shape),
            None if presence is None else presence.unflatten(0, shape),
            decoded.iou.unflatten(0, shape),
            state=State(),
        )

    def boxes(self, clip: Clip, time: int) -> Float[Tensor, "batch time 2 dim"]:
        """Prompt tokens of the best boxes on the first `time` frames; padding is cut off before the detector looks."""
        found = []
        for video, sentence, meta in zip(clip.video.tolist(), clip.sentences(), clip.meta, strict=True):
            height, width = meta.size
            boxes = self.detector(clip.frames[video, :time, :, :height, :width], [sentence] * time)
            found.append(self.segmenter.box_tokens(boxes, tuple(clip.frames.shape[-2:])))
        return torch.stack(found)
