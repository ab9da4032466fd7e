"""Streaming: windows in order, state handed on, and never more than one window of frames alive."""

import weakref

import pytest
import torch

from rvos_lightning.core.inference import segment, segment_video
from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Batch, Clip, ClipMeta, LazyTensor, Prediction, State


class Counting(LazyTensor):
    """Frames whose value is their position; remembers every tensor it gave out."""

    def __init__(self, time: int):
        self.time, self.alive, self.most = time, weakref.WeakSet(), 0

    @property
    def shape(self):
        return (1, self.time, 3, 8, 8)

    def __getitem__(self, key):
        start, stop, _ = key[1].indices(self.time)
        frames = torch.arange(start, stop).float()[None, :, None, None, None].expand(1, -1, 3, 8, 8).clone()
        self.alive.add(frames)
        self.most = max(self.most, sum(tensor.shape[1] for tensor in self.alive))
        return frames

    def to(self, device, non_blocking=False):
        return self


class Counted(State):
    def __init__(self, frames: int):
        self.frames = frames


class Echo(Network):
    """Positive where the frame's number is even; counts frames in its state."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, clip, state=None):
        self.seen.append((clip.meta[0].positions, 0 if state is None else state.frames))
        logits = 1 - 2 * (clip.frames[clip.video, :, 0, ::2, ::2] % 2)
        return Prediction(logits, state=Counted(clip.time + (0 if state is None else state.frames)))


def clip_of(frames, time):
    meta = ClipMeta("v", "0", tuple(map(str, range(time))), (8, 8), (16, 12), tuple(range(time)))
    return Clip(frames, torch.tensor([0]), ["x"], [meta])


def test_windows_come_in_order_and_state_goes_on():
    network = Echo()
    windows = list(segment_video(network, Batch(clip_of(Counting(10), 10)), window=4))
    assert network.seen == [((0, 1, 2, 3), 0), ((4, 5, 6, 7), 4), ((8, 9), 8)]
    assert [tuple(w.masks.shape) for w in windows] == [(1, 4, 16, 12), (1, 4, 16, 12), (1, 2, 16, 12)]
    assert all(bool(w.masks[0, i].all()) == (i % 2 == 0) for w in windows for i in range(w.clip.time))


@pytest.mark.parametrize("time", [12, 240])
def test_frames_held_do_not_grow_with_the_video(time):
    frames = Counting(time)
    for window in segment_video(Echo(), Batch(clip_of(frames, time)), window=4):
        del window
    assert frames.most <= 8


def test_segment_returns_all_masks():
    assert segment(Echo(), clip_of(Counting(5), 5), window=2).shape == (1, 5, 16, 12)


def test_a_window_of_no_frames_is_refused():
    with pytest.raises(ValueError, match="model.window"):
        next(segment_video(Echo(), Batch(clip_of(Counting(5), 5)), window=0))


def test_a_head_that_says_nothing_is_there_clears_the_mask_where_the_truth_is_hidden():
    class Denies(Network):
        def forward(self, clip, state=None):
            drawn = torch.ones(2, clip.time, 4, 4)
            return Prediction(drawn, no_target_logits=torch.tensor([1.0, -1.0]))

    names = ("0", "1")
    metas = [ClipMeta("v", item, names, (8, 8), (8, 8), (0, 1)) for item in "ab"]
    clip = Clip(torch.zeros(1, 2, 3, 8, 8), torch.tensor([0, 0]), ["a", "b"], metas)
    (window,) = segment_video(Denies(), Batch(clip), 2)
    assert not window.masks[0].any() and window.masks[1].all() and window.no_target.tolist() == [True, False]
