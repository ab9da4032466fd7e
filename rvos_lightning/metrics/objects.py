"""J&F averaged over objects: DAVIS-2017 semi-supervised, SA-V (and vos-benchmark), YouTube-VOS."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from rvos_lightning.metrics.region_boundary import mean_recall_decay
from rvos_lightning.metrics.rows import FrameRows, Unit, mean

STATISTICS = ("", "_recall", "_decay")


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
        parts = {}
        for name, seen in (("seen", True), ("unseen", False)):
            own = [unit for unit in units if unit.facts.seen is seen]
            parts |= {f"j_{name}": mean(mean(u.j) for u in own), f"f_{name}": mean(mean(u.f) for u in own)}
        return {**super().score(units), "g": mean(parts.values()), **parts}


def grouped(units: list[Unit], key: Any) -> Iterable[list[Unit]]:
    """Units that share a key, in order of first appearance."""
    groups: dict[Any, list[Unit]] = defaultdict(list)
    for unit in units:
        groups[key(unit)].append(unit)
    return groups.values()


def _label(unit: Unit) -> int:
    label = unit.item if unit.facts.object is None else str(unit.facts.object)
    return int(label) if label.isdecimal() else 0


def frames_of(unit: Unit, keep: np.ndarray) -> Unit:
    """The unit with some of its frames only."""
    cut = {name: getattr(unit, name)[keep] for name in ("frames", "counts", "j", "f", "scores")}
    return replace(unit, **cut)
