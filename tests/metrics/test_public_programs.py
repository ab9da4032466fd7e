"""Readers, `score` and metrics together against numbers that public evaluation programs gave on the same files.

The programs: Long-RVOS's eval_long_rvos, YoURVOS's vos-benchmark and tiou.py, MOSE-api's score.py (all MIT), run
unchanged on what `recorded_scenes` writes.
"""

import numpy as np
import pytest
from layouts import recent
from recorded_scenes import folders, maps, predicted, scene

from rvos_lightning.data.readers.long_rvos import LongRVOSReader
from rvos_lightning.data.readers.lvos import LVOSReader
from rvos_lightning.data.readers.mose import MOSEReader
from rvos_lightning.data.readers.yourvos import YoURVOSReader
from rvos_lightning.metrics.region_boundary import j_and_f
from rvos_lightning.run.score import Options, score

LONG_RVOS = {
    "": (0.6682666289144189, 0.538564406314179, 0.603415517614299, 0.7412698412698413, 0.5654898468710554),
    "/static": (0.7860529017359442, 0.7287492966367727, 0.7574010991863585, 0.9166666666666666, 0.7741784367155135),
    "/dynamic": (0.6287015894171701, 0.3926613408521303, 0.5106814651346502, 0.7238095238095238, 0.5255336460507007),
    "/hybrid": (0.5900453955901427, 0.4942825814536341, 0.5421639885218884, 0.5833333333333334, 0.3967574578469521),
}
YOURVOS = {"j_and_f": 0.4500720671418491, "j": 0.5379791759406712, "f": 0.362164958343027, "t_iou": 0.6805555555555557}
YOURVOS_ITEMS = {
    ("one", "0"): (0.7072540654979262, 0.51814596583115105, 0.875),
    ("one", "1"): (0.6211180124223602, 0.3947368421052631, 0.875),
    ("three", "0"): (0.6004658483781954, 0.2567905329773234, 0.8333333333333334),
    ("three", "1"): (0.0, 0.0, 0.0),
    ("two", "0"): (0.6168665867098867, 0.18039974247775763, 0.875),
    ("two", "1"): (0.6821705426356588, 0.8229166666666663, 0.625),
}
MOSE_V2 = {"j": 62.63, "f": 29.15, "j_and_f": 45.89, "f_standard": 29.15, "disappear": 83.39, "reappear": 27.84}
"""In percent, rounded as the program prints them."""


def test_long_rvos(tmp_path):
    made = scene()
    reader = LongRVOSReader(recent.long_rvos(tmp_path / "truth", made), "valid")
    scores = score(reader, Options(folders(tmp_path / "masks", made, {v: [1, 2, 2] for v in made.masks}))).compute()
    for subset, expected in LONG_RVOS.items():
        for name, value in zip(("j", "f", "j_and_f", "t_iou", "v_iou"), expected, strict=True):
            assert float(scores[name + subset]) == pytest.approx(value, abs=1e-9), name + subset


def test_yourvos(tmp_path):
    made = scene()
    reader = YoURVOSReader(recent.yourvos(tmp_path / "truth", made), "test")
    metric = score(reader, Options(folders(tmp_path / "masks", made, {v: [1, 2] for v in made.masks}, 5)))
    scores = metric.compute()
    for name, value in YOURVOS.items():
        assert float(scores[name]) == pytest.approx(value, abs=1e-9), name
    rows = {(row["video"], row["item"]): (row["j"], row["f"], row["t_iou"]) for row in metric.table()}
    assert rows.keys() == YOURVOS_ITEMS.keys()
    for key, expected in YOURVOS_ITEMS.items():
        assert rows[key] == pytest.approx(expected, abs=1e-9), key


def test_mose_v2(tmp_path):
    made = scene()
    reader = MOSEReader(recent.mose_v2(tmp_path / "truth", made), "train", 2)
    scores = {k: 100 * float(v) for k, v in score(reader, Options(maps(tmp_path / "masks", made))).compute().items()}
    scores |= {kind: (scores[f"j_{kind}"] + scores[f"f_{kind}"]) / 2 for kind in ("disappear", "reappear")}
    for name, value in MOSE_V2.items():
        assert scores[name] == pytest.approx(value, abs=0.0051), name


def test_lvos_by_its_definition(tmp_path):
    """Its program carries no licence, so it was read, not run: ranges, two frames dropped, seen and unseen apart."""
    made = scene()
    reader = LVOSReader(recent.lvos(tmp_path / "truth", made), "val")
    names = list(reader.videos[0].frames)
    scores = score(reader, Options(maps(tmp_path / "masks", made, names))).compute()
    parts: dict[str, list[tuple[float, float, float]]] = {"seen": [], "unseen": []}
    number = 0
    for video, own in made.masks.items():
        planes = {label: predicted(mask, number + label) for label, mask in own.items()}
        number += len(own)
        planes[2] = planes[2] & ~planes[1]  # the lower number keeps a disputed pixel
        for label in own:
            inner = range(label, len(names) - 1)  # the range starts at frame label - 1; its first and last do not count
            pairs = [j_and_f(planes[label][t][None], made.masks[video][label][t][None]) for t in inner]
            j, f = (np.array([float(pair[i][0]) for pair in pairs]) for i in (0, 1))
            both = (j + f) / 2
            deviation = np.sqrt(round(float(((both - both.mean()) ** 2).mean()), 4))
            parts["unseen" if video == "one" else "seen"].append((j.mean(), f.mean(), deviation))
    means = {kind: np.mean(own, 0) for kind, own in parts.items()}
    for i, name in enumerate("jfv"):
        for kind in parts:
            assert float(scores[f"{name}_{kind}"]) == pytest.approx(means[kind][i], abs=1e-12)
        assert float(scores[name]) == pytest.approx((means["seen"][i] + means["unseen"][i]) / 2, abs=1e-12)
    assert float(scores["j_and_f"]) == pytest.approx((float(scores["j"]) + float(scores["f"])) / 2, abs=1e-12)
