"""J&F averaged over expressions: MeViS, Ref-YouTube-VOS, Ref-DAVIS17 protocol B, Long-RVOS, YoURVOS."""

from typing import Any

import numpy as np

from rvos_lightning.metrics.rows import FrameRows, Unit, frames_of, mean


class JAndF(FrameRows):
    """J, F and J&F: mean over the annotated frames of an expression (or object), then over expressions.

    Scores: `j`, `f`, `j_and_f` = (mean J + mean F) / 2. An expression counts once however long its video is.
    """

    rule = "mean over expressions of the mean over their annotated frames; J&F = (J + F) / 2"

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Means over units."""
        j, f = mean(mean(unit.j) for unit in units), mean(mean(unit.f) for unit in units)
        return {"j_and_f": (j + f) / 2, "j": j, "f": f}

    def row(self, unit: Unit) -> dict[str, Any]:
        """Adds the expression's J&F."""
        row = super().row(unit)
        return {**row, "j_and_f": (row["j"] + row["f"]) / 2}


class MeViS(JAndF):
    """MeViS valid_u as its own tool averages; distinct expression ids count, also where their text repeats.

    Args:
        no_target: "score" J and F of expressions without target as all others (MeViS v1), or leave them out of J and
            F and report `n_acc` and `t_acc` (MeViS v2): the share of no-target expressions whose masks are empty on
            every frame, and of the others with a mask on some frame. Items with `ClipMeta.no_target` are meant.
            Adds `final` = (J&F + N-acc + T-acc) / 3, NaN without both kinds: our reading of how the challenge ranks,
            from the numbers that its winners report (arXiv 2604.00404); its server does not publish the formula.
    """

    def __init__(self, no_target: str = "score") -> None:
        super().__init__()
        if no_target not in ("score", "accuracy"):
            raise ValueError(f"MeViS.no_target is {no_target!r}; choose score (v1) or accuracy (v2)")
        self.no_target = no_target
        if no_target == "accuracy":
            self.rule = (
                "MeViS v2: mean over expressions with targets; N-acc, T-acc of masks empty on all frames; "
                "final = mean of J&F, N-acc, T-acc, our reading of the challenge's ranking"
            )
        else:
            self.rule = "MeViS: " + JAndF.rule

    def score(self, units: list[Unit]) -> dict[str, float]:
        """J&F, with accuracies in v2."""
        if self.no_target == "score":
            return super().score(units)
        without = [unit for unit in units if unit.no_target]
        targets = [unit for unit in units if not unit.no_target]
        scores = super().score(targets)
        scores["n_acc"] = mean(not unit.seen_pred.any() for unit in without)
        scores["t_acc"] = mean(bool(unit.seen_pred.any()) for unit in targets)
        scores["final"] = mean(scores[name] for name in ("j_and_f", "n_acc", "t_acc"))
        return scores


class RefYouTubeVOS(JAndF):
    """Ref-YouTube-VOS with local truth; official numbers come from the server only."""

    rule = "Ref-YouTube-VOS (unofficial, local truth): " + JAndF.rule


class RefDAVISB(JAndF):
    """Ref-DAVIS17 as VISA and Sa2VA score it: every (object, annotator) expression alone.

    No void, no matching, overlaps stay; differs systematically from `RefDAVISA`.
    """

    rule = "Ref-DAVIS17 protocol B (flat; VISA, Sa2VA): mean over all object-annotator expressions, no matching"


class LongRVOS(JAndF):
    """Long-RVOS: J&F, and tIoU and vIoU on the frames where object or mask are visible.

    tIoU = |T_gt and T_pred| / |T_gt or T_pred|; vIoU = sum of J over frames visible in both / |T_gt or T_pred|; both
    are 1 where that union is empty. Expression types come as subsets (static, dynamic, hybrid).
    """

    rule = "Long-RVOS: mean over expressions; tIoU, vIoU over frames visible in truth or prediction"

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Adds `t_iou` and `v_iou`."""
        overlaps = np.array([_visible_overlap(unit) for unit in units]).reshape(-1, 2)
        return {**super().score(units), "t_iou": mean(overlaps[:, 0]), "v_iou": mean(overlaps[:, 1])}

    def row(self, unit: Unit) -> dict[str, Any]:
        """Adds both overlaps."""
        t_iou, v_iou = _visible_overlap(unit)
        return {**super().row(unit), "t_iou": t_iou, "v_iou": v_iou}


class YoURVOS(JAndF):
    """YoURVOS: J and F over frames on which truth or prediction shows anything, and tIoU of the annotated spans.

    Its program passes over frames that are empty on both sides, and leaves expressions out of J and F whose truth is
    never visible. tIoU = |spans and T_pred| / |spans or T_pred| of all expressions, 0 where that union is empty; spans
    are `Facts.spans`, and where those are not known the frames with truth.
    """

    rule = "YoURVOS: mean over expressions of the mean over frames visible in truth or prediction; tIoU by spans"

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Adds `t_iou`."""
        shown = [_where_visible(unit) for unit in units if unit.seen_gt.any()]
        return {**super().score(shown), "t_iou": mean(_span_overlap(unit) for unit in units)}

    def row(self, unit: Unit) -> dict[str, Any]:
        """Adds tIoU."""
        return {**super().row(_where_visible(unit)), "frames": len(unit.frames), "t_iou": _span_overlap(unit)}


def _where_visible(unit: Unit) -> Unit:
    return frames_of(unit, unit.seen_gt | unit.seen_pred)


def _span_overlap(unit: Unit) -> float:
    spans = unit.facts.spans
    inside = [(first <= unit.frames) & (unit.frames <= last) for first, last in spans or ()]
    said = unit.seen_gt if spans is None else np.any(inside, axis=0) if inside else np.zeros(len(unit.frames), bool)
    either = int((said | unit.seen_pred).sum())
    return float((said & unit.seen_pred).sum() / either) if either else 0.0


def _visible_overlap(unit: Unit) -> tuple[float, float]:
    both, either = unit.seen_gt & unit.seen_pred, int((unit.seen_gt | unit.seen_pred).sum())
    return (float(both.sum() / either), float(unit.j[both].sum() / either)) if either else (1.0, 1.0)
