"""Every data set's own protocol: `validate`, and `score` of the masks that it wrote, give one number."""

import math

import pytest
import torch
from layouts import make_scene, promptable, recent, refer, referring
from lightning.pytorch import Trainer
from test_disk_data import PROMPTABLE, a2d, davis, lvvis, mevis, revos, sav

import rvos_lightning.data as data
from callbacks import MaskWriter
from rvos_lightning.core.module import RVOSModule
from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Prediction
from rvos_lightning.data.lightning_module import VideoDataModule
from rvos_lightning.run.score import Options, report, score

pytestmark = pytest.mark.filterwarnings("ignore")


class Boxes(Network):
    """A moving box an item, overlapping its neighbours'; some items say that nothing is meant."""

    def forward(self, clip, state=None):
        logits = -torch.ones(len(clip), clip.time, *clip.frames.shape[-2:])
        for index, meta in enumerate(clip.meta):
            start = 2 * sum(map(ord, meta.item)) % 5
            if sum(map(ord, meta.item)) % 7:
                for t, position in enumerate(meta.positions):
                    logits[index, t, 1:31, start + position : start + position + 20] = 1.0
        return Prediction(logits)


def unsupervised(root, scene):
    return referring.davis_tree(root, scene, "Annotations_unsupervised", "val")


CASES = {
    "MeViS": (mevis, "MeViS", {"j_and_f", "n_acc", "final"}),
    "RefYouTubeVOS": (referring.ref_youtube_vos, "RefYouTubeVOS", {"j_and_f", "j", "f"}),
    "RefDAVIS": (referring.ref_davis, "RefDAVISA", {"j_and_f", "j_and_f/annotator_3"}),
    "ReVOS": (revos, "ReVOS", {"j_and_f", "r", "a", "r/reasoning"}),
    "A2DSentences": (a2d, "A2D", {"map", "o_iou", "m_iou", "p@0.5"}),
    "JHMDBSentences": (referring.jhmdb, "A2D", {"map", "o_iou", "m_iou", "p@0.5"}),
    "SAV": (sav, "SAV", {"j_and_f", "j_recall"}),
    "DAVIS": (davis, "DAVISSemi", {"j_and_f", "j_decay"}),
    "DAVIS unsupervised": (unsupervised, "DAVISUnsupervised", {"j_and_f", "j_decay"}),
    "YouTubeVOS": (promptable.youtube_vos, "YouTubeVOS", {"g", "j_seen", "f_unseen"}),
    "MOSE": (promptable.mose, "DAVISSemi", {"j_and_f"}),
    "MOSE v2": (recent.mose_v2, "MOSEv2", {"j_and_f", "j_disappear"}),
    "PUMaVOS": (promptable.pumavos, "SAV", {"j_and_f"}),
    "LVVIS": (lvvis, "SAV", {"j_and_f"}),
    "ESD": (promptable.esd, "SAV", {"j_and_f"}),
    "RefCOCO": (lambda root, scene: refer.refcoco(root), "RefCOCO", {"o_iou", "m_iou", "p@0.9"}),
    "GRefCOCO": (lambda root, scene: refer.grefcoco(root), "GRefCOCO", {"g_iou", "c_iou", "n_acc", "t_acc"}),
    "RefZOM": (lambda root, scene: refer.ref_zom(root), "RefZOM", {"o_iou", "m_iou", "acc"}),
    "OwnVideos": (referring.own, "JAndF", {"j_and_f", "j_and_f/by_anna", "j_and_f/multi", "j_and_f/no_target"}),
    "OwnVideos objects": (referring.own, "JAndF", {"j_and_f"}),
    "ClipWithMasks": (lambda root, scene: "tests/data/horsejump", "JAndF", {"j_and_f"}),
    "SA1B": (promptable.sa1b, "RefCOCO", {"o_iou"}),
    "LVOS": (recent.lvos, "LVOS", {"j_and_f", "j_seen", "v_unseen"}),
    "LongRVOS": (recent.long_rvos, "LongRVOS", {"j_and_f", "t_iou", "v_iou/hybrid"}),
    "YoURVOS": (recent.yourvos, "YoURVOS", {"j_and_f", "t_iou"}),
    "RefSAV": (recent.ref_sav_eval, "JAndF", {"j_and_f"}),
}
OPTIONS = {
    "OwnVideos objects": {"items": "objects"},
    "DAVIS unsupervised": {"task": "unsupervised"},
    "MOSE v2": {"version": 2},
    "RefYouTubeVOS": {"val_split": "train"},
    "YouTubeVOS": {"val_split": "train"},
    "MOSE": {"val_split": "train"},
}
OPTIONS["MOSE v2"] |= OPTIONS["MOSE"]


def module_of(name, tmp_path):
    make, _, _ = CASES[name]
    kind = name.split(" ")[0]
    options = {"size": 32, "items_per_video_eval": 1, **OPTIONS.get(name, {})}
    if kind in PROMPTABLE or options.get("items") == "objects":
        options["simulate_user"] = data.SimulatedUser()
    module = getattr(data, kind)(make(tmp_path / "x", make_scene(time=14)), **options)
    if kind == "SA1B":
        module.splits["val"] = "train"
    if kind == "RefCOCO":
        module.splits["val"] = "train"
    return module


def test_no_data_set_is_forgotten():
    own = {name for name in data._HOMES if data._HOMES[name].startswith("readers.")}
    assert own == {name.split(" ")[0] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_validate_and_score_agree(name, tmp_path, monkeypatch):
    monkeypatch.chdir(data.__path__[0] + "/../..")
    module = module_of(name, tmp_path)
    writer = MaskWriter(tmp_path / "masks", stage="val", zip=False)
    trainer = Trainer(
        logger=False, callbacks=[writer], default_root_dir=tmp_path, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, accelerator="cpu",
    )  # fmt: skip
    task = RVOSModule(Boxes(), window=4)
    trainer.validate(task, datamodule=VideoDataModule(module), verbose=False)
    validated = {key.removeprefix("val/"): float(value) for key, value in trainer.callback_metrics.items()}
    (metric,) = task.metrics.values()
    reader = module.read("val")
    assert type(metric.protocol).__name__ == CASES[name][1] and reader.licence != "" or name == "ClipWithMasks"
    scored = score(reader, Options(tmp_path / "masks"))
    assert report(scored).count("\n") >= 1 and CASES[name][2] <= validated.keys()
    again = {key: float(value) for key, value in scored.compute().items()}
    assert again.keys() == validated.keys() and scored.said == metric.protocol.said
    for key, value in again.items():
        assert value == pytest.approx(validated[key], abs=1e-6) or math.isnan(value) and math.isnan(validated[key])
    assert metric.protocol.main_score in again and any(0 < value < 1 for value in again.values())


class Headed(Boxes):
    """Also says by a head of its own that nothing is meant, and ranks two masks of which the second is whole."""

    def forward(self, clip, state=None):
        prediction = super().forward(clip, state)
        prediction.no_target_logits = torch.tensor([1.0 if meta.no_target else -1.0 for meta in clip.meta])
        prediction.proposal_logits = torch.stack([prediction.mask_logits, torch.ones_like(prediction.mask_logits)], 2)
        prediction.scores = torch.tensor([0.2, 0.9]).expand(len(clip), clip.time, 2)
        return prediction


def scores_of(network, module):
    trainer = Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        accelerator="cpu",
    )  # fmt: skip
    task = RVOSModule(network)
    trainer.validate(task, datamodule=VideoDataModule(module), verbose=False)
    said = "; ".join(metric.protocol.said for metric in task.metrics.values())
    return {key.removeprefix("val/"): float(value) for key, value in trainer.callback_metrics.items()}, said


def test_a_networks_own_no_target_decision_reaches_the_metric(tmp_path):
    module = module_of("GRefCOCO", tmp_path)
    scores, said = scores_of(Headed(), module)
    assert scores["n_acc"] == scores["t_acc"] == 1.0 and said.endswith("by the network's no-target head")
    scores, said = scores_of(Boxes(), module)
    assert scores["n_acc"] < 1.0 and said.endswith("by empty masks")


def test_ranked_proposals_reach_the_metric(tmp_path):
    module = module_of("A2DSentences", tmp_path)
    whole, _ = scores_of(Headed(), module)
    single, _ = scores_of(Boxes(), module)
    reader = module.read("val")
    truths = [reader.read_masks(i, range(len(reader.videos[item.video].frames))) for i, item in enumerate(reader.items)]
    shares = [float(masks[annotated].float().mean()) for masks, annotated in truths]
    assert whole["m_iou"] == pytest.approx(sum(shares) / len(shares), abs=1e-5) != single["m_iou"]


@pytest.mark.parametrize("other", ["ClipWithMasks", "RefCOCO"])
def test_sources_of_a_mixture_keep_their_protocols(tmp_path, other, monkeypatch):
    monkeypatch.chdir(data.__path__[0] + "/../..")
    sources = {"shapes": data.MovingShapes(size=32, val_clips=2), "other": module_of(other, tmp_path)}
    scores, _ = scores_of(Boxes(), data.Mixture(sources))
    if other == "RefCOCO":
        assert {"j_and_f/moving_shapes", "o_iou/refcoco_unc"} <= scores.keys()
        alone, _ = scores_of(Boxes(), sources["other"])
        assert scores["o_iou/refcoco_unc"] == alone["o_iou"]
    else:
        for name, source in (("moving_shapes", sources["shapes"]), ("clip_with_masks", sources["other"])):
            alone, _ = scores_of(Boxes(), source)
            assert scores[f"j_and_f/{name}"] == pytest.approx(alone["j_and_f"], abs=1e-9)
        assert scores["j_and_f"] not in (scores["j_and_f/moving_shapes"], scores["j_and_f/clip_with_masks"])


def test_sources_of_one_name_are_told_apart(tmp_path):
    roots = [referring.own(tmp_path / name, make_scene(time=time)) for name, time in (("a", 6), ("b", 14))]
    sources = {name: data.OwnVideos(root, size=32) for name, root in zip(("street", "lab"), roots, strict=True)}
    scores, _ = scores_of(Boxes(), data.Mixture(sources))
    for name, root in zip(sources, roots, strict=True):
        alone, _ = scores_of(Boxes(), data.OwnVideos(root, size=32))
        assert scores[f"j_and_f/{name}"] == pytest.approx(alone["j_and_f"], abs=1e-9)
    assert scores["j_and_f/street"] != scores["j_and_f/lab"]


def test_nothing_annotated_is_no_score(tmp_path):
    root = promptable.youtube_vos(tmp_path, make_scene())
    module = data.YouTubeVOS(root, size=32, val_split="valid", simulate_user=data.SimulatedUser())
    with pytest.raises(ValueError, match="no frame of this split is annotated"):
        scores_of(Boxes(), module)


def test_empty_truth_is_said(tmp_path):
    module = module_of("GRefCOCO", tmp_path)
    reader = module.read("val")
    reader.items = [item for item in reader.items if item.no_target]
    _, said = scores_of(Boxes(), module)
    assert "THE TRUTH IS EMPTY" in said
