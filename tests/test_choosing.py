"""The seam "choose with the targets, then refine" in one process; under strategies see test_strategies.py."""

import pytest
import torch
from choosing import Choosing, Matching
from lightning.pytorch.strategies import SingleDeviceStrategy

from callbacks import DiceFocal
from rvos_lightning.core.module import RVOSModule
from rvos_lightning.core.objectives import find_chooser
from rvos_lightning.core.types import Batch, Candidates
from rvos_lightning.data import MovingShapes
from rvos_lightning.run.sharding.whole import Whole
from rvos_lightning.systems.tiny.segmenter import TinySegmenter


@pytest.fixture
def batch():
    data = MovingShapes(size=32, clip_length=3, batch_size=4, train_clips=8, workers=0)
    made = next(iter(data.train_dataloader()))
    return Batch(made.clip.floating(torch.float32), made.targets)


@pytest.fixture
def module():
    torch.manual_seed(0)
    made = RVOSModule(Choosing())
    made.objectives = [Matching()]
    made.chooser = find_chooser(made.network, made.objectives)
    made.log_dict = lambda *_, **__: None
    made.sharding = Whole(SingleDeviceStrategy("cpu"), made.network)
    return made


class Asked(Matching):
    """Remembers what it was shown and answered."""

    def choose(self, batch, candidates):
        self.candidates, self.answer = candidates, super().choose(batch, candidates)
        return self.answer


def test_a_step_refines_what_the_objective_chose(module, batch):
    module.chooser = asked = Asked()
    module.training_step(batch, 1).backward()  # names nothing, as a first batch does
    own = module.network(batch.clip)
    assert isinstance(asked.candidates, Candidates) and asked.answer.shape == (2, len(batch.clip))
    assert not torch.equal(own.chosen, asked.answer), "targets made no difference"
    assert all(parameter.grad is not None for parameter in module.network.parameters())
    again = module.network(batch.clip, choose=lambda candidates: asked.answer)
    assert torch.equal(again.mask_logits, again.refined[-1]) and torch.equal(again.chosen, asked.answer)
    assert not torch.equal(again.mask_logits, own.mask_logits)


def test_without_targets_the_network_chooses_by_its_scores(module, batch):
    own = module.eval().network(batch.clip)
    assert torch.equal(own.chosen, own.candidates.logits.mean(2).argmax(2))


@pytest.mark.parametrize("answer", [torch.zeros(4, dtype=torch.int64), torch.zeros(2, 4), torch.zeros(4, 2).long()])
def test_an_answer_of_another_shape_is_refused(module, batch, answer):
    module.chooser = Matching()
    module.chooser.choose = lambda batch, candidates: answer
    with pytest.raises(ValueError, match="2 layers and 4 items: return int64"):
        module.training_step(batch, 0)


@pytest.mark.parametrize(
    ("network", "objectives", "said"),
    [
        (Choosing(), [DiceFocal()], "Choosing refines what exactly one objective chooses; choosing objectives: none"),
        (Choosing(), [Matching(), Matching()], "choosing objectives: Matching, Matching"),
        (TinySegmenter(), [Matching()], "Matching choose among a network's candidates, but TinySegmenter shows none"),
    ],
)
def test_a_network_and_objectives_that_do_not_meet_are_refused(network, objectives, said):
    with pytest.raises(ValueError, match=said):
        find_chooser(network, objectives)


def test_the_command_line_says_so_before_training(run, monkeypatch):
    words = ["fit", "-c", "tests/drills/choosing.yaml", "--objectives.match", "callbacks.DiceFocal"]
    with pytest.raises((SystemExit, ValueError), match="exactly one objective chooses"):
        run(*words, "--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--data.train_clips", "4")
