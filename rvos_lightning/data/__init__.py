"""Data sets: readers of layouts on disk, clip sampling, batching. Names are imported on first use."""

from importlib import import_module
from typing import Any

_HOMES = {
    "A2DSentences": "a2d",
    "AroundReference": "sampling",
    "ClipSampling": "sampling",
    "ClipWithMasks": "clip_with_masks",
    "Contiguous": "sampling",
    "DAVIS": "vos",
    "ESD": "esd",
    "GRefCOCO": "grefcoco",
    "JHMDBSentences": "jhmdb",
    "LVVIS": "lvvis",
    "Local": "sampling",
    "LocalGlobal": "sampling",
    "MOSE": "vos",
    "MeViS": "mevis",
    "Mixture": "mixture",
    "MovingShapes": "moving_shapes",
    "PUMaVOS": "vos",
    "RandomDistinct": "sampling",
    "ReVOS": "revos",
    "RefCOCO": "refcoco",
    "RefDAVIS": "ref_davis",
    "RefYouTubeVOS": "ref_youtube_vos",
    "RefZOM": "ref_zom",
    "Reverse": "sampling",
    "SA1B": "sa1b",
    "SAV": "sav",
    "SimulatedUser": "simulated_user",
    "Uniform": "sampling",
    "UniformWithOffset": "sampling",
    "VideoDataModule": "module",
    "VideoFiles": "video_files",
    "YouTubeVOS": "vos",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
