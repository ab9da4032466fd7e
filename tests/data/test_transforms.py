"""Sizes, and augmentations that keep frames, masks and words together."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from rvos_lightning.core.types import ClipMeta
from rvos_lightning.data.clips.pseudo_video import PseudoVideo
from rvos_lightning.data.clips.resizing import fit_size, resize_frames, resize_masks
from rvos_lightning.data.clips.sample import Augmentation, ClipSample
from rvos_lightning.data.clips.transforms import (
    Affine,
    ColourJitter,
    Greyscale,
    HorizontalFlip,
    MultiScale,
    PhotometricDistortion,
    RandomCrop,
    mirror_words,
)


def clip(*texts: str | None, time: int = 3, still: bool = False) -> ClipSample:
    """A white rectangle on coloured noise, lower left of the middle; mask = rectangle."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 120, (1 if still else time, 3, 40, 60), generator=generator, dtype=torch.uint8)
    frames = frames.expand(time, -1, -1, -1).clone()
    masks = torch.zeros(max(len(texts), 1), time, 40, 60, dtype=torch.bool)
    masks[:, :, 22:32, 12:26] = True
    frames[:, :, 22:32, 12:26] = 255
    positions = (0,) * time if still else tuple(range(time))
    meta = [ClipMeta("v", str(i), ("f",) * time, (40, 60), (40, 60), positions) for i in range(len(masks))]
    return ClipSample(frames, masks, torch.ones(len(masks), time, dtype=torch.bool), list(texts) or [None], meta)


ALL = [
    HorizontalFlip(1.0),
    ColourJitter(0.4, 0.4, 0.4, 0.1),
    ColourJitter(per_frame=True),
    Greyscale(1.0),
    PhotometricDistortion(),
    Affine(translate=0.1),
    MultiScale([20, 30], 60),
    RandomCrop(20, 36, 1.0),
    PseudoVideo(),
]


@pytest.mark.parametrize("augment", ALL, ids=lambda a: type(a).__name__)
def test_changes_follow_from_the_generator_and_keep_masks_on_objects(augment: Augmentation) -> None:
    still = isinstance(augment, PseudoVideo)
    for seed in range(8):
        first = augment(clip("the thing", still=still), np.random.default_rng(seed))
        torch.manual_seed(seed)  # the global generator must not matter
        second = augment(clip("the thing", still=still), np.random.default_rng(seed))
        assert torch.equal(first.frames, second.frames) and torch.equal(first.masks, second.masks)
        assert first.frames.dtype == torch.uint8 and first.masks.dtype == torch.bool
        assert first.frames.shape[-2:] == first.masks.shape[-2:]
        if isinstance(augment, MultiScale | RandomCrop):
            assert first.meta[0].size == tuple(first.frames.shape[-2:])
        shown, light = first.masks[0], first.frames.float().mean(1)
        if shown.sum() > 60:
            assert light[shown].mean() > light[~shown].mean() + 60


def test_a_flip_swaps_whole_words() -> None:
    assert mirror_words("the bright cat LEFT of the right-hand dog, Leftmost one") == (
        "the bright cat RIGHT of the left-hand dog, Rightmost one"
    )
    sample = HorizontalFlip(1.0)(clip("the cat on the left", None), np.random.default_rng(0))
    assert sample.expressions == ["the cat on the right", None]
    assert torch.equal(sample.masks, clip("a", "b").masks.flip(-1))


def test_a_flip_is_not_done_where_words_would_be_wrong() -> None:
    for augment, text in ((HorizontalFlip(1.0, False), "the left cat"), (HorizontalFlip(1.0), "turning clockwise")):
        sample = augment(clip(text), np.random.default_rng(0))
        assert sample.expressions == [text] and torch.equal(sample.frames, clip(text).frames)


@pytest.mark.parametrize("augment", [ColourJitter(0, 0, 0, 0.5), Greyscale(1.0)], ids=["hue", "grey"])
def test_colour_words_keep_their_colours(augment: Augmentation) -> None:
    named, free = clip("the red cat"), clip("the cat")
    assert torch.equal(augment(named, np.random.default_rng(1)).frames, named.frames)
    assert not torch.equal(augment(free, np.random.default_rng(1)).frames, free.frames)


def test_pseudo_video_keeps_one_frame_and_moves_the_others() -> None:
    sample = PseudoVideo(brightness=0, hue=0, blur=0)(clip("it", time=5, still=True), np.random.default_rng(3))
    same = [torch.equal(frame, clip("it", still=True).frames[0]) for frame in sample.frames]
    assert sum(same) == 1
    real = clip("it", time=5)
    assert PseudoVideo()(real, np.random.default_rng(0)) is real


def test_sizes() -> None:
    assert fit_size((480, 854), (384, 384), "letterbox") == (216, 384)
    assert fit_size((480, 854), (384, 384), "squash") == (384, 384)
    assert fit_size((480, 854), (360, 640), "short_side") == (360, 640)
    assert fit_size((480, 480), (1020, 1024), "short_side") == (1020, 1020)


def test_masks_are_resized_about_the_middle() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 16:48, 8:40] = True
    small = resize_masks(mask, (16, 16))
    assert small[0].nonzero().min(0).values.tolist() == [4, 2] and small.sum() == 64


@pytest.mark.parametrize("lead", [(1,), (4,), (2, 5), (0,)])
def test_masks_resized_together_equal_masks_resized_one_by_one(lead) -> None:
    masks = torch.rand(*lead, 37, 53, generator=torch.Generator().manual_seed(1)) > 0.6
    for size in ((37, 53), (64, 40), (19, 91)):
        together, grey = resize_masks(masks, size), masks.reshape(-1, 1, 37, 53).to(torch.uint8) * 255
        alone = [functional.resize(each, list(size), antialias=True) > 127 for each in grey]
        assert together.shape == (*lead, *size)
        assert all(torch.equal(ours, truth[0]) for ours, truth in zip(together.reshape(-1, *size), alone, strict=True))


def test_frames_resized_as_decoders_write_them_equal_contiguous_ones() -> None:
    frames = torch.randint(0, 256, (3, 3, 37, 53), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for size in ((37, 53), (64, 40), (19, 91)):
        resized = resize_frames(frames.contiguous(memory_format=torch.channels_last), size)
        assert torch.equal(resized, functional.resize(frames, list(size), antialias=True)) and resized.is_contiguous()
