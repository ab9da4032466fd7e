"""Lightning callbacks of rvos_lightning: losses (`Objective`), sinks of masks, and what watches a run.

Names are imported when first asked for, so that one system's callback never loads another's libraries.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "AttributeClasses": "foundations",
    "BestCheckpoint": "checkpoint",
    "CMESupervision": "cme",
    "Curves": "curves",
    "DecoderMasks": "bridge",
    "DiceFocal": "masks",
    "FilmStrip": "film_strip",
    "HiddenWords": "foundations",
    "LastCheckpoint": "checkpoint",
    "Leakage": "leakage",
    "Looks": "foundations",
    "MaskWriter": "mask_writer",
    "NextToken": "language",
    "NoTarget": "bridge",
    "Overlay": "overlay",
    "Places": "foundations",
    "PointMasks": "point_masks",
    "Presence": "masks",
    "Progress": "progress",
    "QueryMatching": "bridge",
    "Scores": "scores",
    "StartTable": "start_table",
    "Requeue": "requeue",
    "SetMatching": "matching",
    "StructureLoss": "structure",
    "StuckRank": "stuck_rank",
    "Throughput": "throughput",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"callbacks has no {name!r}; it has {', '.join(_WHERE)}")
    return getattr(import_module(f"callbacks.{_WHERE[name]}"), name)
