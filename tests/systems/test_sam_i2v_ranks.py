"""SAM-I2V on several ranks: prompts decide which parts run, and all ranks of a step must run the same ones."""

import itertools

import pytest
import torch
from sam_i2v_small import small

from callbacks import StructureLoss
from rvos_lightning.core.types import Batch
from rvos_lightning.data import Mixture, MovingShapes, SimulatedUser
from rvos_lightning.data.clips import sampler as sampler_module

STEPS = 5


def shapes(seed: int = 0, user: SimulatedUser | None = None) -> MovingShapes:
    return MovingShapes(
        size=32,
        clip_length=3,
        batch_size=1,
        items_per_video=2,
        train_clips=64,
        workers=0,
        simulate_user=user,
        seed=seed,
    )


def batches(monkeypatch: pytest.MonkeyPatch, rank: int, mixed: bool) -> list[Batch]:
    monkeypatch.setattr(sampler_module, "rank_and_world", lambda: (rank, 2))
    data = shapes(user=SimulatedUser(corrections=2))
    if mixed:
        sources = {"one": shapes(), "other": shapes(seed=1)}
        data = Mixture(sources, one_source_a_batch=False, batch_size=1, workers=0, simulate_user=data.simulate_user)
    return list(itertools.islice(data.train_dataloader(), STEPS))


@pytest.mark.parametrize("mixed", [False, True])
def test_ranks_share_plans_and_nothing_else(monkeypatch: pytest.MonkeyPatch, mixed: bool) -> None:
    ours, theirs = (batches(monkeypatch, rank, mixed) for rank in range(2))
    plans = [batch.clip.user.plan for batch in ours]
    assert plans == [batch.clip.user.plan for batch in theirs] and len(set(map(str, plans))) > 1
    for mine, other in zip(ours, theirs, strict=True):
        assert not torch.equal(mine.clip.frames, other.clip.frames)
        assert mine.clip.user.random[0].random() != other.clip.user.random[0].random()


def test_ranks_call_parts_and_get_gradients_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeRO-3 gathers parameters as parts are called, ZeRO-2 reduces gradients as they come: orders must be equal."""
    network, order = small().train(), []
    for name, module in network.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: order.append(name))
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    orders = []
    for rank in range(2):
        for batch in batches(monkeypatch, rank, mixed=False):
            order.clear()
            sum(StructureLoss().terms(batch, network(batch.clip.floating(torch.float32))).values()).backward()
            orders.append(list(order))
    assert orders[:STEPS] == orders[STEPS:]
    assert len({tuple(steps) for steps in orders}) > 1
