"""Clips of different sizes and numbers of items become one `Batch`."""

import itertools
from dataclasses import replace

import torch

from rvos_lightning.core.types import Batch, Clip, ClipMeta, Targets
from rvos_lightning.data.clips.sample import ClipSample
from rvos_lightning.data.clips.users import UserFactory, one_seed
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.frames import pad_to


def check_expressions(expressions: list[str | None], meta: list[ClipMeta], has_user: bool) -> list[str] | None:
    """The expressions as a `Clip` carries them.

    Raises:
        DataError: an expression is missing or empty; names data set, video and item.
    """
    if has_user and all(text is None for text in expressions):
        return None
    for text, item in zip(expressions, meta, strict=True):
        if text is None or not text.strip():
            what = "has no expression" if text is None else "has an empty expression"
            hint = "give data.simulate_user to prompt objects instead" if text is None else "correct or remove it"
            raise DataError(f"{item.source or 'data'}: item {item.item!r} of video {item.video!r} {what}: {hint}")
    return [text for text in expressions if text is not None]


class Collate:
    """Stacks training clips into a batch, padding frames and masks right and bottom with zeros.

    Pictures stay uint8, a fourth of the bytes on their way from a worker to the device; see `Clip.floating`.

    Args:
        user: makes a simulated user for every batch.
    """

    def __init__(self, user: UserFactory | None = None) -> None:
        self.user = user

    def __call__(self, samples: list[ClipSample]) -> Batch:
        """One video a sample; items of all samples follow each other on the batch axis."""
        samples = self._equal_length(samples)
        size = tuple(max(s.frames.shape[axis] for s in samples) for axis in (-2, -1))
        frames = torch.stack([pad_to(s.frames, size) for s in samples])
        masks = torch.cat([pad_to(s.masks, size) for s in samples])
        targets = Targets(masks, torch.cat([s.annotated for s in samples]), **_instances(samples, size))
        meta = [m for s in samples for m in s.meta]
        video = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor([len(s.meta) for s in samples]))
        texts = check_expressions([e for s in samples for e in s.expressions], meta, self.user is not None)
        user = None
        if self.user is not None:
            user = self.user(targets, meta, one_seed(samples[0].seed), one_seed(samples[0].batch_seed))
        context, where = None, None
        if samples[0].context is not None:
            context = torch.stack([pad_to(s.context, size) for s in samples])
            where = tuple(s.context_positions for s in samples)
        return Batch(Clip(frames, video, texts, meta, user, context, context_positions=where), targets)

    @staticmethod
    def _equal_length(samples: list[ClipSample]) -> list[ClipSample]:
        """Rules that return fewer frames for short videos: repeat the last frame, not annotated."""
        longest = max(len(s.frames) for s in samples)
        for s in samples:
            missing = longest - len(s.frames)
            if missing:
                s.frames = torch.cat([s.frames, s.frames[-1:].expand(missing, -1, -1, -1)])
                s.masks = torch.cat([s.masks, s.masks[:, -1:].expand(-1, missing, -1, -1)], 1)
                if s.instances is not None:
                    last = s.instances[:, -1:].expand(-1, missing, -1, -1)
                    s.instances = torch.cat([s.instances, last], 1)
                s.annotated = torch.cat([s.annotated, s.annotated.new_zeros(len(s.annotated), missing)], 1)
                s.meta = [
                    replace(
                        m, frames=m.frames + m.frames[-1:] * missing, positions=m.positions + m.positions[-1:] * missing
                    )
                    for m in s.meta
                ]
        return samples


def _instances(samples: list[ClipSample], size: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Single objects of all samples and the batch's items they belong to, where every sample has them."""
    if any(s.instances is None for s in samples):
        return {}
    first = [0, *itertools.accumulate(len(s.meta) for s in samples)]
    owner = [start + item for start, s in zip(first, samples, strict=False) for item in s.instance_item]
    masks = torch.cat([pad_to(s.instances, size) for s in samples])
    return {"instances": masks, "instance_item": torch.tensor(owner, dtype=torch.long)}
