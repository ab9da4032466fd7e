"""Accumulation: windows, repeats, order, subsets, tables; and every class builds, resets and moves."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_masks import chosen, cut, video
from torchmetrics import Metric

from rvos_lightning import metrics
from rvos_lightning.core.types import Facts
from rvos_lightning.metrics import JAndF
from rvos_lightning.metrics.region_boundary import j_and_f
from rvos_lightning.metrics.tables import write_table
from rvos_lightning.metrics.torch_metric import TorchMetric

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")  # on ranks and sets with nothing
CLASSES = [name for name in metrics._WHERE if name != "j_and_f"]


def equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) or (one[key].isnan() and other[key].isnan()) for key in one)


def test_expression_mean():
    metric = JAndF()
    parts = [video("a", 3, 7, seed=1, hidden=(2, 6)), video("b", 1, 4, seed=2)]
    expected = []
    for part in parts:
        metric.update(part)
        j, f = j_and_f(part.masks, part.targets.masks)
        expected += [(j[i][a].mean(), f[i][a].mean()) for i, a in enumerate(part.targets.annotated)]
    j, f = np.mean(expected, axis=0)
    scores = metric.compute()
    assert scores["j"].dtype == torch.float64
    assert float(scores["j"]) == pytest.approx(j, abs=1e-14) and float(scores["f"]) == pytest.approx(f, abs=1e-14)
    assert scores["j_and_f"] == (scores["j"] + scores["f"]) / 2
    assert float(scores["j/odd"]) == pytest.approx(float(expected[1][0]), abs=1e-14)


def test_windows_order_and_repeats_change_nothing():
    parts = [video("a", 3, 9, seed=1), video("b", 2, 5, seed=2)]
    whole, pieces = JAndF(), JAndF()
    for part in parts:
        whole.update(part)
    for part in (parts[1], parts[0], parts[1]):  # another order, one video twice
        for start in range(6, -1, -3):
            window = cut(part, start, min(start + 3, part.masks.shape[1]))
            if window.masks.shape[1]:
                pieces.update(chosen(window, [1, 0]))
    pieces.update(chosen(parts[0], [2]))
    equal(whole.compute(), pieces.compute())
    assert whole.table() == pieces.table()


def test_same_names_in_two_data_sets_are_two_items():
    metric = JAndF()
    metric.update(video("a", 1, 4, seed=1, source="one"))
    metric.update(video("a", 1, 4, seed=2, source="two"))
    assert [row["source"] for row in metric.table()] == ["one", "two"]


def test_unannotated_frames_and_items_do_not_count():
    metric = JAndF()
    part = video("a", 2, 4, seed=1)
    targets = part.targets
    targets.annotated[1] = False
    metric.update(part)
    assert [row["item"] for row in metric.table()] == ["0"]
    metric.reset()
    assert metric.compute()["j_and_f"].isnan() and metric.table() == []
    metric.update(video("b", 1, 3, seed=1))
    assert [row["video"] for row in metric.table()] == ["b"]


def test_wrong_sizes_and_positions_are_refused():
    part = video("a", 1, 4)
    with pytest.raises(ValueError, match="resize predictions to the targets"):
        JAndF().update(replace(part, masks=part.masks[..., 1:]))
    with pytest.raises(ValueError, match="no entry for frame 3"):
        JAndF().update(replace(part, meta=cut(part, 0, 3).meta))
    with pytest.raises(ValueError, match="truth is hidden"):
        JAndF().update(replace(part, targets=None))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class(name):
    metric = getattr(metrics, name)()
    assert len(metric.rule) > 20
    metric = TorchMetric(metric)
    assert isinstance(metric, Metric) and metric.higher_is_better
    copy = pickle.loads(pickle.dumps(metric))
    groups = {"annotator": [0, 0], "object": [1, 2], "kind": ["referring", "reasoning"], "seen": [True, False]}
    copy.update(video("a", 2, 6, seed=4, **groups))
    scores = copy.compute()
    main = [key for key in scores if "/" not in key]
    assert all(0 <= float(scores[key]) <= 1 for key in ("j_and_f", "j", "f") if key in main)
    assert len(copy.table()) in (2, 12)
    assert copy.state_dict() == {}  # nothing joins a checkpoint
    for states, kind in ((copy.rows, torch.int64), (copy.confidence, torch.float64), (copy.facts, torch.uint8)):
        assert all(state.dtype == kind for state in states)


def test_tables(tmp_path):
    import csv

    import pyarrow.parquet

    metric = JAndF()
    metric.update(video("a/b", 2, 4, seed=1))
    rows = metric.table()
    written = list(csv.DictReader(write_table(rows, tmp_path / "x" / "t.csv").open()))
    assert [(row["video"], row["item"], float(row["j"])) for row in written] == [
        (r["video"], r["item"], r["j"]) for r in rows
    ]
    assert pyarrow.parquet.read_table(write_table(rows, tmp_path / "t.parquet")).to_pylist() == rows
    assert write_table([], tmp_path / "empty.csv").exists()
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        write_table(rows, tmp_path / "t.xlsx")


def test_facts_are_text_that_survives():
    metric = JAndF()
    part = video("Vidéo/1", 1, 2, object=[3])
    metric.update(part)
    (unit,) = metric.units()
    assert (unit.video, unit.facts) == ("Vidéo/1", Facts(object=3))
    assert json.loads(bytes(torch.cat(metric.facts).numpy()).decode())[2] == "Vidéo/1"
