"""RVOSModule: losses summed by name, bad losses stop with ids, checkpoints keep what cannot be had again."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from rvos_lightning.core.module import NonFiniteLoss, RVOSModule, complete, start_from
from rvos_lightning.core.seams import Network, Objective
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Prediction, Targets
from rvos_lightning.parts.weights import WeightsError, freeze, mark_reproducible, save


class Line(Network):
    """A frozen part from a file and a trained one."""

    def __init__(self):
        super().__init__()
        self.frozen = mark_reproducible(freeze(nn.Conv2d(3, 3, 1)), "somewhere.pt")
        self.head = nn.Conv2d(3, 1, 1)

    def forward(self, clip, state=None):
        frames = clip.frames[clip.video]
        return Prediction(self.head(self.frozen(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])[:, :, 0])


class Square(Objective):
    def __init__(self, name="square", factor=1.0):
        self.name, self.factor = name, factor

    def terms(self, batch, prediction):
        return {self.name: (prediction.mask_logits**2).mean() * self.factor}


def batch():
    meta = ClipMeta("video_7", "3", ("0", "1"), (4, 4), (4, 4), (0, 1))
    clip = Clip(torch.rand(1, 2, 3, 4, 4), torch.tensor([0]), ["a thing"], [meta])
    return Batch(clip, Targets(torch.ones(1, 2, 4, 4, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)))


def fit(*objectives, tmp_path, **module):
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet = dict.fromkeys(off, False)
    trainer = Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, callbacks=list(objectives), **quiet)
    model = RVOSModule(Line(), **module)
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
        complete(state, network.state_dict(), "", network)


def test_moving_a_batch_moves_every_tensor():
    moved = batch().to("meta")
    assert moved.clip.frames.device.type == moved.targets.masks.device.type == moved.clip.video.device.type == "meta"
    with pytest.raises(AttributeError):
        moved.clip = replace(moved.clip)
