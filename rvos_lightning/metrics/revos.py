"""ReVOS: J, F, accuracy A and robustness R per question type, rounded early and averaged late."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from rvos_lightning.core.types import SegmentedWindow, Targets
from rvos_lightning.metrics.region_boundary import COUNTS
from rvos_lightning.metrics.rows import FrameRows, Unit, mean, pick

KINDS = ("referring", "reasoning")
EXTRA = ("pixels", "equal", "false_positive", "foreground")


class ReVOS(FrameRows):
    """ReVOS as VISA's tool averages: percent rounded to two decimals per expression, mean over the expressions of a
    type, overall = mean of referring and reasoning (not of all expressions).

    The type is `Facts.kind`, "referring" or "reasoning"; others enter no mean. R measures false positives against
    `Targets.foreground`; without that it is left out.
    Scores: `j`, `f`, `j_and_f`, `a`, `r` overall, and `<score>/referring`, `<score>/reasoning`.

    Args:
        arithmetic: "boolean" masks, or the official unsigned 8-bit sums, in which overlapping annotations
            (`Targets.multiplicity`) wrap round in A and R; J and F are the same.
        mask_value: value of foreground in the predicted PNGs; 255 spoils A and R in the 8-bit arithmetic.
    """

    columns = COUNTS + EXTRA

    def __init__(self, arithmetic: Literal["boolean", "uint8"] = "boolean", mask_value: int = 1) -> None:
        super().__init__()
        self.arithmetic, self.mask_value = arithmetic, mask_value
        self.rule = (
            "ReVOS: per expression rounded to 0.01 %, mean per type, overall = mean of referring and reasoning; "
            f"R with {arithmetic} masks"
        )

    def _count(self, window: SegmentedWindow, targets: Targets) -> Int64[Tensor, "frames columns"]:
        counts, masks, chosen = super()._count(window, targets), window.masks, targets.annotated
        foreground, times = targets.foreground, targets.multiplicity
        area = torch.full_like(counts[:, 0], -1) if foreground is None else pick(foreground, chosen).sum((-2, -1))
        pixels = torch.full_like(area, masks.shape[-2] * masks.shape[-1])
        equal, wrong = pixels - (counts[:, 1] - counts[:, 0]), counts[:, 7] - counts[:, 0]
        if self.arithmetic == "uint8":
            truth = pick(targets.masks if times is None else times, chosen).to(torch.uint8)
            predicted = pick(masks, chosen).to(torch.uint8) * self.mask_value
            equal, wrong = (truth == predicted).sum((-2, -1)), ((1 - truth) * predicted).sum((-2, -1))
        return torch.cat([counts, torch.stack([pixels, equal, wrong, area], dim=1)], dim=1)

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Overall scores, or those of one type where only one is there."""
        groups = [[percent(unit) for unit in units if kind_of(unit) == kind] for kind in KINDS]
        means = [{name: mean(row[name] for row in rows) for name in rows[0]} for rows in groups if rows]
        names = [name for name in ("j_and_f", "j", "f", "a", "r") if all(name in own for own in means)]
        return {name: mean(own[name] for own in means) / 100 for name in names} if means else {"j_and_f": float("nan")}

    def scored(self, units: list[Unit]) -> list[Unit]:
        """Names the type as a subset; expressions without object stay in the table only."""
        from dataclasses import replace

        return [replace(unit, subsets=tuple(sorted({*unit.subsets, kind_of(unit)} - {""}))) for unit in units]

    def row(self, unit: Unit) -> dict[str, Any]:
        """J, F, A and R as fractions, unrounded."""
        a, r = accuracy_robustness(unit)
        return {**super().row(unit), "a": a, "r": r, "type": kind_of(unit)}


def kind_of(unit: Unit) -> str:
    """ "referring", "reasoning", "no_target", or "" where nothing says so."""
    return "no_target" if unit.no_target else unit.facts.kind or ""


def percent(unit: Unit) -> dict[str, float]:
    """An expression's scores in percent, rounded to two decimals as NumPy does (x 100, half to even)."""
    j, f = np.float64(mean(unit.j)), np.float64(mean(unit.f))
    a, r = accuracy_robustness(unit)
    values = {"j": j, "f": f, "a": a, "r": r}
    rounded = {name: float(np.round(np.float64(v) * 100, 2)) for name, v in values.items() if not np.isnan(v)}
    return {"j_and_f": (rounded["j"] + rounded["f"]) / 2, **rounded}


def accuracy_robustness(unit: Unit) -> tuple[float, float]:
    """A = share of equal pixels; R = max(0, 1 - false positives / foreground) with 1e-6 in the denominator."""
    pixels, equal, wrong, foreground = (unit.counts[:, len(COUNTS) + i].astype(np.float64) for i in range(len(EXTRA)))
    accuracy = mean(equal / pixels)
    if (foreground < 0).any():
        return accuracy, float("nan")
    return accuracy, mean(np.maximum(0.0, 1.0 - wrong / (foreground + 1e-6)))
