"""Learning rates: schedules end with training, and a continued run uses the settings it is given, or refuses."""

import logging

import pytest
import torch
from lightning.pytorch import Trainer
from line import Line, Square, batch

from callbacks import LastCheckpoint
from rvos_lightning.core.module import RVOSModule
from rvos_lightning.core.optim import WarmupCosine

QUIET = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)


class Rates(LastCheckpoint):
    """Keeps the last checkpoint, and the learning rate of every optimizer step."""

    def __init__(self):
        super().__init__(every_n_steps=1)
        self.rates, self.steps = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def fit(folder, ckpt=None, lr=0.1, weight_decay=0.01, optimizer=torch.optim.AdamW, schedule=None, groups=None, **flags):
    """Five batches an epoch."""
    rates = Rates()
    options = {"max_steps": -1, "max_epochs": -1, **flags}
    trainer = Trainer(accelerator="cpu", default_root_dir=folder, callbacks=[Square(), rates], **options, **QUIET)
    model = RVOSModule(
        Line(), optimizer=lambda parameters: optimizer(parameters, lr=lr, weight_decay=weight_decay),
        scheduler=schedule or (lambda made: WarmupCosine(made, warmup=2, final=0.1)), lr_scale=groups,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([batch()] * 5, batch_size=None)
    trainer.fit(model, loader, ckpt_path=ckpt, weights_only=True)
    return rates.rates, torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("accumulate", "steps"), [(1, 15), (2, 9)])  # the last group of an epoch may be short
def test_epochs_stretch_the_schedule_over_the_true_number_of_steps(tmp_path, accumulate, steps):
    by_epochs, _ = fit(tmp_path / "epochs", max_epochs=3, accumulate_grad_batches=accumulate)
    by_steps, kept = fit(tmp_path / "steps", max_steps=steps, accumulate_grad_batches=accumulate)
    assert by_epochs == by_steps and len(by_epochs) == steps
    assert by_epochs[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    assert kept["lr_schedulers"][0]["_last_lr"] == pytest.approx([0.01])


@pytest.mark.filterwarnings("ignore")
def test_warm_up_as_a_share_counts_from_the_first_step(tmp_path):
    rates, _ = fit(tmp_path, max_epochs=3, schedule=lambda made: WarmupCosine(made, warmup=0.2))  # 3 of 15
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])


@pytest.mark.parametrize("wrong", [{"total": 0}, {"total": -1}, {"warmup": -5}, {"final": 11}, {"final": -0.1}])
def test_what_cannot_be_meant_is_refused_by_name(wrong):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WarmupCosine(optimizer, **wrong)


@pytest.mark.filterwarnings("ignore")
def test_a_schedule_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"trainer.max_steps"):
        fit(tmp_path)


@pytest.mark.filterwarnings("ignore")
class TestContinued:
    @pytest.fixture
    def before(self, tmp_path):
        rates, _ = fit(tmp_path, max_steps=6)
        return rates, tmp_path / "checkpoints/last.ckpt", tmp_path / "more"

    def go_on(self, before, caplog, **changed):
        caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
        rates, kept = fit(before[2], before[1], **{"max_steps": 12, **changed})
        return rates, kept, [r.message for r in caplog.records if "continuing with other" in r.message]

    def test_a_longer_training_gets_the_longer_schedule(self, before, caplog, tmp_path):
        whole, _ = fit(tmp_path / "whole", max_steps=12)
        rates, _, said = self.go_on(before, caplog)
        assert rates == whole[6:] and "total of the schedule 6 -> 12" in said[0]

    def test_another_rate_is_used_said_and_kept(self, before, caplog, tmp_path):
        whole, _ = fit(tmp_path / "whole", max_steps=12, lr=0.02, weight_decay=0.5)
        rates, kept, said = self.go_on(before, caplog, lr=0.02, weight_decay=0.5)
        assert rates == pytest.approx(whole[6:])
        assert "lr of group x1 0.1 -> 0.02" in said[0] and "weight_decay of group x1 0.01 -> 0.5" in said[0]
        assert kept["optimization"]["groups"][0]["lr"] == 0.02
        assert kept["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.02

    def test_milestones_too(self, before, caplog, tmp_path):
        def steps(*milestones):
            return lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones))

        fit(tmp_path / "first", max_steps=2, schedule=steps(1))
        place = (None, tmp_path / "first/checkpoints/last.ckpt", tmp_path / "more")
        rates, _, said = self.go_on(place, caplog, schedule=steps(1, 4), max_steps=6, lr=0.2)
        assert rates == pytest.approx([0.02, 0.02, 0.002, 0.002]) and "milestones" in said[0]

    def test_the_same_settings_say_nothing(self, caplog, tmp_path):
        ending = {"schedule": lambda optimizer: WarmupCosine(optimizer, total=12, warmup=2)}
        whole, _ = fit(tmp_path / "whole", max_steps=12, **ending)
        fit(tmp_path / "first", max_steps=6, **ending)
        place = (None, tmp_path / "first/checkpoints/last.ckpt", tmp_path / "more")
        rates, _, said = self.go_on(place, caplog, **ending)
        assert rates == whole[6:] and said == []

    @pytest.mark.parametrize(
        "other",
        [
            {"groups": {"bias": 0.1}},
            {"optimizer": torch.optim.Adam},
            {"schedule": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3)},
        ],
        ids=["groups", "optimizer", "schedule"],
    )
    def test_what_nothing_would_fit_is_refused_in_one_line(self, before, caplog, other):
        with pytest.raises(ValueError, match="cannot continue with another") as caught:
            self.go_on(before, caplog, **other)
        assert "\n" not in str(caught.value)
