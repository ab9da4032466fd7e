"""The ReferFormer line: scale or crop, plain words, clips around a sentence's own frame, drops by epochs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rvos_lightning.core.optim import EpochDrops
from rvos_lightning.core.types import ClipMeta, Facts
from rvos_lightning.data.clips.centred import CentredItems
from rvos_lightning.data.clips.resizing import fit_size
from rvos_lightning.data.clips.sample import ClipSample
from rvos_lightning.data.clips.sampling import Centred
from rvos_lightning.data.clips.scale_or_crop import PlainWords, ScaleOrCrop
from rvos_lightning.data.clips.transforms import PhotometricDistortion
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.video_data import VideoData


def sample(size=(360, 640), text="A  Man\twith a Hat") -> ClipSample:
    """A clip with one object in the middle."""
    masks = torch.zeros(1, 2, *size, dtype=torch.bool)
    masks[..., size[0] // 3 : size[0] // 2, size[1] // 3 : size[1] // 2] = True
    frames = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    meta = ClipMeta("v", "0", ("0", "1"), size, size, (0, 1))
    return ClipSample(frames, masks, torch.ones(1, 2, dtype=torch.bool), [text], [meta])


@pytest.mark.parametrize(("p", "cropped"), [(1.0, False), (0.0, True)])
def test_scale_or_crop_ends_within_its_bounds(p, cropped):
    change = ScaleOrCrop(p=p)
    ratios = set()
    for seed in range(20):
        found = change(sample(), np.random.default_rng(seed))
        height, width = found.frames.shape[-2:]
        assert found.meta[0].size == (height, width) == tuple(found.masks.shape[-2:])
        assert max(height, width) <= 640 and min(height, width) in range(200, 513)
        assert found.masks.any(), "a crop never loses the object"
        ratios.add(round(width / height, 1))
    assert (len(ratios) > 3) is cropped


def test_whole_pictures_may_have_other_sides():
    change = ScaleOrCrop(p=1.0, whole_sides=[480], whole_longest=800)
    assert tuple(change(sample(), np.random.default_rng(0)).frames.shape[-2:]) == (450, 800)
    assert fit_size((360, 640), (1, 1), "none") == (360, 640)


def test_plain_words():
    assert PlainWords()(sample(), np.random.default_rng(0)).expressions == ["a man with a hat"]


def test_milder_photometric_distortion_shifts_no_hue():
    grey = replace(sample(), frames=torch.full((1, 3, 8, 8), 100, dtype=torch.uint8))
    change = PhotometricDistortion(contrast=0.2, saturation=0.2, hue=0.0, channels=0.0)
    for seed in range(20):
        frames = change(grey, np.random.default_rng(seed)).frames
        assert frames.amax() == frames.amin() and 64 <= int(frames.amax()) <= 136, "grey stays grey, within 32 and 20 %"


class Numbers(Reader):
    """Frame i of 7 is grey level i; item k is about frame `frames[k]`, where alone it is annotated."""

    name, split = "numbers", "test"

    def __init__(self, frames):
        self.frames = frames
        self.videos = [Video("v", tuple(f"{i:02d}" for i in range(7)), (4, 4))]
        self.items = [Item(0, str(k), "x", (1,), facts=Facts(frame=frame)) for k, frame in enumerate(frames)]

    def read_frames(self, video, positions):
        return torch.tensor(positions, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)

    def read_masks(self, item, positions):
        known = torch.tensor([p == self.frames[item] for p in positions])
        return known[:, None, None].expand(-1, 4, 4), known


class NumbersData(VideoData):
    """Both through the data module, as a user has them."""

    def reader(self, split):
        return Numbers([3, 0, 6])


def test_every_item_has_a_clip_around_its_own_frame():
    data = NumbersData(around=5, size=4)
    batches = data.evaluation_batches("test")
    assert len(batches) == 3
    expected = [[1, 2, 3, 4, 5], [0, 0, 0, 1, 2], [4, 5, 6, 6, 6]]
    for batch, levels, middle in zip([batches[i] for i in range(3)], expected, [3, 0, 6], strict=True):
        frames = batch.clip.frames[:, :]
        assert (frames[0, :, 0, 0, 0] * 255).round().int().tolist() == levels
        assert batch.targets.window(0, 5).annotated[0].tolist() == [False, False, True, False, False]
        assert batch.clip.meta[0].frames[2] == f"{middle:02d}"
    assert [Centred()(7, 5, frame, np.random.default_rng(0)) for frame in (3, 0, 6)] == expected


def test_items_that_know_no_frame_are_refused():
    with pytest.raises(DataError, match="does not say which frame"):
        CentredItems(Numbers([None]), 5).positions(0)


def test_learning_rate_drops_at_shares_of_the_training():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = EpochDrops(optimizer, epochs=6, drops=[3, 5])
    schedule.stretch(60)
    rates = []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0] * 30 + [0.1] * 20 + [0.01] * 10)
    with pytest.raises(ValueError, match="model.scheduler.drops"):
        EpochDrops(optimizer, epochs=6, drops=[7])
