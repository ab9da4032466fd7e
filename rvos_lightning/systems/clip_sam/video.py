"""The bridge on video: the same dense map and sparse token prompt SAM 2, whose memory carries masks through time."""

from dataclasses import fields
from typing import Any

import torch

from rvos_lightning.core.types import Clip, Features, Prompt, State
from rvos_lightning.parts.memories.sam2_memory import Sam2Memory
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.systems.clip_sam.bridge import ImageFeatures
from rvos_lightning.systems.clip_sam.network import ClipSam, pictures, resized
from rvos_lightning.systems.clip_sam.outputs import BridgePrediction
from rvos_lightning.systems.clip_sam.towers import VisionLanguage


class ClipSam2(ClipSam):
    """SAM 2 in SAM's place (not in the paper); queries read SAM 2's features before memory.

    Args:
        sam: SAM 2, pictures stretched to its square (`fit: stretch`) so that its grid and CLIP's lie over each other;
            what of it is frozen is said there.
        memory: how masks travel in time.
        tower, text: as in `ClipSam`.
        options: as in `ClipSam`; no feature cache.

    Raises:
        ValueError: pictures would be padded.
    """

    def __init__(self, sam: Sam2, memory: Sam2Memory, tower: VisionLanguage, text: TextEncoder, **options: Any) -> None:
        if sam.fit != "stretch":
            raise ValueError(f"network.sam.fit is {sam.fit}: CLIP sees the stretched picture; set it to stretch")
        super().__init__(sam, tower, text, train_encoders=True, **options)
        self.memory, self.says_presence = memory, self.says_presence or sam.says_presence

    def _freeze(self, train_encoders: bool) -> None:
        """SAM 2 says by itself what of it is trained."""

    def forward(self, clip: Clip, state: State | None = None) -> BridgePrediction:
        """Segment a window; see `seams.Network`.

        Raises:
            ValueError: no expressions, or an oracle without categories.
        """
        image, text = self.pairs(clip)
        items, time = len(clip), clip.time
        levels = self.sam.encode(clip.frames.flatten(0, 1))
        small = torch.cat([resized(frames, self.tower.image_size, "bicubic") for frames in pictures(clip)])
        images = ImageFeatures(levels[-1], self.tower.look(small))
        texts = self.encode_texts(clip.sentences(), self._rows(clip))
        names, offset = self.names(texts) if self.asks_queries() else (None, 0)
        said = self.bridge(images, texts, image, text, names)
        empty = self.sam.sam_prompt_encoder.no_mask_embed.weight[0]
        dense = self.bridge.prompt(said.dense, tuple(levels[-1].shape[-2:]), empty)
        prompt = Prompt(said.sparse.unflatten(0, (items, time)), dense.unflatten(0, (items, time)))
        features = Features(tuple(level[image].unflatten(0, (items, time)) for level in levels))
        tracked = self.memory(features, prompt, self.sam, state, clip)
        known = {entry.name: getattr(tracked, entry.name) for entry in fields(tracked)}
        prediction = BridgePrediction(
            **known, outputs=said.outputs, column=text + offset, target_logits=said.target_logits
        )
        return self.with_answer(prediction, items, time)
