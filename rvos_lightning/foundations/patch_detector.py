"""A small detector: a small CLIP says which patch is like the sentence, a small SAM how far the thing there reaches."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

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
        words = self.tower.read(list(dict.fromkeys(expressions)))
        row = {text: number for number, text in enumerate(dict.fromkeys(expressions))}
        asked = words[torch.tensor([row[text] for text in expressions], device=words.device)]
        best = torch.einsum("npc,nc->np", patches, asked).argmax(1)
        grid, side = self.tower.grid, self.segmenter.image_size
        cell = torch.stack([best % grid, best // grid], 1).float()
        clicks = ((cell + 0.5) * side / grid)[:, None]
        tokens = self.segmenter.embed_points(clicks, torch.ones_like(clicks[..., 0]).int())
        logits = self.segmenter.decode(self.segmenter.encode(frames), tokens).mask_logits
        masks = F.interpolate(logits[:, None], frames.shape[-2:], mode="bilinear")[:, 0] > 0
        scale = frames.new_tensor([frames.shape[-1], frames.shape[-2]] * 2)
        return torch.where(masks.any((1, 2))[:, None], boxes_of(masks), torch.cat([cell, cell + 1], 1) / grid * scale)


def boxes_of(masks: Bool[Tensor, "images height width"]) -> Float[Tensor, "images 4"]:
    """Left, top, right, bottom of what each mask holds, in pixels; of an empty one, nothing that means anything."""
    across, down = masks.any(1).int(), masks.any(2).int()
    first = torch.stack([across.argmax(1), down.argmax(1)], 1)
    last = torch.stack([side.shape[1] - side.flip(1).argmax(1) for side in (across, down)], 1)
    return torch.cat([first, last], 1).float()
