"""SAM-I2V with users: offline rounds, the oracle of the released script, hole filling, memory without prompts."""

import pytest
import torch
from sam_i2v_small import segmenter, small

from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Clip, ClipMeta, Targets, User
from rvos_lightning.data import SimulatedUser
from rvos_lightning.parts.adapters.image_features import ImageFeatures
from rvos_lightning.parts.prompters.user import UserPrompter
from rvos_lightning.systems.sam_i2v.head_step import fill_holes
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector
from rvos_lightning.systems.sam_i2v.prompt_memory import PromptMemory


def video(options: SimulatedUser, time: int = 4) -> tuple[Clip, Targets]:
    """Two squares that move; the second appears on the second frame."""
    frames = torch.rand(1, time, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(2, time, 32, 32, dtype=torch.bool)
    for t in range(time):
        masks[0, t, 2 + t : 12 + t, 4:16] = True
        masks[1, t, 18:28, 10 + t : 22 + t] = t > 0
    names = tuple(map(str, range(time)))
    meta = [ClipMeta("v", str(i), names, (32, 32), (32, 32), tuple(range(time))) for i in range(2)]
    targets = Targets(masks, torch.ones(2, time, dtype=torch.bool))
    return Clip(frames, torch.zeros(2, dtype=torch.long), None, meta, options.evaluation(targets, meta, 0)), targets


@torch.no_grad()
def test_one_round_offline_is_three_clicks_and_a_pass() -> None:
    network = small()
    streamed = network(video(SimulatedUser())[0])
    offline = network(video(SimulatedUser(protocol="offline", rounds=1))[0])
    torch.testing.assert_close(streamed.mask_logits, offline.mask_logits, rtol=1e-3, atol=2e-3)


@torch.no_grad()
def test_offline_clicks_three_times_on_a_new_frame_each_round() -> None:
    clip, _ = video(SimulatedUser(protocol="offline", rounds=3))
    network = small()
    masks = network(clip).mask_logits
    user = clip.user
    assert [len(frames) for frames in user.interacted] == [3, 3] and 0 not in user.interacted[1]
    assert all(user.asked[item, frame] == 3 for item in range(2) for frame in user.interacted[item])
    once = network(video(SimulatedUser(protocol="offline", rounds=1))[0]).mask_logits
    assert not torch.equal(masks[0], once[0]) and (masks[1, 0] < -1000).all()  # not there before its first click


@torch.no_grad()
def test_offline_needs_the_whole_video() -> None:
    clip, _ = video(SimulatedUser(protocol="offline"))
    with pytest.raises(ValueError, match=r"whole video of 4 frames.*--model.window 4"):
        small()(clip.window(0, 2))


def answer(user: User, masks: list[torch.Tensor]) -> list:
    """The user's replies on the first frame to one mask after the other."""
    return [user.correct(0, 0, mask.float() - 0.5) for mask in masks]


def test_the_oracle_sends_the_best_clicks_once_more_and_is_off_by_default() -> None:
    clip, targets = video(SimulatedUser(oracle=True))
    truth = targets.masks[0, 0]
    half, little = truth.clone(), truth.clone()
    half[7:], little[4:] = False, False
    first = clip.user.first_prompt(0)[0]
    second, third, chosen, nothing = answer(clip.user, [half, truth, little, truth])
    assert nothing is None and chosen.alone and len(chosen.points) == 2
    assert torch.equal(chosen.points, torch.cat([first.points, second.points])) and len(third.points) == 1
    plain = video(SimulatedUser())[0].user
    plain.first_prompt(0)
    assert answer(plain, [half, truth, little])[2] is None
    with pytest.raises(ValueError, match="three_click"):
        SimulatedUser(protocol="box", oracle=True)


@torch.no_grad()
def test_the_oracle_starts_over_with_its_clicks() -> None:
    """Where it chooses one click, the head is asked with one (three masks), the last logits as mask prompt."""
    clip, _ = video(SimulatedUser(oracle=True))
    asked = []
    network = small()
    original = network.memory.answer
    network.memory.answer = lambda sam, situation, what: asked.append((0, what)) or original(sam, situation, what)
    clip.user.reached[0] = [2.0]  # as if the first click had been perfect; the next IoUs follow it
    network(clip.window(0, 1))
    counts = [0 if what.points is None else what.points.shape[1] for _, what in asked]
    assert counts == [1, 2, 3, 1] and asked[-1][1].previous is not None and asked[-1][1].ambiguous


def test_small_holes_are_filled_and_nothing_else() -> None:
    logits = torch.full((1, 1, 12, 12), -3.0)
    logits[..., 1:9, 1:9] = 2.0
    logits[..., 3, 3] = logits[..., 4, 4] = -1.0  # one hole of two pixels, touching at a corner
    logits[..., 6:8, 4:8] = -1.0  # eight pixels
    filled = fill_holes(logits, 2)
    assert (filled[..., 3, 3] == 0.1).all() and (filled[..., 4, 4] == 0.1).all()
    assert int((filled != logits).sum()) == 2
    assert int((fill_holes(logits, 8) != logits).sum()) == 10
    assert torch.equal(fill_holes(torch.full((1, 1, 4, 4), -1024.0), 8), torch.full((1, 1, 4, 4), -1024.0))


@torch.no_grad()
def test_tracked_memories_are_made_before_holes_are_filled() -> None:
    plain, filling = small(), small(fill_holes=40)
    filling.load_state_dict(plain.state_dict())
    user = SimulatedUser(protocol="mask")
    without, with_holes = (network(video(user)[0]) for network in (plain, filling))
    changed = without.mask_logits != with_holes.mask_logits
    assert changed[:, 1:].any() and (with_holes.mask_logits[changed] == 0.1).all()
    assert torch.equal(without.state.frames[1].spatial, with_holes.state.frames[1].spatial)


@torch.no_grad()
def test_temporal_attention_baseline_reads_the_last_frames_and_makes_no_prompts() -> None:
    selector = MemorySelector(0, 0, 2, 2)
    memory = PromptMemory(memory_dim=32, hidden=32, layers=1, dropout=0.0, selector=selector, prompts=0, fill_holes=0)
    network = PromptedSegmenter(segmenter(), ImageFeatures(), UserPrompter(), memory).eval()
    assert memory.memory_prompt_generator is None
    reading = selector.read(5, [0], [1, 2, 3, 4], lambda pool: torch.arange(float(len(pool))))
    assert [(block.frame, block.code) for block in reading.blocks] == [(0, 0), (3, 1), (4, 2)]
    assert network(video(SimulatedUser())[0]).mask_logits.shape == (2, 4, 32, 32)
