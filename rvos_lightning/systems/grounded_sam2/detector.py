"""GroundingDINO (transformers): the box that fits a sentence best."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.parts.text.tokenizers import HubTokenizer, Tokenizer
from rvos_lightning.parts.weights import freeze, mark_reproducible

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Detector(nn.Module, ABC):
    """Finds what a sentence means in single frames."""

    @abstractmethod
    def forward(
        self, frames: Float[Tensor, "images 3 height width"], expressions: list[str]
    ) -> Float[Tensor, "images 4"]:
        """Best box of each frame for its sentence: left, top, right, bottom in pixels of the frame."""


class GroundingDino(Detector):
    """Frozen open-vocabulary detector.

    Args:
        weights: folder or hub id of a transformers GroundingDINO, e.g. IDEA-Research/grounding-dino-base; None: random
            weights of `config` (tests).
        tokenizer: None: the weights' own.
        config: keyword arguments of `GroundingDinoConfig` for random weights.
        short_side: of the resized frame, in pixels (published: 800).
        long_side: at most (published: 1333).
    """

    licence = "Grounding DINO, code and weights: Apache-2.0"

    def __init__(
        self,
        weights: str | None = "IDEA-Research/grounding-dino-base",
        tokenizer: Tokenizer | None = None,
        config: dict[str, Any] | None = None,
        short_side: int = 800,
        long_side: int = 1333,
    ) -> None:
        super().__init__()
        from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

        self.short_side, self.long_side = short_side, long_side
        if weights is None:
            self.model = GroundingDinoForObjectDetection(GroundingDinoConfig(**(config or {})))
        else:
            self.model = GroundingDinoForObjectDetection.from_pretrained(weights)
            mark_reproducible(self, weights)
        if tokenizer is None and weights is None:
            raise ValueError("GroundingDino with random weights needs a tokenizer")
        self.tokenizer = tokenizer or HubTokenizer(weights)  # type: ignore[arg-type]
        freeze(self)

    @torch.no_grad()
    def forward(
        self, frames: Float[Tensor, "images 3 height width"], expressions: list[str]
    ) -> Float[Tensor, "images 4"]:
        """See `Detector`."""
        height, width = frames.shape[-2:]
        ids, mask = self.tokens(expressions, frames.device)
        output = self.model(pixel_values=self.resized(frames), input_ids=ids, attention_mask=mask)
        scores = output.logits.sigmoid().amax(-1)  # per query, over words
        rows = torch.arange(len(frames), device=frames.device)
        middle_x, middle_y, wide, high = output.pred_boxes[rows, scores.argmax(1)].unbind(-1)
        corners = (middle_x - wide / 2, middle_y - high / 2, middle_x + wide / 2, middle_y + high / 2)
        return torch.stack(corners, -1).clamp(0, 1) * frames.new_tensor([width, height, width, height])

    def tokens(self, expressions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Lower case and closed by a full stop, as GroundingDINO was trained; ids and their mask."""
        rows = [self.tokenizer(text.lower().strip().rstrip(".") + ".") for text in expressions]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.tokenizer.pad] * (longest - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return ids, (torch.arange(longest, device=device) < lengths[:, None]).long()

    def resized(self, frames: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 _h _w"]:
        """Short side to `short_side` unless the long side then exceeds `long_side`; normalised."""
        short, long = sorted(frames.shape[-2:])
        scale = min(self.short_side / short, self.long_side / long)
        size = [round(side * scale) for side in frames.shape[-2:]]
        mean, std = (frames.new_tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
        return (F.interpolate(frames, size=size, mode="bilinear", antialias=True) - mean) / std
