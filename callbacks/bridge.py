"""The losses that SAM + CLIP (Ito 2025) is trained with; weights are those of its released code.

The paper's supplement prints other weights: mask decoder dice 2 and bce 0.5, and CLIP term 1. They are flags here.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch import distributed as dist

from rvos_lightning.core.bounds import FromZero, Share
from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.types import Batch, ClipMeta, Prediction, Targets
from rvos_lightning.parts.losses import dice_loss, object_count
from rvos_lightning.parts.point_matching import Draw, Matches, at_points, match, point_costs, uncertain_points
from rvos_lightning.systems.clip_sam.outputs import BridgePrediction, QueryOutput

Ignore = Literal["same_target", "same_category", "none"]


class DecoderMasks(Objective):
    """Cross-entropy and dice of SAM's mask on the whole picture, squashed to a square (LISA's form).

    Terms: `mask_bce`, `mask_dice`.

    Args:
        bce: weight of the cross-entropy, averaged over pixels, then over samples.
        dice: weight of the dice term, averaged over samples.
        canvas: side of the square; 0: the picture's own size.
        small: added to both sides of the dice ratio, in pixels.
        dilute: samples without target, which have no term, count in the averages (as released).
    """

    def __init__(
        self, bce: float = 2.0, dice: float = 0.5, canvas: FromZero = 1024, small: float = 1e-3, dilute: bool = False
    ) -> None:
        self.bce, self.dice, self.canvas, self.small, self.dilute = bce, dice, canvas, small, dilute

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms; zero, but attached to the graph, where nothing has a target."""
        zero = prediction.mask_logits.sum() * 0.0
        bce, dice, counted = [zero], [zero], 0.0
        for logits, truth in self._pictures(batch, prediction):
            rows, wanted = logits.flatten(1), truth.flatten(1)
            there = wanted.any(1)
            counted = counted + (torch.ones_like(there) if self.dilute else there).sum()
            there, wanted = there.float(), wanted.float()
            cross = F.binary_cross_entropy_with_logits(rows, wanted, reduction="none").mean(1)
            probs = rows.sigmoid()
            overlap = 2 * (probs * wanted).sum(1) + self.small
            ratio = overlap / (probs.sum(1) + wanted.sum(1) + self.small)
            bce.append((cross * there).sum())
            dice.append(((1 - ratio) * there).sum())
        count = torch.as_tensor(counted).clamp(min=1)
        return {"mask_bce": self.bce * sum(bce) / count, "mask_dice": self.dice * sum(dice) / count}

    def _pictures(self, batch: Batch, prediction: Prediction) -> list[tuple[Tensor, Tensor]]:
        """Logits and truth of annotated frames at one size, pictures of equal size together."""
        if prediction.covers != "picture":
            raise ValueError(
                "objective DecoderMasks: the network's masks cover the padded frame; use callbacks.DiceFocal"
            )
        groups: dict[tuple[int, int], list[int]] = {}
        for item, meta in enumerate(batch.clip.meta):
            groups.setdefault(tuple(meta.size), []).append(item)
        found = []
        for (height, width), items in groups.items():
            known = batch.targets.annotated[items].flatten()
            logits = prediction.mask_logits[items].float().flatten(0, 1)[known][:, None]
            truth = batch.targets.masks[items, :, :height, :width].flatten(0, 1)[known][:, None]
            size = (self.canvas, self.canvas) if self.canvas else (height, width)
            if tuple(logits.shape[-2:]) != size:
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            if tuple(truth.shape[-2:]) != size:
                truth = F.interpolate(truth.to(torch.uint8), size, mode="nearest").bool()
            found.append((logits[:, 0], truth[:, 0]))
        return found


class NoTarget(Objective):
    """Cross-entropy of the no-target head.

    Term: `no_target`.

    Args:
        weight: of the term.
        classes: weights of samples with and without target in the weighted mean.
    """

    def __init__(self, weight: float = 0.1, classes: tuple[float, float] = (0.9, 1.1)) -> None:
        self.weight, self.classes = weight, classes

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted term over annotated frames.

        Raises:
            ValueError: the network has no such head.
        """
        logits = getattr(prediction, "target_logits", None)
        if logits is None:
            raise ValueError("objective NoTarget: the network has no no-target head; set network.no_target true")
        none = ~batch.targets.masks.flatten(2).any(2).flatten()
        weights = logits.new_tensor(self.classes, dtype=torch.float32)[none.long()] * batch.targets.annotated.flatten()
        loss = F.cross_entropy(logits.float(), none.long(), reduction="none") * weights
        return {"no_target": self.weight * loss.sum() / weights.sum().clamp(min=1e-6)}


class Instances(NamedTuple):
    """Targets of the matching, sorted by the pair (item, frame) they belong to.

    Attributes:
        masks: of every target, covering the picture.
        counts: targets of every pair.
        start: index of each pair's first target.
    """

    masks: Float[Tensor, "targets 1 height width"]
    counts: list[int]
    start: Int[Tensor, "pairs"]


class QueryMatching(Objective):
    """Every output of the query module: matched queries draw the targets and are named by the sentence.

    Terms, summed over outputs: `query_class` (CLIP columns), `query_sentence`, `query_mask`, `query_dice`.

    Args:
        clip: weight of the cross-entropy over sentence and category columns.
        sentence: weight of the cross-entropy with the text encoder's sentences.
        mask: weight of the cross-entropy of masks.
        dice: weight of their dice.
        background: weight of unmatched queries in the CLIP term.
        points: at which masks are compared.
        oversample: candidates per point among which the least certain are kept.
        importance: share of the points taken among these.
        ignore: columns of other samples that are no negatives: of the `same_target` (the same objects of the same
            frame), or, in the sentence term alone, of the `same_category` (as released for RefCOCO).
    """

    def __init__(
        self,
        clip: float = 2.0,
        sentence: float = 1.0,
        mask: float = 5.0,
        dice: float = 5.0,
        background: float = 0.1,
        points: int = 12544,
        oversample: float = 3.0,
        importance: Share = 0.75,
        ignore: Ignore = "same_target",
    ) -> None:
        self.clip, self.sentence, self.mask, self.dice, self.background = clip, sentence, mask, dice, background
        self.points, self.oversample, self.importance, self.ignore = points, oversample, importance, ignore
        self.draw: Draw = torch.rand

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms.

        Raises:
            ValueError: the network asked no queries.
        """
        outputs = getattr(prediction, "outputs", None)
        if not outputs:
            raise ValueError("objective QueryMatching: the network asked no queries; it does so in training")
        targets = instances(batch.targets, batch.clip.meta)
        known, column = batch.targets.annotated.flatten(), prediction.column
        counts = [count if used else 0 for count, used in zip(targets.counts, known.tolist(), strict=True)]
        targets = targets._replace(counts=counts)
        number = object_count(float(sum(counts)), column.device)
        same = self._ignored(batch, outputs[-1].sentence_logits.shape[-1])
        sums = dict.fromkeys(("query_class", "query_sentence", "query_mask", "query_dice"), 0.0)
        for output in (outputs[-1], *outputs[:-1]):  # the last first, as released: the order of random numbers
            matches = match(self.costs(output, column, targets), counts)
            mask, dice = self.mask_terms(output, matches, targets)
            sums["query_class"] += self.clip * self.class_term(output, column, matches, same, known)
            sums["query_sentence"] += self.sentence * self.sentence_term(output, column, matches, same, known)
            sums["query_mask"] += self.mask * mask / number
            sums["query_dice"] += self.dice * dice / number
        return sums

    @torch.no_grad()
    def costs(
        self, output: QueryOutput, column: Int[Tensor, "pairs"], targets: Instances
    ) -> Float[Tensor, "pairs queries targets"]:
        """Weighted costs; targets of a pair come first, what follows pads."""
        cross, dice = self.mask_costs(output, targets)
        own = column[:, None, None].expand(-1, output.clip_logits.shape[1], 1)
        clip = -output.clip_logits.float().softmax(-1).gather(2, own)
        sentence = -output.sentence_logits.float().sigmoid().gather(2, own)
        return self.clip * clip + self.sentence * sentence + self.mask * cross + self.dice * dice

    @torch.no_grad()
    def mask_costs(
        self, output: QueryOutput, targets: Instances
    ) -> tuple[Float[Tensor, "pairs queries targets"], Float[Tensor, "pairs queries targets"]]:
        """Cross-entropy and dice at points that all queries of a pair share."""
        pairs, most = len(targets.counts), max((*targets.counts, 1))
        device = output.masks.device
        where = torch.cat([self.draw(1, self.points, 2, device=device) for _ in range(pairs)])
        truth = torch.zeros(pairs, most, self.points, device=device)
        for pair, count in enumerate(targets.counts):
            if count:
                first = int(targets.start[pair])
                masks = targets.masks[first : first + count].transpose(0, 1)
                truth[pair, :count] = at_points(masks, where[pair : pair + 1])[0]
        logits = at_points(output.masks[output.image].float(), where)
        return point_costs(logits, truth)

    def mask_terms(
        self, output: QueryOutput, matches: Matches, targets: Instances
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropy and dice summed over matched queries, at the points of least certainty."""
        if not len(matches.row):
            zero = output.masks.sum() * 0.0
            return zero, zero
        logits = output.masks[output.image[matches.row], matches.query].float()
        truth = targets.masks[targets.start[matches.row] + matches.target]
        where = uncertain_points(logits, self.points, self.oversample, self.importance, self.draw)
        logits, truth = at_points(logits[:, None], where)[:, 0], at_points(truth, where)[:, 0]
        cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
        return cross, dice_loss(logits, truth).sum()

    def class_term(
        self,
        output: QueryOutput,
        column: Int[Tensor, "pairs"],
        matches: Matches,
        same: Bool[Tensor, "pairs sentences"],
        known: Bool[Tensor, "pairs"],
    ) -> Float[Tensor, ""]:
        """Matched queries are their sentence, all others "background"; the categories between are negatives."""
        logits = output.clip_logits.float()
        if self.ignore == "same_target":
            same = F.pad(same, (0, logits.shape[-1] - same.shape[-1]))
            logits = logits.masked_fill(same[:, None], -1e4)
        wanted = torch.full(logits.shape[:2], logits.shape[-1] - 1, device=logits.device)
        wanted[matches.row, matches.query] = column[matches.row]
        weights = torch.full(logits.shape[:2], self.background, device=logits.device)
        weights[matches.row, matches.query] = 1.0
        weights = weights * known[:, None]
        loss = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        return (loss * weights).sum() / weights.sum().clamp(min=1e-6)

    def sentence_term(
        self,
        output: QueryOutput,
        column: Int[Tensor, "pairs"],
        matches: Matches,
        same: Bool[Tensor, "pairs sentences"],
        known: Bool[Tensor, "pairs"],
    ) -> Float[Tensor, ""]:
        """1 for a matched query and its own sentence, else 0; the plain mean, ignored columns in the denominator."""
        logits = output.sentence_logits.float()
        wanted = torch.zeros_like(logits)
        wanted[matches.row, matches.query, column[matches.row]] = 1.0
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if self.ignore != "none":
            loss = loss.masked_fill(same[:, None], 0.0)
        return (loss * known[:, None, None]).sum() / (known.sum().clamp(min=1) * logits[0].numel())

    def _ignored(self, batch: Batch, sentences: int) -> Bool[Tensor, "pairs sentences"]:
        """Columns of other samples, of all processes, that mean the same."""
        meta, time, device = batch.clip.meta, batch.clip.time, batch.targets.masks.device
        if self.ignore == "same_category":
            everyone, first = gathered([_labels(m) for m in meta])
            same = [[_agree(_labels(m), other) for other in everyone] for m in meta]
        else:
            everyone, first = gathered([_target(m) for m in meta])
            same = [[_target(m) == other is not None for other in everyone] for m in meta]
        result = torch.tensor(same, device=device).view(len(meta), sentences)
        own = torch.arange(len(meta), device=device)
        result[own, own + first] = False
        return result.repeat_interleave(time, 0)


def instances(targets: Targets, meta: list[ClipMeta]) -> Instances:
    """What queries are matched with: every object of a sentence, or, where readers give unions only, the union."""
    items, time = targets.masks.shape[:2]
    if targets.instances is None:
        masks, owner = targets.masks, torch.arange(items, device=targets.masks.device)
    else:
        masks, owner = targets.instances, targets.instance_item
    pair = (owner[:, None] * time + torch.arange(time, device=owner.device)).flatten()
    masks = masks.flatten(0, 1)
    there = masks.flatten(1).any(1)
    masks, pair = masks[there], pair[there]
    order = pair.argsort(stable=True)
    counts = torch.bincount(pair, minlength=items * time)
    return Instances(_of_picture(masks[order], pair[order] // time, meta), counts.tolist(), counts.cumsum(0) - counts)


def _of_picture(
    masks: Bool[Tensor, "targets h w"], item: Int[Tensor, "targets"], meta: list[ClipMeta]
) -> Float[Tensor, "targets 1 h w"]:
    """Masks stretched so that the picture, not the padding around it, fills the map: points are relative to it."""
    full = tuple(masks.shape[-2:])
    masks = masks[:, None].float()
    if all(tuple(m.size) == full for m in meta):
        return masks
    stretched = [
        F.interpolate(mask[None, :, : meta[i].size[0], : meta[i].size[1]], full, mode="nearest")
        for mask, i in zip(masks, item.tolist(), strict=True)
    ]
    return torch.cat(stretched) if stretched else masks


def _target(meta: ClipMeta) -> str | None:
    """Equal for sentences about the same objects of the same picture; None for those without target."""
    if not meta.objects:
        return None
    return f"{meta.source}/{meta.video}/{meta.positions}/{sorted(map(str, meta.objects))}"


def _labels(meta: ClipMeta) -> list[str]:
    return meta.facts.category.split(", ") if meta.facts.category else []


def _agree(a: list[str], b: list[str]) -> bool:
    """Equal at some position, the shorter list filled up with its first label."""
    longest = max(len(a), len(b))
    if not a or not b:
        return False
    a, b = (x + x[:1] * (longest - len(x)) for x in (a, b))
    return any(x == y for x, y in zip(a, b, strict=True))


def gathered(values: list) -> tuple[list, int]:
    """The values of every process in order of rank, and where this one's begin."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values, 0
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, values)
    return [v for part in everyone for v in part], sum(len(part) for part in everyone[: dist.get_rank()])


__all__ = ["BridgePrediction", "DecoderMasks", "NoTarget", "QueryMatching"]
