"""SAM-I2V end to end over a video against the recordings of the official predictor."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from once import one_full_size
from stated import stated
from torch import Tensor
from torch.nn import functional

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Clip, ClipMeta, UserPrompt
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector
from rvos_lightning.systems.sam_i2v.predictor import VideoPredictor
from tests.parity.sam_i2v_rule import CLICK, FRAMES, README, SIZE, STRIDES, Recording, ellipse, given, recordings
from tests.parity.test_sam_i2v import network
from tests.parity.test_sam_i2v_training import MEAN, STD

pytestmark = pytest.mark.xdist_group("sam_i2v")
CORRECTION = stated(README, r"a negative click \((\d+),(\d+)\) on the already tracked frame (\d+)", (300, 200, 3))
ELLIPSE = stated(README, r"object 1: GT mask E\((\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\)", (*SIZE, 120, 200, 50, 80))
POINTS = stated(README, r"points of \[(.*?)\]", "(300,100)+,(350,150)+,(100,200)-")
GIVEN = stated(README, r"object 1: GT mask E\([\d,]+\) on frame (\d+)", 0)


def injected(recording: Recording, start: str) -> Callable[[Tensor, int], Tensor]:
    """Replay the recorded draws after checking their probabilities."""
    calls = iter(range(1000))

    def draw(probs: Tensor, keep: int) -> Tensor:
        name = f"{start}.draw{next(calls)}"
        assert (probs - recording[f"{name}.probs"].flatten()).abs().max() < 1e-5
        assert len(recording[f"{name}.idx"].flatten()) == keep
        return recording[f"{name}.idx"].flatten().long()

    return draw


def predictor(model: PromptedSegmenter, time: int, items: int) -> VideoPredictor:
    frames = (given("e2e.frames", time, 3, *FRAMES[1:]) * STD + MEAN)[None]
    meta = [ClipMeta("v", str(i), (), FRAMES[1:], SIZE) for i in range(items)]
    return VideoPredictor.of(model, Clip(frames, torch.zeros(items, dtype=torch.long), None, meta), chunk=4)


def clicks(points: list[tuple[int, int, int]], frame: int = 0) -> UserPrompt:
    xy = torch.tensor([[x / SIZE[1], y / SIZE[0]] for x, y, _ in points])
    return UserPrompt(frame, xy, torch.tensor([label for *_, label in points]))


def to_video(low: Tensor) -> Tensor:
    return functional.interpolate(low, SIZE, mode="bilinear", align_corners=False)


def check_frame(recording: Recording, name: str, video: VideoPredictor, time: int, low: Tensor) -> None:
    memory = video.state.frames[time]
    recording.check(f"{name}.low", low, (1, 1, 8, 8))
    recording.check(f"{name}.video", to_video(low), STRIDES)
    recording.check(f"{name}.obj", video.loop.presence[time], bound=3e-3)
    recording.check(f"{name}.obj_ptr", memory.pointer, (1, 8))
    recording.check(f"{name}.mem", memory.spatial, (1, 8, 16, 16), bound=3e-2)
    embed = video.loop.feature[:, time].flatten(2).permute(2, 0, 1)
    recording.check(f"{name}.embed", embed, (256, 1, 16))


def run_pass(recording: Recording, start: str, video: VideoPredictor, keep: frozenset[int] = frozenset()) -> None:
    """Propagate and compare every recorded frame."""
    frames = sorted(
        int(k.split(".f")[1].split(".")[0]) for k in recording if k.startswith(f"{start}.f") and k.endswith(".low")
    )
    video.memory.selector.injected = injected(recording, start)
    for time, low in video.propagate(start=frames[0], keep=keep):
        check_frame(recording, f"{start}.f{time}", video, time, low)
    video.memory.selector.injected = None


@pytest.fixture
def model(path: Path) -> PromptedSegmenter:
    found = network(Recording(path).sharp)
    found.memory.selector = MemorySelector(draw="random")
    yield found
    found.memory.selector = MemorySelector()


VIDEOS = one_full_size(recordings("e2e_*"), chosen=lambda path: (not Recording(path).sharp, path.stat().st_size))


def videos(kind: str) -> pytest.MarkDecorator:
    """The end-to-end recordings of a kind; all but the smallest of all kinds are slow."""
    return pytest.mark.parametrize("path", [param for param in VIDEOS if param.id.startswith(kind)])


@videos("e2e_click")
def test_click_track_correct(path: Path, model: PromptedSegmenter) -> None:
    recording = Recording(path)
    with torch.inference_mode():
        *click, first = CLICK
        *correction, again = CORRECTION
        video = predictor(model, recording.frames("click"), 1)
        prompted = video.prompt(first, {0: clicks([(*click, 1)], first)})
        recording.check("click.prompt_frame", to_video(prompted), STRIDES)
        run_pass(recording, "click", video)
        corrected = video.prompt(again, {0: clicks([(*correction, 0)], again)})
        recording.check("correct.prompt_frame", to_video(corrected), STRIDES)
        run_pass(recording, "correct", video, keep=frozenset({again}))


@videos("e2e_two_objects")
def test_two_objects(path: Path, model: PromptedSegmenter) -> None:
    recording = Recording(path)
    with torch.inference_mode():
        video = predictor(model, recording.frames("two"), 2)
        video.prompt(GIVEN, {0: UserPrompt(GIVEN, mask=ellipse(*ELLIPSE))})
        points = [(int(x), int(y), int(sign == "+")) for x, y, sign in re.findall(r"\((\d+),(\d+)\)([+-])", POINTS)]
        for k in range(1, 1 + sum(name.startswith("two.click") and name.count(".") == 1 for name in recording)):
            low = video.prompt(GIVEN, {1: clicks(points[:k], GIVEN)})
            recording.check(f"two.click{k}", to_video(low), STRIDES)
        run_pass(recording, "two", video)
