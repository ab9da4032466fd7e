"""StructureLoss beside its recordings (`tests/parity/test_sam_i2v_losses.py`): what it is given."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.structure import StructureLoss
from rvos_lightning.core.types import Prediction, Targets
from rvos_lightning.systems.sam_i2v.outputs import TrackedPrediction


def test_terms_stay_on_the_graph_without_steps_and_refuse_other_predictions() -> None:
    batch = SimpleNamespace(targets=Targets(torch.zeros(1, 1, 4, 4).bool(), torch.zeros(1, 1).bool()))
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    assert all(term.requires_grad for term in StructureLoss().terms(batch, TrackedPrediction(logits)).values())
    with pytest.raises(TypeError, match="TrackedPrediction"):
        StructureLoss().terms(batch, Prediction(logits))
