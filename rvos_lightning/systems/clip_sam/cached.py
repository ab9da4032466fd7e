"""Both frozen encoders' features from a cache."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rvos_lightning.core.types import Clip
from rvos_lightning.parts.feature_cache import FeatureCache, FeatureWriter, file_digest, pixel_digest, state_digest
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.weights import located
from rvos_lightning.systems.clip_sam.bridge import ImageFeatures
from rvos_lightning.systems.clip_sam.presets import Preset
from rvos_lightning.systems.clip_sam.towers import ClipTower, VisionLanguage


def recipe(sam: Sam, tower: VisionLanguage, preset: Preset) -> dict[str, Any]:
    """Everything the features of an image depend on.

    Raises:
        ValueError: an encoder is trained, so that its features change.
    """
    if not isinstance(tower, ClipTower) or any(p.requires_grad for p in sam.encoder.parameters()):
        raise ValueError("a feature cache needs frozen image encoders: a ClipTower, and network.train_encoders false")
    return {
        "sam": sam.variant,
        "sam_side": sam.image_size,
        "sam_weights": _digest(sam.weights, sam.encoder),
        "clip": tower.name,
        "clip_side": tower.image_size,
        "clip_weights": _digest(tower.weights, tower.model.visual),
        "clip_final_norm": tower.final_norm,
        "clip_from_square": preset.clip_from_square,
        "resize": "squash, bilinear (SAM) and bicubic (CLIP), antialiased",
        "libraries": {name: version(name) for name in ("torch", "transformers", "open_clip_torch", "sam2", "timm")},
    }


def _digest(weights: Path | None, module: nn.Module) -> str:
    return state_digest(module) if weights is None else file_digest(located(weights))


def frames(clip: Clip) -> Iterator[tuple[str, int, int]]:
    """Name, video and time of every frame: the same picture of the same size has the same name in every split."""
    known = {int(video): meta for video, meta in zip(clip.video, clip.meta, strict=True)}
    for video, meta in sorted(known.items()):
        for time, name in enumerate(meta.frames):
            yield f"{meta.video}/{name}@{meta.size[0]}x{meta.size[1]}", video, time


def picture(clip: Clip, video: int, time: int) -> torch.Tensor:
    """A frame without padding."""
    meta = next(m for v, m in zip(clip.video.tolist(), clip.meta, strict=True) if v == video)
    return clip.frames[video, time, :, : meta.size[0], : meta.size[1]]


def write(writer: FeatureWriter, clip: Clip, features: ImageFeatures) -> int:
    """Keep the features of every frame that is not there yet; how many."""
    new = 0
    for name, video, time in frames(clip):
        if name not in writer:
            row = video * clip.time + time
            both = {"sam": features.sam[row], "clip": features.clip[row]}
            writer.add(name, pixel_digest(picture(clip, video, time)), both)
            new += 1
    return new


def read(cache: FeatureCache, clip: Clip) -> ImageFeatures:
    """The features of every frame, on the clip's device, in 32 bits.

    Raises:
        CacheError: see `FeatureCache.read`.
    """
    found = [cache.read(name, picture(clip, video, time)) for name, video, time in frames(clip)]
    sam, clip_ = (torch.stack([each[name] for each in found]) for name in ("sam", "clip"))
    device, kind = clip.frames.device, clip.frames.dtype
    return ImageFeatures(sam.to(device, kind, non_blocking=True), clip_.to(device, kind, non_blocking=True))
