"""Metrics of masks: `j_and_f(prediction, truth)` of plain arrays, and one class a protocol, which
`torch_metric.TorchMetric` makes a torchmetrics metric.

Names are imported when first asked for, so that `--help` stays quick.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "A2D": "images",
    "DAVISSemi": "objects",
    "DAVISUnsupervised": "assigned",
    "GRefCOCO": "images",
    "JAndF": "expressions",
    "LVOS": "objects",
    "LongRVOS": "expressions",
    "MOSEv2": "mose",
    "MeViS": "expressions",
    "RefCOCO": "images",
    "RefDAVISA": "assigned",
    "RefDAVISB": "expressions",
    "RefYouTubeVOS": "expressions",
    "RefZOM": "images",
    "ReVOS": "revos",
    "SAV": "objects",
    "YoURVOS": "expressions",
    "YouTubeVOS": "objects",
    "j_and_f": "region_boundary",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"rvos_lightning.metrics has no {name!r}; it has {', '.join(_WHERE)}")
    return getattr(import_module(f"rvos_lightning.metrics.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_WHERE)
