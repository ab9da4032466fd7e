"""J&F averaged over objects: DAVIS-2017 semi-supervised, SA-V (and vos-benchmark), YouTube-VOS, LVOS."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rvos_lightning.metrics.region_boundary import mean_recall_decay
from rvos_lightning.metrics.rows import FrameRows, Unit, frames_of, mean

STATISTICS = ("", "_recall", "_decay")
KINDS = {"seen": True, "unseen": False}


class ObjectRows(FrameRows):
    """Means over objects of the mean, recall and decay over an object's frames."""

    def score(self, units: list[Unit]) -> dict[str, float]:
        """`j_and_f`, then `j`, `j_recall`, `j_decay` and the same of F."""
        j = np.array([mean_recall_decay(unit.j) for unit in units]).reshape(-1, 3)
        f = np.array([mean_recall_decay(unit.f) for unit in units]).reshape(-1, 3)
        scores = {f"j{name}": mean(j[:, i]) for i, name in enumerate(STATISTICS)}
        scores |= {f"f{name}": mean(f[:, i]) for i, name in enumerate(STATISTICS)}
        return {"j_and_f": (scores["j"] + scores["f"]) / 2, **scores}

    def row(self, unit: Unit) -> dict[str, Any]:
        """Adds the statistics of the object."""
        j, f = mean_recall_decay(unit.j), mean_recall_decay(unit.f)
        values = {f"j{name}": j[i] for i, name in enumerate(STATISTICS)}
        values |= {f"f{name}": f[i] for i, name in enumerate(STATISTICS)}
        return {**unit.names, "frames": len(unit.frames), **values, "j_and_f": (j[0] + f[0]) / 2}


class DAVISSemi(ObjectRows):
    """DAVIS-2017 semi-supervised: all frames but each sequence's first and last, mean over objects of all sequences.

    Objects are those up to the largest label of the first frame; the label is `Facts.object`, else the item's
    number. Void is not used. Decay is computed with 64-bit edges (the program breaks from 256 frames on).
    """

    id_maps = True
    rule = "DAVIS-2017 semi-supervised: mean over objects, first and last frame of a sequence left out"

    def scored(self, units: list[Unit]) -> list[Unit]:
        """Drops two frames a sequence, and objects beyond the first frame's largest label.

        Raises:
            ValueError: a sequence has no frame besides its first and last.
        """
        kept = []
        for own in grouped(units, lambda unit: (unit.source, unit.video)):
            first, last = min(u.frames[0] for u in own), max(u.frames[-1] for u in own)
            shown = [_label(u) for u in own if u.frames[0] == first and u.seen_gt[0]]
            for unit in own:
                if _label(unit) <= max(shown, default=0):
                    kept.append(frames_of(unit, (unit.frames > first) & (unit.frames < last)))
                    if not len(kept[-1].frames):
                        raise ValueError(f"{unit.video}: no frame between the first and the last: nothing to score")
        return kept


class SAV(ObjectRows):
    """SA-V and vos-benchmark: an object counts from its first sighting, in truth or prediction, on.

    Of the annotated frames the first and the last are dropped; objects never in the scored truth are left out.

    Args:
        skip_first_and_last: as the official tool's switch of that name.
    """

    def __init__(self, skip_first_and_last: bool = True) -> None:
        super().__init__()
        self.skip_first_and_last = skip_first_and_last
        which = "annotated frames but first and last" if skip_first_and_last else "all annotated frames"
        self.rule = f"SA-V: mean over objects of {which}, from the first sighting in truth or prediction on"

    def scored(self, units: list[Unit]) -> list[Unit]:
        """Drops frames before the first sighting."""
        kept = []
        for unit in units:
            inner = np.ones(len(unit.frames), bool)
            if self.skip_first_and_last:
                inner[[0, -1]] = False
            unit = frames_of(unit, inner)
            if unit.seen_gt.any():
                kept.append(frames_of(unit, np.logical_or.accumulate(unit.seen_gt | unit.seen_pred)))
        return kept


class YouTubeVOS(ObjectRows):
    """YouTube-VOS with local truth (official numbers are the server's): G = mean of J, F on seen and unseen categories.

    `Facts.seen` says whether the category is a training one, `Facts.frame` where the object is prompted; frames up to
    it are not scored. Adds `g`.
    """

    id_maps = True
    headline = "g"
    rule = "YouTube-VOS (unofficial, local truth): G = mean of J and F on seen and unseen categories, after the prompt"

    def scored(self, units: list[Unit]) -> list[Unit]:
        """Drops frames up to the prompt."""
        later = [frames_of(unit, unit.frames > (unit.facts.frame or 0)) for unit in units]
        return [unit for unit in later if len(unit.frames)]

    def score(self, units: list[Unit]) -> dict[str, float]:
        """Adds the four parts and their mean; NaN where a kind of category is missing."""
        parts = seen_and_unseen(units, {"j": lambda unit: mean(unit.j), "f": lambda unit: mean(unit.f)})
        return {**super().score(units), "g": mean(parts.values()), **parts}


class LVOS(FrameRows):
    """LVOS v1 and v2 semi-supervised: an object's annotated frames but its first and last, mean over objects.

    The first is the one that prompts it; annotated are those of its `frame_range`. J, F and the deviation V over time
    are the mean of seen and unseen videos (`Facts.seen`), as LVOS's program prints them.
    Scores: `j_and_f`, `j`, `f`, `v`, and each of the last three as `<score>_seen`, `<score>_unseen`.

    Args:
        unseen: videos are told apart; else the scores are plain means over objects, which the program does not print.
    """

    id_maps = True

    def __init__(self, unseen: bool = True) -> None:
        super().__init__()
        self.unseen = unseen
        over = "mean of seen and unseen videos" if unseen else "NOT OFFICIAL: no list of unseen videos, all as one"
        self.rule = f"LVOS: mean over objects without their first and last frame; {over}"

    def scored(self, units: list[Unit]) -> list[Unit]:
        """Drops two frames an object."""
        return [frames_of(unit, slice(1, -1)) for unit in units if len(unit.frames) > 2]

    def score(self, units: list[Unit]) -> dict[str, float]:
        """J, F and V of both kinds of videos, and their means."""
        of = {"j": lambda unit: mean(unit.j), "f": lambda unit: mean(unit.f), "v": deviation}
        if not self.unseen:
            scores = {name: mean(value(unit) for unit in units) for name, value in of.items()}
            return {"j_and_f": (scores["j"] + scores["f"]) / 2, **scores}
        parts = seen_and_unseen(units, of)
        scores = {name: (parts[f"{name}_seen"] + parts[f"{name}_unseen"]) / 2 for name in of}
        return {"j_and_f": (scores["j"] + scores["f"]) / 2, **scores, **parts}

    def row(self, unit: Unit) -> dict[str, Any]:
        """Adds J&F and the deviation."""
        row = super().row(unit)
        return {**row, "v": deviation(unit), "j_and_f": (row["j"] + row["f"]) / 2}


def deviation(unit: Unit) -> float:
    """Standard deviation over time of (J + F) / 2; the variance is rounded to four decimals first, as in LVOS."""
    return float(np.sqrt(np.round(np.var((unit.j + unit.f) / 2), 4)))


def seen_and_unseen(units: list[Unit], scores: dict[str, Callable[[Unit], float]]) -> dict[str, float]:
    """Means over the objects that training knows, and over the others; NaN where there is none."""
    kinds = {name: [unit for unit in units if unit.facts.seen is seen] for name, seen in KINDS.items()}
    return {f"{name}_{kind}": mean(map(of, own)) for kind, own in kinds.items() for name, of in scores.items()}


def grouped(units: list[Unit], key: Any) -> Iterable[list[Unit]]:
    """Units that share a key, in order of first appearance."""
    groups: dict[Any, list[Unit]] = defaultdict(list)
    for unit in units:
        groups[key(unit)].append(unit)
    return groups.values()


def _label(unit: Unit) -> int:
    label = unit.item if unit.facts.object is None else str(unit.facts.object)
    return int(label) if label.isdecimal() else 0
