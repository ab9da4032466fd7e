"""Classifies every pixel by what is there and how it moves: how a small backbone learns to see before it reads.

It stands in for the classification of Kinetics' actions from which published Video Swins start. The heads are thrown
away; the backbone is kept (`rvos convert part RUN FILE --part backbone`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Clip, Prediction, SegmentedWindow, State
from rvos_lightning.foundations.dialogue import LanguageTaps
from rvos_lightning.foundations.motion import AdapterTaps
from rvos_lightning.foundations.shares import SharesByKind
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.weights import freeze
from rvos_lightning.systems.sgmg.network import DEVIATION, MEAN
from rvos_lightning.systems.sgmg.video_swin import Taps, VideoSwin

Kinds = Mapping[str, Sequence[str]]


@dataclass
class AttributePrediction(Prediction):
    """Logits of all names of every kind, class 0 meaning none of them.

    Attributes:
        kinds: kind of attribute -> its names, classes 1 and up.
        taps: for each of the backbone's taps kind -> logits, at the tap's own resolution.
    """

    kinds: Kinds = field(default_factory=dict)
    taps: list[dict[str, Float[Tensor, "video time classes _h _w"]]] = field(default_factory=list)


class TrunkTaps(nn.Module):
    """The stages of the trunk of SAM or SAM 2 as a backbone of normalised frames.

    Args:
        segmenter: whose trunk shall learn; the rest of it waits (SAM 2's as `trainable` says).
    """

    def __init__(self, segmenter: Sam | Sam2) -> None:
        super().__init__()
        if isinstance(segmenter, Sam):
            freeze(segmenter, train_mode=True)
            segmenter.encoder.trunk.requires_grad_(True)
            segmenter.encoder.neck.requires_grad_(False)
        self.segmenter = segmenter
        self.channels = segmenter.stage_channels
        self.strides = tuple(segmenter.image_size // side for side in segmenter.stage_sides)

    def forward(self, frames: Float[Tensor, "video time 3 height width"]) -> Taps:
        """Stage outputs, fine to coarse.

        Raises:
            ValueError: frames are not of the segmenter's size.
        """
        if (side := self.segmenter.image_size) != frames.shape[-1] or side != frames.shape[-2]:
            raise ValueError(f"give data.size {side}, as model.network.backbone.segmenter.image_size says")
        return tuple(self.segmenter.run_trunk(frames.flatten(0, 1)))


class AttributePixels(Network):
    """A backbone with a linear classifier of every kind of attribute on each of its taps.

    Sentences are names of attributes (`MovingShapes` with `labels`); an item's mask is where its name is more likely
    than all others of its kind and none together, by the mean of all taps but the first, which sees too little.

    Args:
        backbone: what shall learn.
        kinds: kind of attribute -> names, e.g. `direction: [left, right, up, down]`.

    Raises:
        ValueError: a name in two kinds.
    """

    says_presence = False

    def __init__(
        self, backbone: VideoSwin | TrunkTaps | AdapterTaps | LanguageTaps, kinds: dict[str, list[str]]
    ) -> None:
        super().__init__()
        names = [name for of_kind in kinds.values() for name in of_kind]
        if len(set(names)) < len(names):
            raise ValueError(f"kinds: each name belongs to one kind, once; got {', '.join(sorted(names))}")
        self.backbone, self.kinds = backbone, {kind: tuple(of_kind) for kind, of_kind in kinds.items()}
        self.heads = nn.ModuleList(
            nn.ModuleDict({kind: nn.Conv2d(width, 1 + len(of_kind), 1) for kind, of_kind in self.kinds.items()})
            for width in backbone.channels
        )
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, clip: Clip, state: State | None = None) -> AttributePrediction:
        """Classify every pixel; see `seams.Network`.

        Raises:
            ValueError: a sentence that is no name.
        """
        return self.classify(clip, self.backbone((clip.frames - self.mean) / self.deviation))

    def classify(self, clip: Clip, taps: Taps) -> AttributePrediction:
        """What each tap's classifiers make of its maps, and masks of the names asked for."""
        logits = [
            {kind: head(tap).unflatten(0, (-1, clip.time)) for kind, head in heads.items()}
            for tap, heads in zip(taps, self.heads, strict=True)
        ]
        height, width = clip.frames.shape[-2:]
        patch = self.backbone.strides[0]
        size = (clip.time, -(-height // patch), -(-width // patch))
        masks = self.masks(clip, logits, size)
        return AttributePrediction(masks, kinds=self.kinds, taps=logits)

    def masks(
        self, clip: Clip, taps: list[dict[str, Tensor]], size: tuple[int, int, int]
    ) -> Float[Tensor, "batch time h w"]:
        """Log-odds of each item's name."""
        odds = {kind: log_odds(averaged(taps, kind, size)) for kind in self.kinds}
        where = {name: (kind, n) for kind, names in self.kinds.items() for n, name in enumerate(names, 1)}
        if unknown := [name for name in clip.expressions or [] if name not in where]:
            raise ValueError(
                f"{unknown[0]!r} is no name of an attribute: give data.labels true, and model.network.kinds the "
                f"names of the data's preset; known: {', '.join(where)}"
            )
        asked = [where[name] for name in clip.expressions]
        return torch.stack([odds[kind][v, :, n] for v, (kind, n) in zip(clip.video.tolist(), asked, strict=True)])


def enlarged(
    logits: Float[Tensor, "video time classes _h _w"], size: tuple[int, int, int]
) -> Float[Tensor, "video time classes h w"]:
    """A tap's logits at another resolution (time, height, width)."""
    return F.interpolate(logits.flatten(0, 1), size=size[1:], mode="bilinear").unflatten(0, (-1, size[0]))


def averaged(
    taps: Sequence[Mapping[str, Tensor]], kind: str, size: tuple[int, int, int]
) -> Float[Tensor, "video time classes h w"]:
    """Mean logits of a kind over all taps but the first, at another resolution."""
    return sum(enlarged(tap[kind], size) for tap in taps[1:]) / (len(taps) - 1)


def log_odds(logits: Float[Tensor, "video time classes h w"]) -> Float[Tensor, "video time classes h w"]:
    """Of each class against all others together."""
    own = logits.log_softmax(2)
    return own - torch.log1p(-own.exp().clamp(max=1 - 1e-6))


def classes_of(
    clip: Clip, masks: Bool[Tensor, "batch time height width"], kinds: Kinds
) -> dict[str, Int[Tensor, "video time height width"]]:
    """Kind -> class of every pixel, 0 where none of the items says one."""
    shape = (clip.frames.shape[0], *masks.shape[1:])
    found = {}
    for kind, names in kinds.items():
        classes = torch.zeros(shape, dtype=torch.long, device=masks.device)
        for item, (video, name) in enumerate(zip(clip.video.tolist(), clip.expressions, strict=True)):
            if name in names:
                classes[video].masked_fill_(masks[item], names.index(name) + 1)
        found[kind] = classes
    return found


class AttributeAccuracy(SharesByKind):
    """Share of things' pixels whose name is the most likely of its kind: `accuracy/<kind>`, and their mean."""

    def update(self, window: SegmentedWindow) -> None:
        """Count a window.

        Raises:
            TypeError: the network classifies no attributes.
        """
        said = window.prediction
        if not isinstance(said, AttributePrediction):
            raise TypeError(f"AttributeAccuracy needs the network AttributePixels, not a {type(said).__name__}")
        self.kinds = list(said.kinds)
        size = window.targets.masks.shape[1:]
        for n, (kind, truth) in enumerate(classes_of(window.clip, window.targets.masks, said.kinds).items()):
            right = averaged(said.taps, kind, size)[:, :, 1:].argmax(2) + 1 == truth
            self.right[n] += (right & (truth > 0)).sum()
            self.total[n] += (truth > 0).sum()

    def compute(self) -> dict[str, Tensor]:
        """Scores by name; a kind that never occurs has none."""
        shares = self.shares("accuracy")
        return {"accuracy": torch.stack(list(shares.values())).mean()} | shares
