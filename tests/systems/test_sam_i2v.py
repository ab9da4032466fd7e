"""SAM-I2V in small: windows, bounded memory, several objects, corrections, selection, export."""

import json
from pathlib import Path

import pytest
import torch
from sam_i2v_small import segmenter, small

from callbacks import StructureLoss
from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Targets, UserPrompt
from rvos_lightning.data import SimulatedUser
from rvos_lightning.parts.adapters.image_features import ImageFeatures
from rvos_lightning.parts.prompters.user import UserPrompter
from rvos_lightning.parts.weights import convert
from rvos_lightning.systems.sam_i2v import official, rope_attention
from rvos_lightning.systems.sam_i2v.memory_attention import MemoryAttention
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector
from rvos_lightning.systems.sam_i2v.per_frame import PerFrame
from rvos_lightning.systems.sam_i2v.predictor import VideoPredictor
from rvos_lightning.systems.sam_i2v.rope_attention import RotaryAttention, phases, rotate, rotation, table_of
from rvos_lightning.systems.sam_i2v.temporal_integrator import along_time, clip_slots

ROOT = Path(__file__).parents[2]


def batch(time: int = 4, items: tuple[int, ...] = (2, 1), protocol: str = "three_click", train: bool = False) -> Batch:
    videos = torch.tensor([v for v, count in enumerate(items) for _ in range(count)])
    frames = torch.rand(len(items), time, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(len(videos), time, 32, 32, dtype=torch.bool)
    for i in range(len(videos)):
        for t in range(time):
            masks[i, t, 5 * i + t // 2 : 5 * i + 10, 4 : 16 + i] = True
    meta = [
        ClipMeta(f"v{v}", str(i), tuple(map(str, range(time))), (32, 32), (32, 32), tuple(range(time)))
        for i, v in enumerate(videos.tolist())
    ]
    targets = Targets(masks, torch.ones(len(videos), time, dtype=torch.bool))
    factory = SimulatedUser(corrections=2, protocol=protocol)
    user = factory(targets, meta, 3) if train else factory.evaluation(targets, meta, 3)
    return Batch(Clip(frames, videos, None, meta, user), targets)


@torch.no_grad()
def run(network: PromptedSegmenter, clip: Clip, window: int) -> torch.Tensor:
    state, masks = None, []
    for start in range(0, clip.time, window):
        prediction = network(clip.window(start, start + window), state)
        state = prediction.state
        masks.append(prediction.mask_logits)
    assert all(mask.std() > 0 and mask.min() > -1000 for mask in masks)
    return torch.cat(masks, 1)


@pytest.mark.parametrize("draw", ["top_k", "random"])
def test_windows_change_nothing(draw: str) -> None:
    network = small(selector=MemorySelector(4, 2, 2, 1, draw=draw)).eval()
    whole, parts = (run(network, batch(9).clip, window) for window in (9, 2))
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=2e-3)


def test_objects_of_several_videos_do_not_see_each_other() -> None:
    network = small().eval()
    together = run(network, batch(5).clip, 5)
    data = batch(5)
    one = Clip(data.clip.frames[:1], torch.zeros(1, dtype=torch.long), None, data.clip.meta[1:2])
    user = SimulatedUser().evaluation(Targets(data.targets.masks[1:2], data.targets.annotated[1:2]), list(one.meta), 0)
    alone = run(network, Clip(one.frames, one.video, None, one.meta, user), 5)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=2e-3)


def test_memory_is_bounded() -> None:
    network = small(selector=MemorySelector(3, 2, 2, 1)).eval()
    state = None
    clip = batch(14, (1,)).clip
    with torch.no_grad():
        for time in range(14):
            state = network(clip.window(time, time + 1), state).state
    assert sorted(state.frames) == [0, *range(9, 14)] and len(state.embeds) == 5 and state.past.shape[1] <= 8


def test_training_step_reaches_every_parameter() -> None:
    network = small().train()
    for seed in range(6):  # points and masks are drawn
        data = batch(4, train=True)
        user = SimulatedUser(corrections=2)(data.targets, data.clip.meta, seed)
        prediction = network(Clip(data.clip.frames, data.clip.video, None, data.clip.meta, user))
        sum(StructureLoss().terms(data, prediction).values()).backward()
        corrected = len(user.plan.corrected)
        assert len(prediction.steps) == 4 + 2 * corrected
    silent = {name for name, p in network.named_parameters() if p.grad is None}
    assert silent <= {"memory.no_obj_ptr", "memory.no_obj_embed_spatial"}, silent


@pytest.mark.parametrize("protocol", ["click", "three_click", "box", "mask", "online", "offline"])
def test_protocols_run(protocol: str) -> None:
    data = batch(4, protocol=protocol)
    with torch.no_grad():
        prediction = small().eval()(data.clip)
    assert prediction.mask_logits.shape == (3, 4, 32, 32) and prediction.steps == []
    if protocol == "mask":
        assert torch.equal(prediction.mask_logits[:, 0] > 0, data.targets.masks[:, 0])


def test_predictor_equals_the_frame_loop_and_takes_corrections() -> None:
    network = small().eval()
    clip = batch(6, (2,), protocol="click").clip
    streamed = run(network, clip, 6)
    video = VideoPredictor.of(network, clip, chunk=4)
    video.prompt(0, {i: clip.user.first_prompt(i)[0] for i in range(2)})
    masks = torch.cat([low for _, low in video.propagate()], 1)
    torch.testing.assert_close(masks, streamed, rtol=1e-3, atol=2e-3)
    video.prompt(3, {1: UserPrompt(3, torch.tensor([[0.2, 0.9]]), torch.tensor([0]))})
    again = dict(video.propagate(start=3, keep=frozenset({3})))
    assert sorted(again) == [3, 4, 5] and not torch.equal(again[3], masks[:, 3:4])
    assert [t for t, _ in video.propagate(start=2, reverse=True)] == [2, 1, 0]


def test_per_frame_baseline_does_not_look_at_other_frames() -> None:
    sam, memory = segmenter(), PerFrame(memory_dim=32, hidden=32, layers=1, dropout=0.0)
    network = PromptedSegmenter(sam, ImageFeatures(), UserPrompter(), memory).eval()
    data = batch(3)
    before = run(network, data.clip, 3)
    data = batch(3)
    data.clip.frames[:, 1] = 0
    after = run(network, data.clip, 3)
    assert torch.equal(before[:, 2], after[:, 2]) and not torch.equal(before[:, 1], after[:, 1])


def test_clip_slots_repeat_the_current_frame() -> None:
    assert clip_slots(7, 5)[[0, 1, 6]].tolist() == [[0] * 5, [0, 1, 1, 1, 1], [2, 3, 4, 5, 6]]


def test_official_names_go_both_ways() -> None:
    goal = official.target()
    exported = official.export_state(goal)
    listed = {key for key, *_ in json.loads((ROOT / "tests/golden/state_dicts/sam_i2v.json").read_text())}
    assert exported.keys() == listed
    back = convert(exported, official.KEY_MAP, goal)
    assert back.keys() == goal.keys() and all(back[key] is goal[key] for key in goal)


@pytest.mark.parametrize(("width", "height", "dim", "tokens"), [(16, 16, 256, 1792), (3, 1, 32, 3), (5, 7, 64, 75)])
def test_complex_rotation_equals_the_real_one_in_every_bit(width, height, dim, tokens):
    """Several blocks and tokens beyond them; a table first asked for in inference serves training afterwards."""
    phases.cache_clear()
    with torch.inference_mode():
        table = table_of(dim, width, height, torch.device("cpu"))
    assert table is table_of(dim, width, height, torch.device("cpu"))
    torch.manual_seed(0)
    fast = torch.randn(2, tokens, dim).requires_grad_()
    slow = fast.detach().clone().requires_grad_()
    turned, truth = rotate(fast, table), rotate(slow, rotation(dim, width, height))
    assert torch.equal(turned, truth) and not torch.equal(turned, fast)
    weights = torch.randn_like(truth)
    (turned * weights).sum().backward()
    (truth * weights).sum().backward()
    assert torch.equal(fast.grad, slow.grad)
    half = fast.detach().bfloat16()
    assert torch.equal(rotate(half, table), rotate(half, rotation(dim, width, height)))


@pytest.mark.parametrize("kind", ["none", "added", "kept"])
def test_values_projected_behind_the_mean_are_those_projected_before(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several pieces; a network that trains, or whose gradient is asked for, projects before."""
    monkeypatch.setattr(rope_attention, "SCORES", 400)
    torch.manual_seed(0)
    attention = RotaryAttention(32, 8, dropout=0.0)
    query, key, value = torch.randn(2, 6, 32), torch.randn(2, 20, 8), torch.randn(2, 20, 8)
    numbers = torch.randn(2, 1, 20)
    bias = {"none": None, "added": numbers, "kept": numbers > -1}[kind]
    called = []
    thin = rope_attention.thin_attention
    monkeypatch.setattr(rope_attention, "thin_attention", lambda *args: called.append(1) or thin(*args))
    given = (query, key, value, rotation(32, 3, 2), rotation(32, 3, 3), 18, bias)
    before = attention.eval()(*given)
    with torch.no_grad():
        assert torch.equal(attention.train()(*given), before) and not called
        torch.testing.assert_close(attention.eval()(*given), before)
    assert called


def test_objects_of_one_video_look_at_its_frame_once() -> None:
    torch.manual_seed(0)
    attention, calls = MemoryAttention(32, 8, 16, 2).eval(), []
    attention.layers[0].self_attn.register_forward_hook(lambda module, given, out: calls.append(len(out)))
    frame, memory = torch.randn(1, 32, 3, 3).expand(3, -1, -1, -1), torch.randn(3, 20, 8)
    rest = (torch.randn(32, 3, 3), memory, torch.randn(3, 20, 8), 2)
    with torch.no_grad():
        torch.testing.assert_close(attention(frame, *rest), attention(frame.contiguous(), *rest))
    assert calls == [1, 3]


def test_a_convolution_along_time_equals_the_volumes() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(6, 5, (3, 1, 1))
    x = torch.randn(2, 6, 5, 3, 4, requires_grad=True)
    ours, theirs = along_time(conv, x), conv(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(ours)
    gradients = (torch.autograd.grad((y * weight).sum(), [x, *conv.parameters()]) for y in (ours, theirs))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_two_layers_as_one_product_whatever_they_hold() -> None:
    """Low-rank adapters, too, which exchange a layer for one with other weights inside."""
    torch.manual_seed(0)
    attention = RotaryAttention(32, 8, dropout=0.0)
    attention.v_proj = torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.Linear(3, 32))
    mean = torch.randn(2, 10, 8)
    expected = attention.out_proj(attention.v_proj(mean))
    torch.testing.assert_close(attention.projected(mean), expected, rtol=1e-4, atol=1e-5)
