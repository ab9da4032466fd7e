"""Order from (seed, epoch), exact resume in real Lightning runs, shares of ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launch import python
from torch.utils.data import DistributedSampler

from rvos_lightning.data.clips import sampler as sampler_module
from rvos_lightning.data.clips.sampler import DrawSampler, EvaluationLoader, ResumableLoader, ShareSampler
from rvos_lightning.data.lightning_module import VideoDataModule

sys.path.insert(0, str(Path(__file__).parent))
import toy_run  # noqa: E402


def module():
    return VideoDataModule(toy_run.data())


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(sampler_module, "rank_and_world", lambda: (rank, world))


def test_order_follows_from_seed_and_epoch() -> None:
    first, second = DrawSampler(20, 4, seed=1), DrawSampler(20, 4, seed=1)
    assert list(first) == list(second)
    second.set_epoch(1)
    assert [d.index for d in first] != [d.index for d in second] and {d.epoch for d in second} == {1}
    assert sorted(d.index for d in second) == list(range(20))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_an_epoch_evenly(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    seen = []
    for rank in range(world):
        as_rank(monkeypatch, rank, world)
        sampler = DrawSampler(25, 2)
        mine = [d.index for d in sampler]
        assert len(mine) == len(sampler) == 25 // (2 * world) * 2
        seen += mine
    assert len(seen) == len(set(seen))


def test_a_set_smaller_than_a_batch_fills_one() -> None:
    assert sorted(d.index for d in DrawSampler(3, 4)) in ([0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2])
    with pytest.raises(ValueError, match="empty"):
        DrawSampler(0, 4)


@pytest.mark.parametrize(("costs", "world"), [([5.0, 1.0, 1.0, 1.0, 2.0], 2), ([3.0], 3), ([1.0] * 7, 3)])
def test_evaluation_is_shared_without_repeats(monkeypatch: pytest.MonkeyPatch, costs: list[float], world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        as_rank(monkeypatch, rank, world)
        share = ShareSampler(costs)
        assert len(list(share)) == len(share)
        seen += list(share)
    assert sorted(seen) == list(range(len(costs)))


def test_another_sampler_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match="use_distributed_sampler: false"):
        ResumableLoader([1], DistributedSampler([1], 1, 0), 1)
    with pytest.raises(ValueError, match="use_distributed_sampler: false"):
        EvaluationLoader([1], DistributedSampler([1], 1, 0))


@pytest.mark.parametrize("stop", [1, 5, 11, 12, 15])  # 11 batches an epoch: first, middle, last, next, second epoch
def test_resume_in_process_equals_an_unbroken_run(tmp_path: Path, stop: int) -> None:
    whole = toy_run.Toy()
    toy_run.trainer(tmp_path / "whole", 26).fit(whole, datamodule=module())
    toy_run.trainer(tmp_path / "cut", stop).fit(toy_run.Toy(), datamodule=module())
    rest = toy_run.Toy()
    ckpt = toy_run.newest(tmp_path / "cut")
    toy_run.trainer(tmp_path / "cut", 26).fit(rest, datamodule=module(), ckpt_path=ckpt, weights_only=True)
    assert rest.seen == whole.seen[stop:]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), rest.state_dict().values(), strict=True))


@pytest.mark.parametrize("when", ["train epoch end", "validation end"])
@pytest.mark.parametrize("options", [{"limit_val_batches": 1}, {}, {"limit_train_batches": 7}], ids=str)
def test_resume_from_an_epoch_end_checkpoint(tmp_path: Path, when: str, options: dict[str, int]) -> None:
    steps = 2 * options.get("limit_train_batches", 11)
    if when == "validation end" and "limit_val_batches" not in options:
        return
    whole = toy_run.Toy()
    toy_run.trainer(tmp_path / "whole", 30, **options).fit(whole, datamodule=module())
    save = toy_run.ModelCheckpoint(tmp_path / "cut", filename="end", save_on_train_epoch_end=when == "train epoch end")
    toy_run.trainer(tmp_path / "cut", steps, callbacks=[save], **options).fit(toy_run.Toy(), datamodule=module())
    rest = toy_run.Toy()
    toy_run.trainer(tmp_path / "more", 30, **options).fit(
        rest,
        datamodule=module(),
        ckpt_path=str(tmp_path / "cut" / "end.ckpt"),
        weights_only=True,
    )
    assert rest.seen == whole.seen[steps:]
    assert torch.equal(whole.weight.weight, rest.weight.weight)


def script(folder: Path, *arguments: int) -> subprocess.CompletedProcess:
    command = ["timeout", "--kill-after=5", "150", python(), toy_run.__file__, str(folder), *map(str, arguments)]
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(("workers", "devices"), [(0, 1), (2, 1), (0, 2), (2, 2)])
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, workers: int, devices: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = script(whole, workers, devices, 15)
    assert done.returncode == 0, done.stderr
    assert script(cut, workers, devices, 15, 7).returncode != 0
    assert not (cut / "end.pt").exists() and toy_run.newest(cut)
    again = script(cut, workers, devices, 15)
    assert again.returncode == 0, again.stderr
    first, second = (torch.load(folder / "end.pt") for folder in (whole, cut))
    assert first["seen"][-len(second["seen"]) :] == second["seen"] and len(second["seen"]) < 15
    assert all(torch.equal(first["state"][key], second["state"][key]) for key in first["state"])


EVALUATE = """
import sys, json; sys.path.insert(0, {here!r})
import toy_run
toy = toy_run.Toy()
run = toy_run.trainer(toy_run.Path({folder!r}), 3, devices=2, limit_val_batches=1.0, val_check_interval=2)
run.fit(toy, datamodule=toy_run.VideoDataModule(toy_run.data(val_clips={clips})))
toy.evaluated = []
run.validate(toy, datamodule=toy_run.VideoDataModule(toy_run.data(val_clips={clips})), verbose=False)
json.dump([toy.evaluated, toy.total], open({folder!r} + f"/rank{{run.global_rank}}.json", "w"))
"""


@pytest.mark.parametrize("clips", [1, 3])
def test_uneven_evaluation_on_two_processes(tmp_path: Path, clips: int) -> None:
    import json

    code = tmp_path / "evaluate.py"
    code.write_text(EVALUATE.format(here=str(Path(__file__).parent), folder=str(tmp_path), clips=clips))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["timeout", "--kill-after=5", "120", python(), str(code)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    shares = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    ids = [item for evaluated, _ in shares for item in evaluated]
    assert len(ids) == len(set(ids)) == clips and all(total == clips for _, total in shares)
