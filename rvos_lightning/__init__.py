"""Language-guided and promptable video segmentation.

    model = rvos_lightning.load("runs/samwise/fit/0")
    for window in model.segment("x.mp4", ["the brown horse"]):
        window.masks  # bool [items, frames, height, width]

Names are imported when they are first asked for, so that importing the package stays light.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Clip": "core.types",
    "Masks": "run.model",
    "Model": "run.model",
    "Stream": "run.model",
    "j_and_f": "metrics",
    "load": "run.model",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The names offered, for completion."""
    return sorted([*globals(), *_HOMES])
