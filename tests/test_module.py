"""RVOSModule: losses summed by name, bad losses stop with ids, checkpoints keep what cannot be had again."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer
from line import Line, Square, batch
from torch import nn

from callbacks import LastCheckpoint
from rvos_lightning.core.module import NonFiniteLoss, RVOSModule
from rvos_lightning.core.objectives import Objective
from rvos_lightning.parts.starting import start_from
from rvos_lightning.parts.weights import WeightsError, complete, save


class WithIdle(Line):
    """With a parameter that takes no part."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(2, 2))


class SuddenlySteep(Objective):
    """Zero, and from the second step on with the derivative of a square root there."""

    def terms(self, batch, prediction):
        steep = ((prediction.mask_logits * 0) ** 2).sum()
        return {"steep": steep.sqrt() if self.steps else steep + prediction.mask_logits.mean()}

    steps = 0

    def on_train_batch_end(self, trainer, *_):
        self.steps = trainer.global_step


def fit(*objectives, tmp_path, **module):
    off = ("logger", "enable_progress_bar", "enable_model_summary")
    quiet = dict.fromkeys(off, False) | {"enable_checkpointing": any(isinstance(o, LastCheckpoint) for o in objectives)}
    trainer = Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, callbacks=list(objectives), **quiet)
    model = RVOSModule(**{"network": Line(), **module})
    trainer.fit(model, torch.utils.data.DataLoader([batch()] * 4, batch_size=None))
    return trainer, model


@pytest.mark.filterwarnings("ignore")
class TestFit:
    def test_terms_are_summed_and_logged_by_name(self, tmp_path):
        trainer, _ = fit(Square(), Square("other", 2.0), tmp_path=tmp_path)
        scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
        assert scores["train/loss"] == pytest.approx(scores["train/square"] + scores["train/other"])

    def test_one_name_twice_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="square"):
            fit(Square(), Square(), tmp_path=tmp_path)

    def test_nan_stops_and_names_the_items(self, tmp_path):
        with pytest.raises(NonFiniteLoss, match="video_7/3"):
            fit(Square(factor=float("nan")), tmp_path=tmp_path)

    def test_nan_gradient_of_a_finite_loss_stops_before_it_reaches_a_weight(self, tmp_path):
        last = LastCheckpoint(every_n_steps=1)
        with pytest.raises(NonFiniteLoss, match=r"gradient is not, in epoch 0, batch 1 \(items video_7/3\)"):
            fit(SuddenlySteep(), last, tmp_path=tmp_path)
        kept = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
        assert kept["global_step"] == 1
        assert all(value.isfinite().all() for value in kept["state_dict"].values())

    def test_what_no_loss_reaches_gets_zeros(self, tmp_path):
        _, model = fit(Square(), tmp_path=tmp_path, network=WithIdle())
        assert model.network.idle.grad.eq(0).all() and model.network.head.weight.grad.ne(0).any()

    def test_frozen_parts_keep_their_weights_and_mode(self, tmp_path):
        _, model = fit(Square(), tmp_path=tmp_path)
        assert not model.network.frozen.training and model.network.head.training
        assert all(parameter.grad is None for parameter in model.network.frozen.parameters())

    def test_checkpoint_leaves_out_what_a_file_holds_and_loads_again(self, tmp_path):
        trainer, model = fit(Square(), tmp_path=tmp_path)
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        state = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
        assert set(state) == {"network.head.weight", "network.head.bias"}
        other = Line()
        start_from(other, tmp_path / "x.ckpt")
        assert torch.equal(other.head.weight, model.network.head.weight)


def test_another_systems_weights_are_refused_by_name(tmp_path):
    save({"backbone.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="backbone.weight"):
        start_from(Line(), tmp_path / "w.safetensors")


def test_shapes_that_differ_are_refused():
    network = Line()
    state = {**network.state_dict(), "head.weight": torch.zeros(5, 3, 1, 1)}
    with pytest.raises(WeightsError, match="head.weight"):
        complete(state, network.state_dict(), network)


def test_moving_a_batch_moves_every_tensor():
    moved = batch().to("meta")
    assert moved.clip.frames.device.type == moved.targets.masks.device.type == moved.clip.video.device.type == "meta"
    with pytest.raises(AttributeError):
        moved.clip = replace(moved.clip)
