"""Every metric against recordings of the official evaluators. Integers exact, floats to 1e-9 (frames to 1e-12)."""

import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from metrics_recordings import FOLDER, LOCAL, draw, feed, id_maps, meta_of, pert, planes, seed, shift
from pycocotools import mask as rle

from rvos_lightning.core.types import Facts, SegmentedWindow, Targets
from rvos_lightning.data.clips.simulated_user import centre_of_error, first_click, overlap
from rvos_lightning.metrics import (
    A2D,
    SAV,
    DAVISSemi,
    DAVISUnsupervised,
    GRefCOCO,
    LongRVOS,
    MeViS,
    MOSEv2,
    RefCOCO,
    RefDAVISA,
    RefDAVISB,
    ReVOS,
)
from rvos_lightning.metrics.assigned import assign
from rvos_lightning.metrics.mose import (
    adaptive_measure,
    lopsided_disk,
    object_scores,
    smoothed_similarity,
    standard_measure,
)
from rvos_lightning.metrics.region_boundary import (
    COUNTS,
    boundary_measure,
    boundary_radius,
    frame_counts,
    mean_recall_decay,
    region_similarity,
)
from rvos_lightning.metrics.revos import percent
from rvos_lightning.metrics.shifted_planes import plane_counts

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
ERRORS = {}
RECORDED = ("inter", "union", "nb_gt", "nb_pred", "match_gt", "match_pred", "area_gt", "area_pred")
HEADLINE = {
    "J&F-Mean": "j_and_f",
    "J-Mean": "j",
    "J-Recall": "j_recall",
    "J-Decay": "j_decay",
    "F-Mean": "f",
    "F-Recall": "f_recall",
    "F-Decay": "f_decay",
}
KINDS = (
    "per_frame",
    "davis_semi",
    "davis_unsup",
    "edge_cases",
    "shift_sweep",
    "statistics",
    "radius",
    "sav_real",
    "sav",
    "refdavis",
    "ris_a2d",
    "misc",
    "results",
    "revos_results",
)
SUPPORT = ("meta_expressions", "mask_dict", "mask_dict_foreground")
FILES = sorted(path for path in FOLDER.rglob("*.json") if not {"data", "masks"} & set(path.relative_to(FOLDER).parts))


def kind_of(path):
    """The longest kind the file's name starts with or contains."""
    found = [kind for kind in (*KINDS, *SUPPORT) if re.search(rf"(^|[^a-z]){kind}([^a-z]|$)", path.stem)]
    return max(found, key=len, default=None)


def of_kind(kind):
    own = [path for path in FILES if kind_of(path) == kind]
    return pytest.mark.parametrize("path", own, ids=lambda p: str(p.relative_to(FOLDER)))


def load(path):
    return json.loads(path.read_text())


def close(name, got, expected, tolerance=1e-9):
    """Compare numbers (None = NaN) and remember the largest error for the closing table."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape and (np.isnan(got) == np.isnan(expected)).all(), (name, got, expected)
    error = float(np.nan_to_num(np.abs(got - expected)).max(initial=0.0))
    count, worst = ERRORS.get(name, (0, 0.0))
    ERRORS[name] = (count + got.size, max(worst, error))
    assert error <= tolerance, (name, got, expected)


def count_pair(name, truth, predicted, expected):
    """Both back ends give the recorded integers, and J and F follow."""
    counts = frame_counts(truth, predicted)
    flat = [m.reshape(-1, *m.shape[-2:]) for m in (truth, predicted)]
    if truth.numel() < 3e6:
        planes_too = plane_counts(*flat, boundary_radius(*truth.shape[-2:])).reshape(counts.shape)
        assert torch.equal(counts, planes_too)
    for column, key in enumerate(COUNTS):
        assert counts[..., column].tolist() == expected[key], (name, key)
    integers, _ = ERRORS.get(f"{name}: integers", (0, 0))
    ERRORS[f"{name}: integers"] = (integers + counts.numel(), 0.0)
    close(f"{name}: J", region_similarity(counts), expected["J"], 1e-12)
    close(f"{name}: F", boundary_measure(counts), expected["F"], 1e-12)


@pytest.fixture(scope="module", autouse=True)
def parity_table():
    """Prints metric, cases and largest error (pytest -s)."""
    yield
    print("\n" + "\n".join(f"{name:45s} {n:7d} cases  max error {e:.1e}" for name, (n, e) in ERRORS.items()))


def test_every_file_is_tested():
    assert FILES, f"no recordings in {FOLDER}"
    unknown = [str(path.relative_to(FOLDER)) for path in FILES if kind_of(path) is None]
    assert not unknown, f"no test reads {unknown}"


@of_kind("per_frame")
def test_per_frame(path):
    for name, facts in load(path)["sequences"].items():
        maps = id_maps(name, "gt")
        assert maps.shape == (len(facts["frames"]), facts["height"], facts["width"])
        truth = planes(maps, facts["objects"])
        for block, predicted in (("osvos", id_maps(name, "pred")), ("pert", pert(maps))):
            assert boundary_radius(facts["height"], facts["width"]) == facts[block]["radius"]
            count_pair(f"per frame, {block}", truth, planes(predicted, facts["objects"]), facts[block])


@of_kind("edge_cases")
def test_edge_cases(path):
    for case in load(path)["cases"]:
        truth, predicted = (torch.from_numpy(draw(case[k], case["h"], case["w"])) for k in ("gt", "pred"))
        assert boundary_radius(case["h"], case["w"]) == case["radius"]
        count_pair("edge cases", truth, predicted, case)


@of_kind("shift_sweep")
def test_shift_sweep(path):
    for case in load(path)["sweep"]:
        maps = id_maps(case["seq"], "gt", (case["frame"],))[0]
        truth = maps == case["object"]
        moved = shift(truth, case["dy"], case["dx"])
        count_pair("shift sweep", torch.from_numpy(truth), torch.from_numpy(moved), case)


@of_kind("radius")
def test_radius(path):
    for height, width, radius in load(path)["radius"]:
        assert boundary_radius(height, width) == radius


@of_kind("statistics")
def test_statistics(path):
    for case in load(path)["stats"]:
        values = np.random.RandomState(seed(case["key"])).rand(case["n"])
        if case["nan"]:
            values[np.random.RandomState(seed(case["key"] + "n")).rand(case["n"]) < 0.2] = np.nan
        got = mean_recall_decay(values)
        close("decay, 64-bit", got[2], case["D_intended"])
        if not isinstance(case["M_R_D"], str):
            close("mean, recall", got[:2], case["M_R_D"][:2])
            if case["n"] < 256:
                close("decay below 256 frames", got[2], case["M_R_D"][2])


def objects_metas(name, labels, frames, size):
    return [meta_of(name, label, frames, size, facts=Facts(object=label)) for label in labels]


def headline(name, scores, expected):
    for key, own in HEADLINE.items():
        if key in expected:
            close(name, scores[own], expected[key])


def per_object(name, rows, expected):
    for stat, key in (("M", ""), ("R", "_recall"), ("D", "_decay")):
        for letter in "JF":
            close(name, [row[f"{letter.lower()}{key}"] for row in rows], expected[f"{letter}_{stat}"])


@of_kind("davis_semi")
def test_davis_semi(path):
    golden = load(path)
    for block in golden.keys() - {"order"}:
        metric = DAVISSemi()
        for name in golden["order"]:
            maps = id_maps(name, "gt")
            labels = range(1, int(maps[0][maps[0] != 255].max()) + 1)  # as the evaluator: those of the first frame
            predicted = id_maps(name, "pred") if block == "osvos" else pert(maps)
            metas = objects_metas(name, labels, len(maps), maps.shape[1:])
            feed(metric, planes(maps, labels), planes(predicted, labels), metas, windows=3)
        headline("DAVIS semi", metric.compute(), golden[block]["global"])
        rows = {f"{row['video']}_{row['item']}": row for row in metric.table()}
        assert rows.keys() == set(golden[block]["keys"])
        per_object("DAVIS semi per object", [rows[key] for key in golden[block]["keys"]], golden[block])


@of_kind("davis_unsup")
def test_davis_unsupervised(path):
    golden = load(path)
    metric = DAVISUnsupervised()
    for name, rule in golden["rules"].items():
        facts = golden["matching"][name]
        frames = tuple(rule["frames"])
        maps, proposals = id_maps(name, "pred", frames).copy(), id_maps(name, "proposals", frames)
        y0, y1, x0, x1 = rule["void_rect"]
        inside = maps[:, y0:y1, x0:x1]
        inside[inside == 0] = 255
        labels = range(1, facts["n_proposals"] + 1)
        metas = [
            meta_of(name, label, len(frames), maps.shape[1:], facts=Facts(proposal=label > facts["n_gt"]))
            for label in labels
        ]
        truth = planes(maps, labels)
        void = torch.from_numpy(maps == 255).expand(truth.shape)
        feed(metric, truth, planes(proposals, labels), metas, windows=2, void=void)
    units = metric.units()
    for name, facts in golden["matching"].items():
        own = [unit for unit in units if unit.video == name]
        matrix = np.zeros((facts["n_proposals"], facts["n_gt"]))
        for unit in own:
            matrix[int(unit.other or unit.item) - 1, int(unit.item) - 1] = (unit.j.mean() + unit.f.mean()) / 2
        close("DAVIS unsupervised, matrix", matrix, facts["score_matrix"])
        pairs = assign(own)
        assert [int(unit.other or unit.item) for unit in pairs] == facts["proposal_of_row"]
        assert [int(unit.item) for unit in pairs] == facts["gt_of_row"]
        close("DAVIS unsupervised, J", [unit.j for unit in pairs], facts["J"], 1e-12)
        close("DAVIS unsupervised, F", [unit.f for unit in pairs], facts["F"], 1e-12)
    headline("DAVIS unsupervised", metric.compute(), golden["evaluator"]["global"])
    rows = numbered_in_each_video(metric.table())
    keys = golden["evaluator"]["keys"]
    assert rows.keys() == set(keys)
    per_object("DAVIS unsupervised per object", [rows[key] for key in keys], golden["evaluator"])


def numbered_in_each_video(rows):
    """Rows by the evaluator's names: video and place among the rows of that video, from 1."""
    places = Counter()
    named = {}
    for row in rows:
        places[row["video"]] += 1
        named[f"{row['video']}_{places[row['video']]}"] = row
    return named


def annotator_maps(name, frames, count):
    """Id maps of the four simulated annotators of the README."""
    truth, predicted = id_maps(name, "gt", frames), id_maps(name, "pred", frames)
    rotated = np.where(predicted > 0, predicted % count + 1, 0).astype(predicted.dtype)
    last = shift(truth, -3, 9)
    return [predicted, rotated, shift(truth, 6, -4), np.where(last == count, 0, last)]


@of_kind("refdavis")
def test_ref_davis(path):
    golden = load(path)
    a, b, semi = RefDAVISA(), RefDAVISB(), [DAVISSemi() for _ in range(4)]
    for name, facts in golden["sequences"].items():
        frames, labels = tuple(facts["frames"]), range(1, facts["n_objects"] + 1)
        truth = id_maps(name, "gt", frames)
        size, time = truth.shape[1:], len(frames)
        every = [(who, m) for who, m in enumerate(annotator_maps(name, frames, facts["n_objects"]))]
        metas = [meta_of(name, 4 * (k - 1) + who, time, size, facts=Facts(k, who)) for who, _ in every for k in labels]
        masks = torch.cat([planes(m, labels) for _, m in every])
        targets = planes(truth, labels).repeat(4, 1, 1, 1)
        feed(a, targets, masks, metas, windows=2)
        feed(b, targets, masks, metas, windows=3)
        for who, m in every:
            feed(semi[who], planes(truth, labels), planes(m, labels), objects_metas(name, labels, time, size))
        order = sorted(facts_ids(golden, name), key=str)
        assert [golden["flat"]["anno_id_of"][name][key] for key in order] == sorted(
            golden["flat"]["anno_id_of"][name].values()
        )
    scores = a.compute()
    headline("Ref-DAVIS A", scores, golden["unsupervised_average"])
    for who, expected in enumerate(golden["unsupervised_per_annotator"]):
        headline(
            "Ref-DAVIS A per annotator",
            {k: scores[f"{k}/annotator_{who}"] for k in HEADLINE.values()},
            expected["global"],
        )
        headline("Ref-DAVIS, semi-supervised task", semi[who].compute(), golden["semi_per_annotator"][who])
    expressions("Ref-DAVIS B", b, golden["flat"]["per_expression"])
    means("Ref-DAVIS B", b.compute(), golden["flat"])


def facts_ids(golden, name):
    return golden["flat"]["anno_id_of"][name]


def expressions(name, metric, expected):
    rows = {f"{row['video']}_{row['item']}": (row["j"], row["f"]) for row in metric.table()}
    assert rows.keys() == expected.keys()
    close(f"{name} per expression", [rows[key] for key in expected], [value[:2] for value in expected.values()])


def means(name, scores, expected, scale=1.0):
    for key, own in (("J", "j"), ("F", "f"), ("J&F", "j_and_f")):
        close(name, float(scores[own]) * scale, expected[key])


def mevis_items(folder):
    """Per video: truth sums, boolean predictions, foreground and metas of every expression."""
    facts = {name: load(folder / f"{name}.json") for name in SUPPORT}
    for name, video in facts["meta_expressions"]["videos"].items():
        size, time = (video["height"], video["width"]), len(video["frames"])
        maps = id_maps(name, "pred", tuple(video["frames"]))
        sums, predicted, metas = [], [], []
        for key, expression in video["expressions"].items():
            total = np.zeros((time, *size), np.uint8)
            for annotation in expression["anno_id"]:
                for t, one in enumerate(facts["mask_dict"][str(annotation)]):
                    total[t] += rle.decode(one) if one is not None else 0
            sums.append(total)
            predicted.append(np.isin(maps, expression["pred_labels"]))
            kind = ("referring", "reasoning", "no_target")[expression["type_id"]]
            metas.append(meta_of(name, key, time, size, facts=Facts(kind=kind), no_target=kind == "no_target"))
        whole = np.stack([rle.decode(one) for one in facts["mask_dict_foreground"][name]["masks_rle"]]) > 0
        sums = torch.from_numpy(np.stack(sums))
        yield name, sums, torch.from_numpy(np.stack(predicted)), torch.from_numpy(whole).expand(sums.shape), metas


@of_kind("results")
def test_mevis(path):
    golden = load(path)
    metric, missing = MeViS(), MeViS()
    for name, sums, predicted, _, metas in mevis_items(path.parent):
        feed(metric, sums > 0, predicted, metas, windows=2)
        gone = name == golden["missing_video"]["video"]
        feed(missing, sums > 0, torch.zeros_like(predicted) if gone else predicted, metas)
    expressions("MeViS", metric, golden["per_expression"])
    means("MeViS", metric.compute(), golden)
    # a missing folder scores 0 even on frames that are empty on both sides, which an empty mask does not
    gone = [row["video"] == golden["missing_video"]["video"] for row in missing.table()]
    kept = [{k: 0.0 if out else row[k] for k in "jf"} for row, out in zip(missing.table(), gone, strict=True)]
    j, f = (np.mean([row[k] for row in kept]) for k in "jf")
    means("MeViS, missing video", {"j": j, "f": f, "j_and_f": (j + f) / 2}, golden["missing_video"])


@of_kind("revos_results")
def test_revos(path):
    for variant, golden in load(path).items():
        official = ReVOS(arithmetic="uint8", mask_value=255 if variant.endswith("p255") else 1)
        for _, sums, predicted, whole, metas in mevis_items(path.parent):
            feed(official, sums > 0, predicted, metas, windows=2, foreground=whole, multiplicity=sums.long())
        rows = {f"{row['video']}_{row['item']}": [row[k] for k in "jfar"] for row in official.table()}
        assert rows.keys() == golden["per_expression"].keys()
        close(
            "ReVOS per expression", [rows[k] for k in golden["per_expression"]], list(golden["per_expression"].values())
        )
        scores = official.compute()
        for group, suffix in (("referring", "/referring"), ("reason", "/reasoning"), ("overall", "")):
            for key, own in (("J", "j"), ("F", "f"), ("A", "a"), ("R", "r"), ("JF", "j_and_f")):
                close("ReVOS summary", float(scores[own + suffix]) * 100, golden["summary"][group][key])
        assert all(
            len(f"{value:.10f}".rstrip("0").split(".")[1]) <= 2
            for u in official.units()
            for name, value in percent(u).items()
            if name != "j_and_f"
        )


def dropped(maps, edits):
    """Labels set to 0 on some frame positions."""
    maps = maps.copy()
    for label, frames in edits.items():
        for t in frames:
            maps[t][maps[t] == int(label)] = 0
    return maps


@of_kind("sav")
def test_sav(path):
    golden = load(path)
    for key, expected in golden["results"].items():
        variant, _, skip = key.split("/")
        metric = SAV(skip_first_and_last=skip == "skip=True")
        for name in expected["objects"]:
            truth, predicted = id_maps(name, "gt"), id_maps(name, "pred")
            if variant == "edited":
                edits = golden["edits"].get(name, {})
                truth, predicted = (
                    dropped(truth, edits.get("gt_drop", {})),
                    dropped(predicted, edits.get("pred_drop", {})),
                )
            labels = [int(label) for label in np.union1d(np.unique(id_maps(name, "gt")), np.unique(truth)) if label]
            if variant == golden["extra_label"]["seq"] or variant == "extra_label":
                extra = golden["extra_label"]
                y0, y1, x0, x1 = extra["pred_box"]
                predicted = predicted.copy()
                predicted[extra["frames_idx"], y0:y1, x0:x1] = extra["label"]
                labels.append(extra["label"])
            metas = objects_metas(name, labels, len(truth), truth.shape[1:])
            feed(metric, planes(truth, labels), planes(predicted, labels), metas, windows=2)
        means(f"SA-V {variant}", metric.compute(), expected, scale=100)
        rows = {(row["video"], row["item"]): row for row in metric.table()}
        objects = [(v, o) for v, own in expected["objects"].items() for o in own["J"]]
        folder = key.split("/")[1] == "sav"
        named = {(v, o): rows[v, str(int(o) + 1) if folder and (v, o) not in rows else o] for v, o in objects}
        assert len(rows) == len(objects)
        for letter in "JF":
            got = [named[pair][letter.lower()] * 100 for pair in objects]
            close(f"SA-V {variant} per object", got, [expected["objects"][v][letter][o] for v, o in objects])


def source_of(name):
    """A data file the recordings name, relative to the data folder beside the recordings or to a copy in them."""
    roots = (FOLDER.parents[1] / "data", FOLDER / "data", FOLDER.parent / "data", LOCAL / "metrics" / "data")
    return next(root / name for root in roots if (root / name).is_file())


@of_kind("sav_real")
def test_sav_real(path):
    golden = load(path)
    annotation = load(source_of(golden["source"]))
    first, last, step = map(int, re.fullmatch(r"(\d+)\.\.(\d+) step (\d+)", golden["annotated_indices"]).groups())
    moves = [int(n) for n in re.findall(r"shift\(gt,([+-]?\d+),([+-]?\d+)\)", golden["prediction_rule"]) for n in n]
    every, rest = map(int, re.search(r"j%(\d+)==(\d+)", golden["prediction_rule"]).groups())
    chosen = range(first, last + 1, step)
    masklets = [
        [rle.decode(frame[o]) > 0 for frame in annotation["masklet"]] for o in range(len(annotation["masklet"][0]))
    ]
    positions = [i // step for i in chosen] if len(masklets[0]) < last else list(chosen)
    for key, expected in golden["results"].items():
        metric = SAV(skip_first_and_last=key == "skip=True")
        for video, objects in expected["objects"].items():
            for name in objects["J"]:
                truth = np.stack([masklets[int(name)][p] for p in positions])
                predicted = np.stack([shift(m, *(moves[:2] if j % 2 == 0 else moves[2:])) for j, m in enumerate(truth)])
                predicted[rest::every] = False
                meta = [meta_of(video, name, [4 * i for i in chosen], truth.shape[1:])]
                feed(metric, torch.from_numpy(truth)[None], torch.from_numpy(predicted)[None], meta)
        means("SA-V real annotation", metric.compute(), expected, scale=100)
        rows = {(row["video"], row["item"]): row for row in metric.table()}
        for letter in "JF":
            pairs = [(v, o) for v, own in expected["objects"].items() for o in own["J"]]
            got = [rows[pair][letter.lower()] * 100 for pair in pairs]
            close("SA-V real per object", got, [expected["objects"][v][letter][o] for v, o in pairs])


@of_kind("ris_a2d")
def test_sentences_on_images(path):
    golden = load(path)
    results = golden["results"]
    samples = []
    for s in golden["samples"]:
        truth = torch.from_numpy(draw(s["gt"], s["h"], s["w"]))[None, None]
        candidates = torch.from_numpy(np.stack([draw(p, s["h"], s["w"]) for p in s["preds"]]))[None, None]
        scores = torch.from_numpy(np.random.RandomState(seed(s["key"] + "s")).rand(len(s["preds"])))[None, None]
        samples.append((s["i"], truth, candidates, scores))
    for name, expected in results.items():
        if name.startswith(("a2d_", "ris_single_")):
            a2d_and_single(name, expected, samples)
    per_sample(results["per_sample"], samples)
    sa2va_res(results["sa2va_res"], samples)
    generalised(results, samples)


def sa2va_res(expected, samples):
    """Where no prediction is missing, Sa2VA's evaluator (float32 sums, 1e-5 in each union) sums what RefCOCO sums."""
    metric = RefCOCO(empty=1.0)
    for i, truth, candidates, _ in samples:
        metric.update(
            SegmentedWindow(candidates[:, :, 0], targets(truth), [meta_of(f"{i:04d}", 0, 1, truth.shape[-2:])])
        )
    scores, (c_iou, g_iou) = metric.compute(), re.findall(r"IoU: ([\d.]+)", expected["no_missing"]["line"])
    close("Sa2VA RES, cIoU", [scores["o_iou"]] * 2, [expected["no_missing"]["cIoU"], float(c_iou)], 1e-6)
    close("Sa2VA RES, gIoU", scores["m_iou"], float(g_iou), 1e-6)


def a2d_and_single(name, expected, samples):
    metric, exact = A2D(), RefCOCO(strict=True, empty=1.0)
    for i, truth, candidates, scores in samples:
        if i in expected["indices"]:
            meta = [meta_of(f"{i:04d}", 0, 1, truth.shape[-2:])]
            window = SegmentedWindow(candidates[:, :, 0], targets(truth), meta)
            ranked = replace(window, proposals=candidates, scores=scores)
            metric.update(ranked if name.startswith("a2d") else window)
            exact.update(window)
    got = metric.compute()
    names = {
        "mAP": "map",
        "AP50": "ap@0.5",
        "AP75": "ap@0.75",
        "AP_S": "map_small",
        "AP_M": "map_medium",
        "AP_L": "map_large",
    }
    for key, own in names.items():
        if key in expected:
            close("A2D mAP", -1.0 if math.isnan(got[own]) else got[own], expected[key])
    close("A2D P@K", [got[f"p@0.{k}"] for k in range(5, 10)], expected["P@0.5..0.9"])
    close("A2D overall IoU", got["o_iou"], expected["overall_iou"])
    close("A2D mean IoU", got["m_iou"], expected["mean_iou"], 1e-9)
    if not name.startswith("a2d"):
        close("RefCOCO oIoU", exact.compute()["o_iou"], expected["overall_iou"])


def targets(truth):
    return Targets(truth, torch.ones(truth.shape[:2], dtype=torch.bool))


def per_sample(expected, samples):
    from rvos_lightning.metrics.overlap import iou_float32, overlap_counts

    for facts, (_, truth, candidates, scores) in zip(expected, samples, strict=True):
        best = int(np.argsort(scores[0, 0].numpy(), kind="stable")[-1])
        assert best == facts["best_scored"]["query"]
        for number, key in ((0, "single"), (best, "best_scored")):
            inter, union = overlap_counts(truth[0], candidates[0, :, number]).numpy()[0, :2]
            assert (inter, union) == (facts[key]["inter"], facts[key]["union"])
            close("IoU per sample, float32", iou_float32(inter, union), facts[key]["iou"], 1e-12)


def generalised(results, samples):
    flags = {flag["i"]: flag for flag in results["gres"]["flags"]}
    metric, plain = GRefCOCO(), GRefCOCO()
    for i, truth, candidates, _ in samples:
        gt_none = flags[i]["gt_nt"]
        meta = meta_of(str(i), 0, 1, truth.shape[-2:], no_target=gt_none)
        said, masks = torch.tensor([flags[i]["pred_nt"]]), candidates[:, :, 0]
        metric.update(SegmentedWindow(masks, targets(truth & (not gt_none)), [meta], no_target=said))
        if truth.any():
            own = [replace(meta, no_target=False)]
            plain.update(SegmentedWindow(masks, targets(truth), own, no_target=torch.tensor([False])))
    for got, expected in ((metric.compute(), results["gres"]["result"]), (plain.compute(), results["gres_refcoco"])):
        names = {"gIoU": "g_iou", "cIoU": "c_iou", "Pr@0.7": "p@0.7", "Pr@0.8": "p@0.8", "Pr@0.9": "p@0.9"}
        close("gRefCOCO", [float(got[own]) * 100 for own in names.values()], [expected[key] for key in names])
        close("gRefCOCO accuracies", [got["t_acc"], got["n_acc"]], [expected["T_acc"], expected["N_acc"]])


def first_frames(case, count):
    """Truth and prediction of one label with some positions emptied."""
    truth, predicted = (id_maps(case["seq"], side)[:count] == case["label"] for side in ("gt", "pred"))
    truth[case["gt_drop"]], predicted[case["pred_drop"]] = False, False
    return torch.from_numpy(truth)[None], torch.from_numpy(predicted)[None]


@of_kind("misc")
def test_long_rvos(path):
    for case in load(path)["long_rvos"]:
        truth, predicted = first_frames(case, case["n_frames"])
        metric = LongRVOS()
        feed(
            metric, truth, predicted, [meta_of(case["seq"], case["label"], truth.shape[1], truth.shape[2:])], windows=4
        )
        got = metric.compute()
        close(
            "Long-RVOS", [got[k] for k in ("j", "f", "t_iou", "v_iou")], [case[k] for k in ("J", "F", "tIoU", "vIoU")]
        )


@of_kind("misc")
def test_mose_v2(path):
    golden = load(path)
    for radius, rows in golden["disk_noninteger"].items():
        assert lopsided_disk(float(radius)).tolist() == rows
    for case in golden["mosev2"]:
        truth, predicted = first_frames(case, len(case["frames_idx"]))
        metric = MOSEv2()
        feed(metric, truth, predicted, [meta_of(case["seq"], case["label"], truth.shape[1], truth.shape[2:])])
        (unit,) = metric.units()
        assert (~unit.seen_gt).tolist() == case["empty_gt"]
        close("MOSEv2 J", smoothed_similarity(unit.counts), case["J_smoothed"], 1e-12)
        close("MOSEv2 F", standard_measure(unit), case["F_standard"], 1e-12)
        close("MOSEv2 F adaptive", adaptive_measure(unit.counts), case["F_adaptive"], 1e-12)
        (merged,) = (value for key, value in case.items() if key.startswith("merged"))
        close("MOSEv2 merged", list(object_scores(unit).values()), merged)


@of_kind("misc")
def test_clicks(path):
    for case in load(path)["clicks"]:
        truth = id_maps(case["seq"], "gt")[case["t"]] == case["label"]
        shown = torch.from_numpy(truth)
        assert list(first_click(shown)) == case["first_click_xy"]
        for answer in case["next"]:
            predicted = click_prediction(answer["pred"], case, truth)
            point, label = centre_of_error(shown, torch.from_numpy(predicted))
            assert (list(point), label) == (answer["xy"], answer["label"])
            if (truth | predicted).any():
                close("click IoU", overlap(shown, torch.from_numpy(predicted)), answer["iou_eps1e-6"], 1e-6)


def click_prediction(name, case, truth):
    if name.startswith("shift"):
        return shift(truth, *map(int, name.removeprefix("shift").split("_")))
    stored = id_maps(case["seq"], "pred")[case["t"]] == case["label"]
    return {"pred": stored, "empty": np.zeros_like(truth), "same": truth}[name]
