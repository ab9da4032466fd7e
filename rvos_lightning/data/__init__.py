"""Data sets: readers of layouts on disk, clip sampling, batching. Names are imported on first use."""

from importlib import import_module
from typing import Any

_HOMES = {
    "A2DSentences": "readers.a2d",
    "AroundReference": "clips.sampling",
    "Centred": "clips.sampling",
    "ClipSampling": "clips.sampling",
    "ClipWithMasks": "readers.clip_with_masks",
    "Contiguous": "clips.sampling",
    "DAVIS": "readers.davis",
    "ESD": "readers.esd",
    "GRefCOCO": "readers.grefcoco",
    "JHMDBSentences": "readers.jhmdb",
    "LVOS": "readers.lvos",
    "LVVIS": "readers.lvvis",
    "Local": "clips.sampling",
    "LocalGlobal": "clips.sampling",
    "LongRVOS": "readers.long_rvos",
    "MOSE": "readers.mose",
    "MeViS": "readers.mevis",
    "Mixture": "mixture",
    "MovingShapes": "shapes.moving_shapes",
    "OwnVideos": "readers.own",
    "PUMaVOS": "readers.pumavos",
    "RandomDistinct": "clips.sampling",
    "ReVOS": "readers.revos",
    "RefCOCO": "readers.refcoco",
    "RefDAVIS": "readers.ref_davis",
    "RefSAV": "readers.ref_sav",
    "RefYouTubeVOS": "readers.ref_youtube_vos",
    "RefZOM": "readers.ref_zom",
    "Reverse": "clips.sampling",
    "SA1B": "readers.sa1b",
    "SAV": "readers.sav",
    "SimulatedUser": "clips.simulated_user",
    "Uniform": "clips.sampling",
    "UniformWithOffset": "clips.sampling",
    "VideoData": "video_data",
    "VideoFiles": "sources.video_files",
    "YoURVOS": "readers.yourvos",
    "YouTubeVOS": "readers.youtube_vos",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
