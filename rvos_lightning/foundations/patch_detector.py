"""A small detector: a small CLIP says which patch is like the sentence, a small SAM how far the thing there reaches."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rvos_lightning.parts.losses import corners, mask_boxes
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.weights import freeze, mark_reproducible
from rvos_lightning.systems.clip_sam.network import resized
from rvos_lightning.systems.clip_sam.towers import SmallTower
from rvos_lightning.systems.grounded_sam2.detector import Detector


class PatchDetector(Detector):
    """Stands in for GroundingDINO on MovingShapes; sees single frames, so no motion. Frozen.

    Args:
        tower: as trained by `PatchesAndWords`, such as `small/clip`.
        segmenter: cuts out what lies under a click, such as `small/sam`.
    """

    def __init__(self, tower: SmallTower, segmenter: Sam) -> None:
        super().__init__()
        self.tower, self.segmenter = tower, segmenter
        freeze(self)
        if segmenter.weights is not None:
            mark_reproducible(segmenter, str(segmenter.weights))

    @torch.no_grad()
    def forward(
        self, frames: Float[Tensor, "images 3 height width"], expressions: list[str]
    ) -> Float[Tensor, "images 4"]:
        """See `Detector`; where SAM finds nothing under the click, the patch itself."""
        patches = F.normalize(self.tower.look(resized(frames, self.tower.image_size, "bicubic")), dim=-1)
        different = list(dict.fromkeys(expressions))
        words = self.tower.read(different)[[different.index(text) for text in expressions]]
        best = torch.einsum("npc,nc->np", patches, words).argmax(1)
        grid, side = self.tower.grid, self.segmenter.image_size
        cell = torch.stack([best % grid, best // grid], 1).float()
        clicks = ((cell + 0.5) * side / grid)[:, None]
        tokens = self.segmenter.embed_points(clicks, torch.ones_like(clicks[..., 0]).int())
        logits = self.segmenter.decode(self.segmenter.encode(frames), tokens).mask_logits
        masks = F.interpolate(logits[:, None], frames.shape[-2:], mode="bilinear")[:, 0] > 0
        height, width = frames.shape[-2:]
        around, there = mask_boxes(masks, masks.new_tensor([height, width], dtype=torch.long).expand(len(masks), 2))
        boxes = torch.where(there[:, None], corners(around), torch.cat([cell, cell + 1], 1) / grid)
        return boxes * boxes.new_tensor([width, height, width, height])
