"""A run that was cut by SIGKILL and continued ends with the weights of one that was not, to the bit."""

import pytest
from launch import DDP, SMALL, checkpoint, differing, run

TINY = ["fit", "-c", "configs/tiny.yaml", *SMALL, "--model.scheduler.warmup", "2"]
DUAL = [*DDP, "--data.train_clips", "24"]  # twelve batches an epoch again
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """`unbroken(flags)` is the last checkpoint of an undisturbed run; each kind of run happens once."""
    done: dict[tuple[str, ...], dict] = {}

    def get(*flags: str) -> dict:
        if flags not in done:
            folder = tmp_path_factory.mktemp("unbroken")
            run(*TINY, *flags, "--trainer.default_root_dir", folder)
            done[flags] = checkpoint(folder)
        return done[flags]

    return get


def cut_and_continue(folder, flags, **cut) -> dict:
    kill = ["--callbacks.kill", "kill_at.KillAt", *(w for k, v in cut.items() for w in (f"--callbacks.kill.{k}", v))]
    where = ["--trainer.default_root_dir", folder, "--ckpt_path", "last"]
    # Where another rank is cut, this one ends by itself (1, its partner is gone) or by the launcher, whoever is first.
    run(*TINY, *flags, *where, *kill, code=(-9, 1) if cut.get("rank") else -9)
    assert checkpoint(folder)["global_step"] <= cut["step"]
    run(*TINY, *flags, *where)
    return checkpoint(folder)


WORKERS = ["--data.workers", "2"]
EARLY = ["--trainer.val_check_interval", "5"]
ACCUMULATE = ["--trainer.accumulate_grad_batches", "3"]


@pytest.mark.parametrize(
    ("reference", "loading", "cut"),
    [
        pytest.param([], [], {"step": 5}, id="mid-epoch"),
        pytest.param([], WORKERS, {"step": 17}, id="mid-epoch-2-workers-second-epoch"),
        pytest.param(EARLY, WORKERS, {"step": 10, "validating": True}, id="in-validation"),
        pytest.param(EARLY, [], {"step": 5}, id="from-the-best"),
        pytest.param([], [], {"step": 12}, id="epoch-start"),
        pytest.param([], WORKERS, {"step": 12, "validating": True}, id="in-validation-at-epoch-end"),
        pytest.param(ACCUMULATE, [], {"step": 3}, id="accumulating-gradients"),
        pytest.param(DUAL, [], {"step": 5}, id="ddp-mid-epoch"),
        pytest.param(DUAL, WORKERS, {"step": 15, "rank": 1}, id="ddp-2-workers-other-rank-cut"),
    ],
)
def test_resumed_run_equals_unbroken(unbroken, tmp_path, reference, loading, cut):
    resumed = cut_and_continue(tmp_path / "run", [*reference, *loading], **cut)
    expected = unbroken(*reference)
    assert expected["global_step"] == 20
    for key in COMPARED:
        assert differing(expected[key], resumed[key], key) == []
