"""A long video through a network, window by window, in bounded memory."""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Batch, Clip, Prediction, SegmentedWindow, Targets
from rvos_lightning.parts.layers.resize import resize_logits


def segment_video(network: Network, batch: Batch, window: int) -> Iterator[SegmentedWindow]:
    """Segment every item of a video (or of several videos of one length and size) in consecutive windows.

    Only one window's frames are held at a time: `batch.clip.frames` and `batch.targets.masks` may be lazy.

    Args:
        network: called once per window with the previous window's state.
        batch: the video's clip and, where known, its targets at their own size.
        window: frames per call; the last window may be shorter.

    Yields:
        One `SegmentedWindow` per window, in order.

    Raises:
        ValueError: window below 1.
    """
    if window < 1:
        raise ValueError(f"model.window is {window}; give at least 1 frame per window")
    state = None
    for start in range(0, batch.clip.time, window):
        stop = min(start + window, batch.clip.time)
        clip = batch.clip.window(start, stop).floating(precision_of(network))
        targets = None if batch.targets is None else batch.targets.window(start, stop)
        prediction = network(clip, state)
        state = prediction.state
        yield segmented(prediction, clip, targets)


def precision_of(network: nn.Module) -> torch.dtype:
    """What a network computes in: the type of its first floating-point parameter."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.get_default_dtype())


def segmented(prediction: Prediction, clip: Clip, targets: Targets | None) -> SegmentedWindow:
    """A network's answer as masks of the targets' size, or of the original video's where there are none."""
    logits = partial(at_target_size, prediction.mask_logits, clip, targets, prediction.covers)
    window = SegmentedWindow(logits() > 0, targets, clip.meta, clip, prediction, scores=prediction.scores)
    window.logits = logits
    if prediction.no_target_logits is not None:
        window.no_target = prediction.no_target_logits > 0
        if targets is None:  # who has the truth counts the head and the mask it drew apart
            window.masks &= ~window.no_target[:, None, None, None]
    if prediction.proposal_logits is not None:
        every = [
            at_target_size(logits, clip, targets, prediction.covers) > 0
            for logits in prediction.proposal_logits.unbind(2)
        ]
        window.proposals = torch.stack(every, dim=2)
    return window


def at_target_size(
    logits: Float[Tensor, "batch time h w"], clip: Clip, targets: Targets | None, covers: str = "frame"
) -> Float[Tensor, "batch time height width"]:
    """Logits, which cover the padded frame or the picture, at the targets' size or else at the original video's."""
    size = clip.meta[0].original_size if targets is None else tuple(targets.masks.shape[-2:])
    padded = tuple(clip.frames.shape[-2:]) if covers == "frame" else None
    sizes = [meta.size for meta in clip.meta]
    return resize_logits(logits, padded, sizes, size)


@torch.no_grad()
def segment(network: Network, clip: Clip, window: int = 8) -> Tensor:
    """All masks of a short clip at once: `[batch, time, height, width]`, True on the object."""
    return torch.cat([part.masks for part in segment_video(network, Batch(clip), window)], dim=1)
