"""Matching, losses, gradients and one optimizer step of SAM + CLIP against recordings of the released code."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from clip_sam_recordings import FOLDER, Recording, files, network, sentences, tag_of
from stated import OWN, slices

from callbacks.bridge import DecoderMasks, NoTarget, QueryMatching, instances
from rvos_lightning.core.optim import param_groups
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Facts, Targets
from rvos_lightning.parts.point_matching import match, uncertain_points
from rvos_lightning.systems.clip_sam.bridge import ImageFeatures
from rvos_lightning.systems.clip_sam.official import to_official
from rvos_lightning.systems.clip_sam.outputs import BridgePrediction, QueryOutput

ROOT = Path(__file__).parents[2]
OUTPUTS = ("last", "aux0", "aux1", "aux2")
SUFFIX = {"last": "", "aux0": "_0", "aux1": "_1", "aux2": "_2"}
WEIGHTS = {"code": (2.0, 0.5, 2.0), "seed": (0.5, 2.0, 1.0)}
"""Preset -> bce and dice of the mask decoder, CLIP term."""


def recordings(pattern):
    """One parameter per file, named after it."""
    return pytest.mark.parametrize("path", files(pattern), ids=lambda path: path.stem)


class Drawn:
    """The recorded random points, in the order in which they are asked for."""

    def __init__(self, golden, tag, batch, matched):
        self.golden, self.names = golden, []
        for out in OUTPUTS:
            self.names += [f"{tag}.match.{out}.{b}" for b in range(batch)]
            self.names += [f"{tag}.over.{out}", f"{tag}.fill.{out}"] if matched else []

    def __call__(self, *shape, device=None):
        return self.golden.uniform(self.names.pop(0), *shape)


def batch_of(golden, height, width):
    """Rectangles as targets; labels as categories."""
    rects, labels = golden.config["rects"], golden.config["labels"]
    masks = torch.zeros(len(rects), 1, height, width, dtype=torch.bool)
    objects, owner = [], []
    for b, own in enumerate(rects):
        for x1, y1, x2, y2 in own:
            one = torch.zeros(1, height, width, dtype=torch.bool)
            one[:, y1:y2, x1:x2] = True
            masks[b] |= one
            objects.append(one)
            owner.append(b)
    known = torch.ones(len(rects), 1, dtype=torch.bool)
    targets = Targets(masks, known, instances=torch.stack(objects), instance_item=torch.tensor(owner))
    size = (height, width)
    meta = [
        ClipMeta(str(b), "0", ("0",), size, size, (0,), facts=Facts(category=", ".join(map(str, own)) or None),
                 no_target=not own)
        for b, own in enumerate(labels)
    ]  # fmt: skip
    frames = torch.zeros(len(rects), 1, 3, 8, 8)
    return Batch(Clip(frames, torch.arange(len(rects)), ["-"] * len(rects), meta), targets)


def losses_prediction(golden):
    """The seeded predictions of the loss files."""
    batch, (height, width) = golden.config["B"], golden.config["canvas_hw"]
    outputs = {}
    for out in OUTPUTS:
        masks = 2 * golden.normal(f"loss.{out}.masks", batch, 100, 64, 64)
        masks = masks + 3 * golden.normal(f"loss.{out}.masks.offset", batch, 100, 1, 1)
        clip = 3 * golden.normal(f"loss.{out}.clip", batch, 100, batch + 134)
        sentence = 2 * golden.normal(f"loss.{out}.bert", batch, 100, batch)
        leaves = [x.requires_grad_() for x in (masks, clip, sentence)]
        outputs[out] = QueryOutput(leaves[0], torch.arange(batch), leaves[1], leaves[2])
    grown = golden.config["kind"] == "gres"
    return BridgePrediction(
        (3 * golden.normal("loss.sam", batch, 1, height, width)).requires_grad_(),
        covers="picture",
        outputs=[outputs[out] for out in ("aux0", "aux1", "aux2", "last")],
        column=torch.arange(batch),
        target_logits=(2 * golden.normal("loss.no_target", batch, 2)).requires_grad_() if grown else None,
    )


def objectives(golden, preset, tag, batch):
    """The released losses; canvas 0: the recorded logits have the truth's size."""
    bce, dice, clip = WEIGHTS[preset]
    grown = golden.config["kind"] == "gres" if "kind" in golden.config else "no_target_logits" in golden
    queries = QueryMatching(clip=clip, ignore="none" if grown else "same_category")
    queries.draw = Drawn(golden, tag, batch, matched=True)
    return [DecoderMasks(bce, dice, canvas=0, dilute=True), queries]


@recordings("losses*.safetensors")
def test_matching(path):
    golden = Recording(path)
    prediction, batch = losses_prediction(golden), batch_of(golden, *golden.config["canvas_hw"])
    targets = instances(batch.targets, batch.clip.meta)
    by_name = dict(zip(("aux0", "aux1", "aux2", "last"), prediction.outputs, strict=True))
    column = prediction.column
    for preset, start in (("code", ""), ("seed", "seed_preset.")):
        objective = QueryMatching(clip=WEIGHTS[preset][2])
        for out, output in by_name.items():
            objective.draw = numbered(golden, out)
            costs = objective.costs(output, column, targets)
            golden.check(f"{start}cost_total.{out}", flat(costs, targets.counts), atol=1e-4)
            found = match(costs, targets.counts)
            golden.exact(f"{start}chosen_query.{out}", found.query)
            golden.exact(f"{start}chosen_target.{out}", found.target)
            if preset == "code":
                objective.draw = numbered(golden, out)
                for name, value in zip(("bce", "dice"), objective.mask_costs(output, targets), strict=True):
                    golden.check(f"cost_{name}.{out}", flat(value, targets.counts), atol=1e-4)
                check_points(golden, out, output, found)


def numbered(golden, out):
    """Points of the matching, sample by sample."""
    counter = itertools.count()
    return lambda *shape, device=None: golden.uniform(f"loss.points.match.{out}.{next(counter)}", *shape)


def flat(costs, counts):
    """Columns = targets of all samples, one after the other."""
    return torch.cat([costs[b, :, :count] for b, count in enumerate(counts)], 1)


def check_points(golden, out, output, found):
    """The uniform points exactly, the others by the statistics: near-ties swap between machines."""
    names = iter((f"loss.points.over.{out}", f"loss.points.fill.{out}"))
    logits = output.masks[output.image[found.row], found.query].detach()
    points = uncertain_points(logits, 12544, 3.0, 0.75, lambda *s, device=None: golden.uniform(next(names), *s))
    errors = golden.errors(f"points_used.{out}", points)
    index = slices(golden.tensors[f"points_used.{out}"]["slice"])
    uniform = (torch.arange(points.shape[1]) >= 9408)[index[1] if len(index) > 1 else slice(None)]
    assert float(errors[:, uniform].max()) == 0
    assert float((errors > 1e-6).double().mean()) < 0.02
    entry = golden.tensors[f"points_used.{out}"]
    assert abs(float(points.double().mean()) - entry["mean"]) < 1e-5


@recordings("losses*.safetensors")
@pytest.mark.parametrize("preset", ["code", "seed"])
def test_losses(path, preset):
    golden = Recording(path)
    batch = batch_of(golden, *golden.config["canvas_hw"])
    prediction = losses_prediction(golden)
    given = objectives(golden, preset, "loss.points", golden.config["B"])
    if prediction.target_logits is not None:
        given.append(NoTarget())
    terms = {}
    for objective in given:
        terms |= objective.terms(batch, prediction)
    names = {"mask_bce": "main_mask_bce_loss", "mask_dice": "main_mask_dice_loss", "no_target": "nt_loss"}
    for ours, theirs in names.items():
        if ours in terms:
            golden.check(f"weighted.{preset}.{theirs}", terms[ours].reshape(1), atol=1e-6, rtol=1e-5)
    weights = {"loss_ce": given[1].clip, "loss_ce_bertcls": 1.0, "loss_mask": 5.0, "loss_dice": 5.0}
    ours = ("query_class", "query_sentence", "query_mask", "query_dice")
    if preset == "code":
        for name, (theirs, w) in zip(ours, weights.items(), strict=True):
            recorded = sum(float(golden.arrays[f"loss.{theirs}{suffix}"]) for suffix in SUFFIX.values())
            assert float(terms[name].detach()) == pytest.approx(w * recorded, rel=1e-5), name
    total = sum(terms.values())
    golden.check(f"total.{preset}", total.reshape(1), atol=1e-5, rtol=1e-5)
    if preset == "code":
        total.backward()
        last = prediction.outputs[-1]
        found = {"last.pred_masks": last.masks, "last.pred_logits": last.clip_logits, "sam": prediction.mask_logits,
                 "last.pred_logits_bertcls": last.sentence_logits, "nt": prediction.target_logits}  # fmt: skip
        for name, value in found.items():
            if f"grad.{name}" in golden:
                scale = float(golden.arrays[f"grad.{name}"].abs().max())
                golden.check(f"grad.{name}", value.grad, atol=1e-4 * scale)


def training_step(path):
    """Prediction and objectives' terms of a training recording."""
    golden = Recording(path)
    c, batch = golden.config, golden.config["B"]
    grown = "no_target_logits" in golden
    net = network(golden, grown)
    tag = tag_of(path, "trainnt" if grown else "step" if "step" in path.stem else "train")
    images = ImageFeatures(golden.sam_map(f"{tag}.fsam", batch, 64, 64), golden.normal(f"{tag}.v", batch, 576, 1024))
    ids, real = net.tokens(sentences(golden))
    hidden = net.text.finish(net.text.run(net.text.embed(ids, real), real, 0, net.text.depth))
    rows = None if grown else torch.tensor(c["category_rows"])
    texts = net.query(net.word_projection(hidden), real, golden.normal(f"{tag}.t_expr", batch, 768), rows)
    golden.exact("token_ids", ids)
    golden.exact("text_mask", real)
    net.train()
    pairs = torch.arange(batch)
    said = net.segment(images, texts, pairs, pairs)
    golden.check("low_res_logits", said.mask_logits, atol=1e-4)
    given = objectives(golden, "code", f"{tag}.points", batch)
    given[0] = DecoderMasks(dilute=True)
    costs, given[1].costs = given[1].costs, lambda *args: seen.append(costs(*args)) or seen[-1]
    if grown:
        golden.check("no_target_logits", said.target_logits, atol=1e-4)
        given.append(NoTarget())
    data, terms, seen = batch_of(golden, 1024, 1024), {}, []
    for objective in given:
        terms |= objective.terms(data, said)
    counts = [len(own) for own in c["rects"]]
    for out, found in zip(OUTPUTS, seen, strict=True):
        golden.check(f"cost_total.{out}", flat(found, counts), atol=5e-3, queries=3)
        golden.exact(f"chosen_query.{out}", match(found, counts).query)
        golden.exact(f"chosen_target.{out}", match(found, counts).target)
    return golden, net, terms


@recordings("train*.safetensors")
def test_training_step(path):
    golden, net, terms = training_step(path)
    for name, theirs in (("query_class", "loss_ce"), ("query_sentence", "loss_ce_bertcls"), ("query_mask", "loss_mask"),
                         ("query_dice", "loss_dice")):  # fmt: skip
        recorded = sum(float(golden.arrays[f"loss.{theirs}{suffix}"]) for suffix in SUFFIX.values())
        assert float(terms[name].detach()) == pytest.approx(recorded, rel=1e-4), name
    for name, theirs in (("mask_bce", "main_mask_bce_loss"), ("mask_dice", "main_mask_dice_loss"),
                         ("no_target", "nt_loss")):  # fmt: skip
        if name in terms:
            golden.check(f"loss.{theirs}", terms[name].reshape(1), atol=1e-6, rtol=1e-4)
    total = sum(terms.values())
    golden.check("total", total.reshape(1), atol=1e-4, rtol=1e-4)
    total.backward()
    gradients = official_gradients(net)
    names = golden.config["grad_names"]
    norms = torch.stack([gradients[name].norm() for name in names])
    greatest = float(golden.arrays["grad_norms"].max())
    golden.check("grad_norms", norms, atol=1e-6 * greatest, rtol=1e-2)
    for name in golden.config["zero_gradient"]:
        assert not gradients[name].any(), name
    for name in (name for name in golden.arrays if name.startswith("grad.")):
        own = gradients[name.removeprefix("grad.")].flatten()
        golden.check(name, own, atol=1e-2 * float(golden.arrays[name].abs().max()))
    if "delta_norms" in golden:
        check_optimizer_step(golden, net)
    golden.complete("points_used.*", "loss.loss_.*")


def official_gradients(net):
    """Gradients under the released names."""
    own = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return to_official(own)[0]


def check_optimizer_step(golden, net):
    """The recipe's own groups, clipping and optimizer."""
    import yaml

    recipe = yaml.safe_load((ROOT / "configs" / "paper" / "clip_sam_released.yaml").read_text())
    c = golden.config
    net.text.train_only(10)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    groups = param_groups(net, {}, recipe["model"]["no_decay"])
    optimizer = torch.optim.AdamW(groups, lr=c["lr"], weight_decay=c["weight_decay"])
    own = [p for group in groups for p in group["params"]]
    golden.check("optimizer_grad_norm", torch.nn.utils.clip_grad_norm_(own, c["clip_norm"]).reshape(1), 1e-6, 1e-2)
    optimizer.step()
    deltas = to_official({name: p.detach() - before[name] for name, p in net.named_parameters()})[0]
    norms = torch.stack([deltas[name].norm() for name in c["grad_names"]])
    sizes = torch.tensor([deltas[name].numel() for name in c["grad_names"]]).sqrt()
    index = slices(golden.tensors["delta_norms"]["slice"])
    clipped = golden.arrays["grad_norms"] * c["clip_norm"] / golden.arrays["optimizer_grad_norm"] / sizes[index]
    steady = clipped > 1e-10  # biases before a norm have none but rounding: far below AdamW's eps of 1e-8
    errors = golden.errors("delta_norms", norms)
    allowed = 1e-2 * golden.arrays["delta_norms"].double() + 1e-9
    step = c["lr"] * sizes[index].double()
    assert bool((errors <= torch.where(steady, allowed, allowed.maximum(1e-3 * step))).all())
    assert FOLDER.parent != OWN or int((errors > allowed).sum()) <= 4  # as many as our own recording has
    for start in c["unchanged_top"]:  # whole layers, by the beginning of their names
        own = [name for name in deltas if name == start or name.startswith(f"{start}.")]
        assert own and not any(deltas[name].any() for name in own), start
    for name in (name for name in golden.arrays if name.startswith("delta.")):
        errors = golden.errors(name, deltas[name.removeprefix("delta.")].flatten())
        near = errors <= 1e-2 * float(golden.arrays[name].abs().max()) + 1e-9
        # the first step is close to a sign: gradients near 0 flip with the order of sums (0.927 on two threads)
        assert float(near.double().mean()) > 0.9, name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("optimizer_*.json")), ids=lambda path: path.stem)
def test_optimizer_groups(path):
    """Which parameters are decayed, which not, and which are in no group, by name."""
    import yaml

    from rvos_lightning.systems.clip_sam.official import parts_for

    keys = json.loads(
        (ROOT / "tests" / "golden" / "state_dicts" / f"sam_clip_{path.stem.split('_')[1]}.json").read_text()
    )
    net = parts_for({key: torch.empty(shape, device="meta") for key, shape, _ in keys})
    net.text.train_only(10)
    recipe = yaml.safe_load((ROOT / "configs" / "paper" / "clip_sam_released.yaml").read_text())
    names = {id(p): next(iter(to_official({name: p})[0])) for name, p in net.named_parameters()}
    recorded = json.loads(path.read_text())
    found = {"0.0": set(), "0.05": set()}
    for group in param_groups(net, {}, recipe["model"]["no_decay"]):
        found["0.0" if group.get("weight_decay") == 0 else "0.05"] |= {names[id(p)] for p in group["params"]}
    assert {key: sorted(value) for key, value in found.items()} == {
        key: sorted(value) for key, value in recorded["decay"].items()
    }
    sizes = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert sizes == recorded["parameters_in_optimizer"]
