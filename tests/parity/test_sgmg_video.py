"""SgMg whole, against recordings of the official code: videos, images, annotated frames, a training step, merging."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sgmg_recordings import FOLDER, RESULTS, Recording, clip_of, draw, network, sentences, sliced
from stated import readme, stated
from test_sgmg import recordings, table  # noqa: F401 (a fixture)
from torch import nn

from callbacks.matching import SetMatching, pick, truth_of
from rvos_lightning.core.types import Batch, Candidates, ChosenPrediction, Targets
from rvos_lightning.metrics.id_maps import merge_objects
from rvos_lightning.parts.layers.resize import resize_logits
from rvos_lightning.systems.sgmg.deformable import split_levels
from rvos_lightning.systems.sgmg.official import to_official

pytestmark = pytest.mark.xdist_group("sgmg")
README = readme(FOLDER)
INNER, OUTER, LOSSES = {"atol": 5e-5}, {"atol": 2e-5}, {"atol": 2e-6, "rtol": 1e-5}


class Inside:
    """What parts of a network said in its last call."""

    def __init__(self, built: nn.Module):
        self.built, transformer = built, built.transformer
        self.maps = transformer.levels
        transformer.levels = self.levels
        self.encode = transformer.encode
        transformer.encode = self.encoded
        self.decode = transformer.decode
        transformer.decode = self.decoded
        self.read = built.language.forward
        built.language.forward = self.language

    def language(self, texts):
        self.words, self.real, self.sentence = found = self.read(texts)
        return found

    def levels(self, maps, padding):
        self.sources, self.padding = maps, padding
        return self.maps(maps, padding)

    def encoded(self, levels):
        self.memory = self.encode(levels)
        return self.memory

    def decoded(self, memory, sentence):
        self.found = self.decode(memory, sentence)
        return self.found

    def check(self, golden: Recording, clip):
        """All arrays from inside that the recording holds."""
        time = len(self.sources[0]) // len(clip)
        found = {"word_proj": self.words, "sentence_proj": self.sentence}
        for level, (source, mask) in enumerate(zip(self.sources, self.padding, strict=True)):
            found[f"src{level}"] = source
            if f"mask{level}" in golden:
                assert torch.equal(golden[f"mask{level}"].bool(), mask.repeat_interleave(time, 0))
        found |= {f"memory{level}": part for level, part in enumerate(split_levels(self.memory)[:3])}
        found["hs"] = self.found.states
        for name, value in found.items():
            if name in golden:
                golden.check(name, value, **INNER)
        outer = {"init_reference": self.found.start, "inter_references": self.found.boxes}
        seen = self.built.see(clip).of_items(clip.video)
        _, features, _ = self.built.answer(clip, seen)
        every = self.built.coarse(self.found, features, seen).unflatten(1, (len(clip), time))
        outer["patch_mask_first_layer"], outer["patch_mask_last"] = every[0].flatten(1, 2), every[-1].flatten(1, 2)
        for name, value in outer.items():
            if name in golden:
                golden.check(name, value, **OUTER)


@recordings("e2e_infer_*.safetensors")
@torch.no_grad()
def test_video(path):
    golden = Recording(path)
    c = golden.config
    built = network(c)
    clip = clip_of([draw("e2e.frames", (c["T"], 3, c["H"], c["W"]))], sentences(golden["input_ids"]))
    inside = Inside(built)
    prediction = built(clip)
    inside.check(golden, clip)
    chosen = prediction.chosen[-1]
    assert torch.equal(chosen, golden["chosen_query"])
    candidates = prediction.candidates
    golden.check("query_scores_mean", candidates.logits[-1, 0].sigmoid().mean(0), **OUTER)
    golden.check("pred_logits", candidates.logits[-1][..., chosen, None], **OUTER)
    golden.check("pred_boxes", candidates.boxes[-1][..., chosen, :], **OUTER)
    golden.check("reference_points", candidates.boxes[-2][..., chosen, :2], **OUTER)
    golden.check("pred_masks", prediction.refined[-1][:, :, None], **OUTER)
    size = (c["H"], c["W"])
    frames = prediction.mask_logits.transpose(0, 1)  # one a row: torch's bilinear kernels differ by 2e-5 between forms
    resized = resize_logits(frames, size, [size] * len(frames), tuple(c["orig_hw"]))[:, 0]
    golden.check("resized_logits", resized, **OUTER)
    assert ((resized > 0).flatten(1).sum(1) - golden["binary_area"]).abs().max() <= 3
    golden.finish()


@recordings("e2e_ris*.safetensors")
@torch.no_grad()
def test_images_with_all_queries(path):
    golden = Recording(path)
    c = golden.config
    built = network(c, eval_multiple=32, proposals=True)
    inputs = inputs_of(golden, ("ris.im0", "ris.im1"), 1, (14, 30))
    clip = clip_of(inputs, sentences(golden["input_ids"], golden["attention_mask"]))
    inside = Inside(built)
    prediction = built(clip)
    inside.check(golden, clip)
    golden.check("pred_logits", prediction.candidates.logits[-1][..., None], **OUTER)
    golden.check("pred_boxes", prediction.candidates.boxes[-1], **OUTER)
    check_cropped(golden, "pred_masks", prediction.proposal_logits, **OUTER)
    for item, size in enumerate(golden["orig_sizes_hw"].tolist()):
        order = prediction.scores[item, 0].argsort(descending=True)
        golden.check(f"post_scores{item}", prediction.scores[item, 0, order], **OUTER)
        boxes = prediction.candidates.boxes[-1][item, 0, order]
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], -1)
        scale = torch.tensor([size[1], size[0]] * 2)
        golden.check(f"post_boxes_xyxy{item}", corners * scale, atol=2e-5 * max(size))
        frame = tuple(clip.frames.shape[-2:])
        logits = prediction.proposal_logits[item, 0, order][:, None]
        masks = resize_logits(logits, frame, [clip.meta[item].size] * len(order), tuple(size)) > 0
        assert (masks.flatten(1).sum(1) - golden[f"post_mask_area{item}"]).abs().max() <= 3
    golden.finish()


@recordings("e2e_a2d*.safetensors")
@torch.no_grad()
def test_annotated_frame(path):
    golden = Recording(path)
    c = golden.config
    frames = golden["valid_indices"].tolist()
    built = network(c, eval_multiple=32, proposals=True, frames="middle")
    inputs = inputs_of(golden, ("a2d.v0", "a2d.v1"), c["T"], (16, 0))
    texts = sentences(golden["input_ids"], golden["attention_mask"])
    clip = clip_of(inputs, texts)
    # the recording's annotated frames lie anywhere; ours is the middle one of its clip, so the taps are turned
    swin = built.backbone.forward

    def turned(x):
        taps = [tap.unflatten(0, x.shape[:2]) for tap in swin(x)]
        rolled = [
            torch.stack([row.roll(c["T"] // 2 - at, 0) for row, at in zip(tap, frames, strict=True)]) for tap in taps
        ]
        return tuple(tap.flatten(0, 1) for tap in rolled)

    built.backbone.forward = turned
    inside = Inside(built)
    prediction = built(clip)
    golden.check("hs", inside.found.states, **INNER)
    golden.check("pred_logits", prediction.candidates.logits[-1][..., None], **OUTER)
    golden.check("pred_boxes", prediction.candidates.boxes[-1], **OUTER)
    middle = prediction.proposal_logits[:, c["T"] // 2 : c["T"] // 2 + 1]
    check_cropped(golden, "pred_masks", middle, **OUTER)
    assert bool((prediction.mask_logits[:, 0] < -50).all())
    golden.finish()


def inputs_of(golden: Recording, names: tuple[str, str], time: int, less: tuple[int, int]) -> list[torch.Tensor]:
    """The two inputs of a batch; sizes that the metadata leaves out stand in the README, else one is `less` smaller."""
    c = golden.config
    sizes = c.get("sizes") or [
        stated(README, rf"I\('{name}',\[\d+,3,(\d+),(\d+)\]\)", (c["H"], c["W"])) for name in names
    ]
    if sizes[0] != (c["H"], c["W"]) or sizes[1] == sizes[0]:  # another set's README, or none
        sizes = [(c["H"], c["W"]), (c["H"] - less[0], c["W"] - less[1])]
    return [draw(name, (time, 3, *size)) for name, size in zip(names, sizes, strict=True)]


def missing(masks, multiple):
    """Right and bottom padding up to the next multiple, as `F.pad` takes it."""
    height, width = masks.shape[-2:]
    return (0, -width % multiple, 0, -height % multiple)


def check_cropped(golden: Recording, name: str, masks: torch.Tensor, **tolerance) -> None:
    """Compare on the clip's frames; what the network padded is not given out, so nothing is known of all the rest."""
    full = F.pad(masks, missing(masks, 32), value=torch.nan)
    theirs = golden[name].double()
    assert list(full.shape) == golden.tensors[name]["full_shape"]
    ours = sliced(full, golden.tensors[name]["slice"]).double()
    inside = ~ours.isnan()
    error = float((ours - theirs)[inside].abs().max())
    RESULTS.append((golden.path.stem, name, error))
    assert inside.any() and error <= tolerance["atol"], (name, error)


@recordings("matcher*.safetensors")
def test_matcher(path):
    golden = Recording(path)
    batch, candidates = made(golden, ["last"])
    rule = SetMatching()
    names = {"class": "ce", "bbox": "bbox", "giou": "giou", "mask": "mask", "dice": "dice"}
    published = {f"cost_{theirs}": rule.weights[ours] for theirs, ours in names.items()}
    assert golden.config.get("weights", published) == published
    costs = rule.costs(candidates, truth_of(batch, candidates))
    for theirs, ours in names.items():
        golden.check(f"cost_{theirs}", costs[ours][0], **LOSSES)
    golden.check("total", sum(rule.weights[name] * cost[0] for name, cost in costs.items()), **LOSSES)
    assert torch.equal(rule.choose(batch, candidates)[0], golden["chosen_query"])
    golden.finish()


@recordings("losses*.safetensors")
def test_losses(path):
    golden = Recording(path)
    tags = sorted({name.removeprefix("chosen_") for name in golden.arrays if name.startswith("chosen_")})
    batch, candidates = made(golden, tags)
    rule = SetMatching()
    chosen = rule.choose(batch, candidates)
    for row, tag in zip(chosen, tags, strict=True):
        assert torch.equal(row, golden[f"chosen_{tag}"])
    c = golden.config
    b, t, (height, width) = c["b"], c["t"], c["padded_hw"]
    fine = torch.stack([draw(f"m.{tag}.fine", (b, t, height, width)) for tag in tags])
    coarse = torch.stack([draw(f"m.{tag}.coarse", (b, t, height // 2, width // 2)) for tag in tags])
    leaves = [candidates.logits, candidates.boxes, fine, coarse]
    for leaf in leaves:
        leaf.requires_grad_()
    shown = candidates.mask_logits.clone()
    for layer, row in enumerate(chosen):
        for item, query in enumerate(row):
            shown[layer, item, :, query] = coarse[layer, item]
    candidates = replace(candidates, mask_logits=shown)
    terms = rule.terms(batch, ChosenPrediction(fine[-1], candidates=candidates, chosen=chosen, refined=fine))
    for name, value in terms.items():
        golden.check(f"loss_{name}", (value / c["weights"][f"loss_{name}"])[None], **LOSSES)
    total = torch.stack(list(terms.values())).sum()
    golden.check("total_weighted", total[None], **LOSSES)
    total.backward()
    for name, leaf in zip(("logits", "boxes", "masks", "masks_low"), leaves, strict=True):
        grad = leaf.grad[-1][..., None] if name == "logits" else leaf.grad[-1]
        golden.check(f"grad_last_pred_{name}", grad, **LOSSES)
    golden.finish()


def made(golden: Recording, tags: list[str]) -> tuple[Batch, Candidates]:
    """Recorded targets as a batch, and seeded candidates with one layer a tag."""
    c = golden.config
    b, t, q, (height, width) = c["b"], c["t"], c["q"], c["padded_hw"]
    sizes = [tuple(golden[f"target{item}_size_hw"].tolist()) for item in range(b)]
    rects = [golden[f"target{item}_rects_xyxy"].tolist() for item in range(b)]
    batch = batch_of(clip_of([torch.zeros(t, 3, *size) for size in sizes], ["1"] * b), rects)
    candidates = Candidates(
        torch.stack([draw(f"m.{tag}.logits", (b, t, q, 1))[..., 0] for tag in tags]),
        torch.stack([draw(f"m.{tag}.boxes", (b, t, q, 4)).sigmoid() for tag in tags]),
        torch.stack([draw(f"m.{tag}.masks", (b, t, q, height // 2, width // 2)) for tag in tags]),
    )
    truth = truth_of(batch, candidates)
    for item in range(b):
        golden.check(f"target{item}_boxes", truth.boxes[item], atol=1e-6)
        assert torch.equal(truth.present[item].long(), golden[f"target{item}_valid"])
    return batch, candidates


def batch_of(clip, rects) -> Batch:
    """Targets that are rectangles [item][frame] = left, top, right, bottom; an empty one is an absent object."""
    masks = torch.zeros(len(rects), len(rects[0]), *clip.frames.shape[-2:], dtype=torch.bool)
    for item, frames in enumerate(rects):
        for frame, (left, top, right, bottom) in enumerate(frames):
            masks[item, frame, top:bottom, left:right] = True
    return Batch(clip, Targets(masks, torch.ones(masks.shape[:2], dtype=torch.bool)))


@recordings("e2e_train*.safetensors")
def test_training_step(path):
    golden = Recording(path)
    c = golden.config
    videos = [draw(f"train.v{i}", (c["T"], 3, *size)) for i, size in enumerate(c["sizes"])]
    clip = clip_of(videos, sentences(golden["input_ids"], golden["attention_mask"]))
    batch = batch_of(clip, c["rects_xyxy"])
    built = network(c, eval_multiple=32)
    rule = SetMatching()
    inside = Inside(built)
    costs = {}

    def choose(candidates):
        costs.update(rule.costs(candidates, truth_of(batch, candidates)))
        return rule.choose(batch, candidates)

    prediction = built(clip, choose=choose)
    chosen, candidates = prediction.chosen, prediction.candidates
    layers = ["aux0", "aux1", "aux2", "last"]
    for row, tag in zip(chosen, layers, strict=True):
        assert torch.equal(row, golden[f"chosen_{tag}"])
    totals = sum(rule.weights[name] * cost for name, cost in costs.items())
    golden.check("match_cost_totals", totals.roll(1, 0).flatten(0, 1), atol=2e-5, rtol=1e-5)
    for layer, tag in enumerate(layers):
        prefix = "" if tag == "last" else f"{tag}_"
        golden.check(f"{prefix}pred_logits", candidates.logits[layer][..., None], **OUTER)
        golden.check(f"{prefix}pred_boxes", candidates.boxes[layer], **OUTER)
        golden.check(f"{prefix}pred_masks", prediction.refined[layer], **OUTER)
    golden.check("pred_masks_low", pick(candidates.mask_logits.transpose(2, 3), chosen)[-1], **OUTER)
    terms = rule.terms(batch, prediction)
    assert len(terms) == 28
    for name, value in terms.items():
        golden.check(f"loss_{name}", (value / rule.weights[name.split("_")[0]])[None], atol=2e-5, rtol=1e-5)
    total = torch.stack(list(terms.values())).sum()
    golden.check("total_weighted", total[None], atol=2e-5, rtol=1e-5)
    with torch.no_grad():
        inside.check(golden, clip)
    total.backward()
    grads = {name: p.grad for name, p in built.named_parameters() if p.grad is not None}
    grads = to_official(grads)[0]
    for name in (name for name in golden.arrays if name.startswith("grad.")):
        golden.check(name, grads[name.removeprefix("grad.")].flatten(), atol=0, of_greatest=1e-3)
    norms = torch.stack([grads[name].norm() for name in c["grad_names"]])
    error = ((norms - golden["grad_norms"]).abs() / golden["grad_norms"].abs().clamp(min=1e-7)).max()
    RESULTS.append((path.stem, "grad_norms, relative", float(error)))
    golden.check("grad_norms", norms, atol=1e-8, rtol=1e-3)
    golden.finish()


@recordings("davis_merge*.safetensors")
def test_objects_merged(path):
    golden = Recording(path)
    c = golden.config
    probabilities = draw("davis.logits", [c[name] for name in "OTHW"]).sigmoid()
    merged = merge_objects(probabilities)
    labels = (merged * torch.arange(1, len(merged) + 1)[:, None, None, None]).sum(0)
    golden.check("labels", labels, atol=0)
    golden.finish()
