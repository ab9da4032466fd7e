"""Teaches SAMWISE's Conditional Memory Encoder from the network's own two masks."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from rvos_lightning.core.bounds import FromZero, Share
from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.types import Batch, Prediction
from rvos_lightning.systems.samwise.outputs import SwitchedPrediction

IGNORE = -1
Areas = Bool[Tensor, "*frames h w"]


class CMESupervision(Objective):
    """Cross-entropy on "the sentence now fits another object"; labels need predictions, no annotation.

    Term: `cme`. Logged per epoch: `train/cme_switch` (share of label 1 among labelled frames) and
    `train/cme_labelled` (share of frames that got a label).

    Args:
        weight: of the term; 0 keeps the encoder in the graph without teaching it.
        rule: `released`: the code's labels; `paper`: eq. 3 of the supplementary, 1 if the masks do not meet.
        class_weights: of labels 0 and 1; None: (1, 2) for `released`, none for `paper` (eq. 4).
        min_area: pixels (at frame size) up to which a mask counts as empty; `released` only.
        min_overlap: share of the smaller mask below which two masks are different objects; `released` only.
    """

    def __init__(
        self,
        weight: float = 1.0,
        rule: Literal["released", "paper"] = "released",
        class_weights: tuple[float, float] | None = None,
        min_area: FromZero = 50,
        min_overlap: Share = 0.1,
    ) -> None:
        self.weight, self.rule = weight, rule
        self.class_weights = class_weights or ((1.0, 2.0) if rule == "released" else (1.0, 1.0))
        self.min_area, self.min_overlap = min_area, min_overlap
        self._counts: Tensor | None = None  # this epoch's frames with label 0, label 1 and none

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted term; zero, but attached to the graph, when no frame gets a label.

        Raises:
            ValueError: the network has no switch.
        """
        if not isinstance(prediction, SwitchedPrediction) or prediction.switch_logits is None:
            raise ValueError(
                f"objective CMESupervision scores a SwitchedPrediction, the network gave {type(prediction).__name__}: "
                "turn memory.switching on (SAMWISE), or remove the objective"
            )
        labels = self.labels(prediction)
        self._count(labels, prediction.switch_ran)
        logits = prediction.switch_logits.float().flatten(0, 1)
        return {"cme": self.weight * switch_loss(logits, labels.flatten(), self.class_weights)}

    @torch.no_grad()
    def labels(self, prediction: SwitchedPrediction) -> Int[Tensor, "batch ran"]:
        """0, 1, or -1 (no label) for every frame at which the encoder ran."""
        memory, memoryless = prediction.memory_logits > 0, prediction.memoryless_logits > 0
        if self.rule == "paper":
            labels = paper_labels(memory, memoryless)
        else:
            scores = prediction.memoryless_presence_logits
            labels = released_labels(memory, memoryless, scores, self.min_area, self.min_overlap)
        return labels.masked_fill(~prediction.switch_ran, IGNORE)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew."""
        self._counts = torch.zeros(3, device=pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the class balance of the epoch, over all ranks."""
        counts = torch.zeros(3, device=pl_module.device) if self._counts is None else self._counts
        keep, switch, none = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        labelled = keep + switch
        balance = {
            "train/cme_switch": switch / max(labelled, 1.0),
            "train/cme_labelled": labelled / max(labelled + none, 1.0),
        }
        pl_module.log_dict(balance, rank_zero_only=True)

    def _count(self, labels: Tensor, ran: Tensor) -> None:
        if self._counts is not None:
            values = labels[ran]
            self._counts += torch.stack([(values == value).sum() for value in (0, 1, IGNORE)])


def released_labels(
    memory: Areas,
    memoryless: Areas,
    memoryless_scores: Float[Tensor, "*frames"] | None,
    min_area: FromZero = 50,
    min_overlap: Share = 0.1,
) -> Int[Tensor, "*frames"]:
    """Labels of the released code: 1 where the masks hardly overlap, -1 where there is nothing to compare.

    Exactly one empty mask gives 0: the code divides 0 by 0 there, and its comment says that 1 was meant.
    """
    areas = memory.flatten(-2).sum(-1), memoryless.flatten(-2).sum(-1)
    shared = (memory & memoryless).flatten(-2).sum(-1)
    smaller = torch.minimum(*areas)
    different = shared / smaller.clamp(min=1) < min_overlap
    labels = (different & (smaller > 0)).long()
    nothing = torch.maximum(*areas) <= min_area
    if memoryless_scores is not None:
        nothing = nothing | (memoryless_scores < 0)
    return labels.masked_fill(nothing, IGNORE)


def paper_labels(memory: Areas, memoryless: Areas) -> Int[Tensor, "*frames"]:
    """Eq. 3 of the supplementary: 1 where the two masks do not meet, else 0."""
    return (~(memory & memoryless).flatten(-2).any(-1)).long()


def switch_loss(
    logits: Float[Tensor, "frames 2"], labels: Int[Tensor, "frames"], class_weights: tuple[float, float]
) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy over labelled frames; an attached 0 if there are none (never NaN)."""
    weights = logits.new_tensor(class_weights)
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE, reduction="sum")
    scale = (weights[labels.clamp(min=0)] * (labels != IGNORE)).sum()
    return (total + logits.sum() * 0) / torch.where(scale > 0, scale, torch.ones_like(scale))
