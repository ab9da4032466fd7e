"""No memory: every frame is decoded by itself, all at once."""

import torch

from rvos_lightning.core.seams import Memory, Segmenter
from rvos_lightning.core.types import Clip, Features, Prediction, Prompt, State


class FrameByFrame(Memory):
    """Decodes all frames of all items in one call."""

    def forward(
        self, features: Features, prompt: Prompt, segmenter: Segmenter, state: State | None, clip: Clip
    ) -> Prediction:
        """One mask per item and frame; the state only keeps a prompt that is asked once per video."""
        items, time = prompt.tokens.shape[:2]
        pyramid = tuple(level.flatten(0, 1) for level in features.pyramid)
        dense = None if prompt.dense is None else prompt.dense.flatten(0, 1)
        pyramid = (*pyramid[:-1], segmenter.no_memory(pyramid[-1]))
        decoded = segmenter.decode(pyramid, prompt.tokens.flatten(0, 1), dense)

        def per_item(value: torch.Tensor | None) -> torch.Tensor | None:
            return None if value is None else value.unflatten(0, (items, time))

        masks = segmenter.cover(decoded.mask_logits, tuple(clip.frames.shape[-2:]))
        return Prediction(
            masks.unflatten(0, (items, time)),
            per_item(decoded.presence_logits),
            per_item(decoded.iou),
            state=state or State(),
        )
