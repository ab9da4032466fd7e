"""SAMWISE against recordings of the official code. Tolerances: the recordings' README."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from once import one_full_size
from samwise_recordings import FOLDER, RESULTS, Recording, clip_of, draw, files, network, normal, roberta, seed
from samwise_run import Watched
from stated import check_kinds
from torch import nn

from callbacks.cme import CMESupervision, released_labels, switch_loss
from callbacks.masks import DiceFocal, dice_loss, focal_loss
from rvos_lightning.core.types import Batch, Features, Prediction, Targets
from rvos_lightning.data.clips.resizing import fit_size, inference_size
from rvos_lightning.parts.layers.resize import resize_logits
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.systems.samwise.conditional_memory import ConditionalMemoryEncoder, switched_mask
from rvos_lightning.systems.samwise.cross_modal_temporal import CrossModalTemporal
from rvos_lightning.systems.samwise.motion_prompter import MotionPrompter
from rvos_lightning.systems.samwise.official import to_official
from rvos_lightning.systems.samwise.outputs import SwitchedPrediction

pytestmark = pytest.mark.xdist_group("samwise")
FEATURES = {"A": {"atol": 2e-5}, "B": {"atol": 2e-4, "rtol": 1e-4}}
MASKS = {"A": {"atol": 1e-6}, "B": {"atol": 2e-4, "rtol": 1e-4}}


def recordings(pattern):
    """One parameter per file, named after it."""
    return pytest.mark.parametrize("path", files(pattern), ids=lambda path: path.stem)


def prefix():
    """`input:` here; other sets of recordings draw their inputs from other names."""
    for path in files("*.safetensors"):
        found = re.search(r'"(\w+:)[\w.<>]+"', json.dumps(Recording(path).config))
        if found:
            return found[1]
    raise AssertionError(f"no input names in the metadata of {FOLDER}")


def names_in(value):
    """Input names inside a piece of metadata."""
    return re.findall(r"\w+:[\w.<>]+", json.dumps(value))


@pytest.fixture(scope="module", autouse=True)
def table():
    """Prints the greatest error of every file and array group when all is done (pytest -s)."""
    yield
    greatest = {}
    for stem, name, error in RESULTS:
        greatest[stem] = max(greatest.get(stem, (0.0, "")), (error, name))
    for stem, (error, name) in greatest.items():
        print(f"\n{stem:38s} max error {error:.1e} ({name})", end="")


def test_every_recording_is_of_a_kind_that_is_tested():
    parts = ("adapter_", "cme", "text_path", "losses", "metrics", "resize_sizes")
    check_kinds(FOLDER, (*parts, "e2e_infer", "e2e_image", "e2e_train"))


@recordings("adapter_*.safetensors")
def test_adapter(path):
    golden = Recording(path)
    c = golden.config
    official = int(c["weight_prefix"].split(".")[1])
    patch = c["p"] if c["HSA"] else None
    adapter = CrossModalTemporal(c["Cv"], c["Dt"], c["d"], 8, patch, dropout=0.0)
    seed(adapter, c["rule"], prefix=f"adapter.adapters.{official + 1}.")
    adapter.train(c["mode"] == "train")
    vision, text = names_in(c["input_names"])
    pixels = draw(vision, (c["B"] * c["T"], c["Cv"], c["H"], c["W"])).unflatten(0, (c["B"], c["T"]))
    words = draw(text, (c["L"], c["B"], c["Dt"])).transpose(0, 1)
    seen, tolerance = {}, FEATURES[c["rule"]]

    def keep(name, take):
        def hook(module, inputs, output):
            seen[name] = take(inputs, output)

        return hook

    adapter.text_down.register_forward_hook(keep("t_down", lambda i, o: o.transpose(0, 1)))
    adapter.text_up.register_forward_hook(keep("t2v_out", lambda i, o: i[0].transpose(0, 1)))
    adapter.down.register_forward_hook(keep("x_down", lambda i, o: o.relu()))
    if adapter.selective is not None:
        adapter.selective.norm.register_forward_hook(keep("hsa_in_tokens", lambda i, o: o.transpose(0, 1)))
        adapter.selective.linear.register_forward_hook(keep("hsa_out_tokens", lambda i, o: o.transpose(0, 1)))
    read_text = adapter.read_text
    adapter.read_text = lambda *args: seen.setdefault("v2t_out", read_text(*args))
    more_pixels, more_words = adapter(pixels, words, None)
    seen["v2t_out"] = seen["v2t_out"].flatten(0, 1).flatten(2).permute(2, 0, 1)
    seen["out_vis"], seen["out_text"] = more_pixels.flatten(0, 1), more_words.transpose(0, 1)
    for name, value in seen.items():
        if name in golden:
            golden.check(name, value, **tolerance)
    for name in (name for name in golden.arrays if name.startswith("after.")):
        ours = name.removeprefix("after.").replace("proj_vis_", "")
        golden.check(name, adapter.get_buffer(ours), **tolerance)
    known = {*seen, "check.vis_first16", "check.text_first16"}
    assert {name for name in golden.arrays if not name.startswith("after.")} <= known


@recordings("cme*.safetensors")
def test_conditional_memory_encoder(path):
    golden = Recording(path)
    c = golden.config
    for rule in {name.split(".")[0] for name in golden.arrays}:
        encoder = ConditionalMemoryEncoder(c["d"], c["heads"], c["ffn"], 0.1).eval()
        seed(encoder, rule, prefix="memory.encoder.")
        for batch in c["batches"]:
            inputs = [draw(name.replace("<B>", str(batch)), (batch, c["d"])) for name in names_in(c["inputs"])]
            logits, states = encoder(*inputs), encoder.block(*inputs)
            golden.check(f"{rule}.b{batch}.block_out", states.transpose(0, 1), **FEATURES[rule])
            golden.check(f"{rule}.b{batch}.logits", logits, atol=1e-5)
            golden.check(f"{rule}.b{batch}.argmax", logits.argmax(-1), atol=0)


@recordings("text_path*.safetensors")
@pytest.mark.parametrize("rule", ["A", "B"])
def test_text_path(path, rule):
    golden = Recording(path)
    if f"{rule}.cls" not in golden:
        pytest.skip(f"no rule {rule} in {path.name}")
    c = golden.config
    text = roberta(c["roberta"])
    sam2 = Sam2("hiera_t", image_size=c["image_size"])
    prompter = MotionPrompter(text.width).fit_to(sam2)
    seed(nn.ModuleDict({"adapter": nn.ModuleDict({"text": text}), "prompter": prompter, "segmenter": sam2}), rule)
    captions = c["captions_as_ids"]
    ids, real = text.tokenize(captions)
    golden.check("input_ids", ids, atol=0)
    golden.check("pad_mask", (~(real if real is not None else ids != 1)).long(), atol=0)
    words = text.embed(ids, real)
    golden.check(f"{rule}.embed", words.transpose(0, 1), **FEATURES[rule])
    for start, stop in zip((0, *c["stages"]), c["stages"], strict=False):
        words = text.run(words, real, start, stop)
        golden.check(f"{rule}.after_layer{stop}", words.transpose(0, 1), **FEATURES[rule])
    sentence = text.sentence(words, ids)
    golden.check(f"{rule}.cls", sentence, **FEATURES[rule])
    clip = clip_of(torch.zeros(len(captions), 1, 3, 8, 8), captions)
    tokens = prompter(clip, Features((), sentence=sentence)).tokens[:, 0]
    golden.check(f"{rule}.sparse_prompt", sam2.queries(tokens)[:, 6:], **FEATURES[rule])
    golden.check(f"{rule}.dense_prompt_vec", sam2.sam_prompt_encoder.no_mask_embed.weight[0], **FEATURES[rule])
    golden.check(f"{rule}.dense_pe_slice", sam2.dense_position()[0, ::16], **FEATURES[rule])


@recordings("losses*.safetensors")
def test_flat_losses(path):
    golden, start = Recording(path), prefix()
    for k, shape in enumerate(golden.config["flat"]):
        logits = draw(f"{start}loss{k}.logits", shape, 3.0).requires_grad_()
        targets = (torch.from_numpy(normal(f"{start}loss{k}.target", shape)) > 0.3).float()
        dice, focal = dice_loss(logits, targets).mean(), focal_loss(logits, targets).mean()
        (dice + focal).backward()
        golden.check(f"flat{k}.dice", dice, atol=1e-5)
        golden.check(f"flat{k}.focal", focal, atol=1e-5)
        gradient = logits.grad.flatten()[:256]
        golden.check(f"flat{k}.grad_first256", gradient, atol=1e-9, rtol=2e-3)


@recordings("losses*.safetensors")
def test_mask_objective(path):
    golden, start = Recording(path), prefix()
    for k, (time, h, w, sizes) in enumerate(golden.config["mask"]):
        logits = draw(f"{start}mask{k}.logits", (len(sizes) * time, 1, h, w), 3.0)[:, 0].unflatten(0, (-1, time))
        masks = torch.zeros(len(sizes), time, h, w, dtype=torch.bool)
        for b, (height, width) in enumerate(sizes):
            drawn = torch.from_numpy(normal(f"{start}mask{k}.target{b}", (time, height, width)))
            masks[b, :, :height, :width] = drawn > 0.5
        clip = clip_of(torch.zeros(len(sizes), time, 3, h, w), ["0 2"] * len(sizes), [tuple(s) for s in sizes])
        batch = Batch(clip, Targets(masks, torch.ones(len(sizes), time, dtype=torch.bool)))
        terms = DiceFocal(parity="official").terms(batch, Prediction(logits))
        golden.check(f"mask{k}.loss_dice", terms["dice"], atol=1e-5)
        golden.check(f"mask{k}.loss_mask", terms["focal"], atol=1e-5)


def rectangle(corners, hw):
    """Foreground rectangle [y0, y1, x0, x1] on an empty map."""
    mask = torch.zeros(*hw, dtype=torch.bool)
    if corners is not None:
        mask[corners[0] : corners[1], corners[2] : corners[3]] = True
    return mask


@recordings("losses*.safetensors")
def test_switch_labels_and_loss(path):
    golden, start = Recording(path), prefix()
    c = golden.config
    memory, memoryless = (torch.stack([rectangle(case[i], c["cme_hw"]) for case in c["cme_cases"]]) for i in (0, 1))
    labels = released_labels(memory, memoryless, torch.tensor([case[2] for case in c["cme_cases"]]))
    golden.check("cme.labels", labels, atol=0)
    shape = (1, 1, *c["cme_hw"])
    drawn = [
        [draw(f"{start}cmer{j}.{name}", shape)[0, 0] + c["bias"][j][i] > 0 for i, name in enumerate(("mem", "nomem"))]
        for j in range(c["cme_rand"])
    ]
    pairs = [torch.stack(column) for column in zip(*drawn, strict=True)]
    golden.check("cme.labels_random", released_labels(*pairs, torch.ones(c["cme_rand"])), atol=0)
    logits = draw(f"{start}cmeloss.logits", (len(labels), 2)).requires_grad_()
    golden.check("cme.ce", switch_loss(logits, labels, (1.0, 2.0)), atol=1e-5)
    nothing = switch_loss(logits, torch.full_like(labels, -1), (1.0, 2.0))
    assert golden.arrays["cme.ce_all_ignored"].isnan() and nothing == 0 and nothing.requires_grad


@recordings("losses*.safetensors")
def test_switch_modes(path):
    golden, start = Recording(path), prefix()
    for name in (name for name in golden.arrays if name.startswith("switch.")):
        shape = golden.arrays[name].shape
        memory, memoryless = (draw(f"{start}switch.{which}", shape, 2.0)[0] for which in ("mem", "nomem"))
        golden.check(name, switched_mask(memory, memoryless, name.removeprefix("switch."))[None], atol=1e-6)


@recordings("losses*.safetensors")
def test_post_processing(path):
    golden, start = Recording(path), prefix()
    for name in (name for name in golden.arrays if name.startswith("post")):
        k, stride = map(int, re.fullmatch(r"post(\d+)\.mask_stride(\d+)", name).groups())
        low, side, (height, width) = golden.config["post"][k]
        logits = draw(f"{start}post{k}.lowres", (1, 1, low, low), 4.0)
        full = F.interpolate(logits, size=(side, side), mode="bilinear")
        ours = resize_logits(full, (side, side), [(height, width)], (height, width))
        golden.check(name, ours[0, 0, ::stride, ::stride], atol=1e-5)


@pytest.mark.parametrize("path", files("resize_sizes*.json"), ids=lambda path: path.stem)
def test_resize_sizes(path):
    content = json.loads(path.read_text())
    for row in content["rows"]:
        # The release computes the long side back from the rounded short one: a pixel off, or cut off beyond the size.
        side, (width, height), published = content["max_size"], row["in_wh"], row["train_wh"]
        trained = fit_size((height, width), (side, side), "letterbox")[::-1]
        assert min(trained) == min(published) and abs(max(trained) - min(max(published), side)) <= 1
        assert list(inference_size(*row["in_wh"], longest=content["max_size"])) == row["eval_wh"]


@recordings("metrics*.safetensors")
def test_region_and_boundary(path):
    from rvos_lightning.metrics.region_boundary import j_and_f

    golden, start = Recording(path), prefix()
    for k, (time, height, width, threshold) in enumerate(golden.config):
        truth, found = (
            F.interpolate(
                draw(f"{start}metric{k}.{name}", (time, 1, max(4, height // 12), max(4, width // 12))),
                size=(height, width),
                mode="bilinear",
            )[:, 0]
            > threshold
            for name in ("gt", "pred")
        )
        truth[-1], found[-2:] = False, False
        golden.check(f"metric{k}.gt_area", truth.flatten(1).sum(1), atol=0)
        golden.check(f"metric{k}.pred_area", found.flatten(1).sum(1), atol=0)
        for name, values in zip("JF", j_and_f(found, truth), strict=False):
            golden.check(f"metric{k}.{name}", values, atol=1e-5)


def compare_video(path):
    """One video, window by window, against everything recorded of it."""
    golden = Recording(path)
    c = golden.config
    watched = Watched(network(c))
    arrays = watched.video(draw(c["input_name"], c["frames"]), c["caption_ids"], c["clips"])
    rule, loose = c["rule"], {"atol": 1e-3, "rtol": 1e-4}
    switched = float(arrays.get("cme.decision", torch.zeros(1)).sum()) > 0
    outliers = 1e-3 if switched else 0.0
    segmenter = watched.network.segmenter
    memory = arrays["memory.maskmem_features"]
    arrays["memory.maskmem_pos_enc"] = segmenter.memory_encoder.position_encoding(memory[:1])
    coarse = segmenter.image_encoder.neck.position_encoding(arrays["pix_feat_with_mem"][:1])
    arrays["vision_pos2_clip0"] = coarse.flatten(2).permute(2, 0, 1)
    for name in golden.arrays:
        if name.startswith("check."):
            drawn = draw(c["input_name"], c["frames"]).flatten()[:16]
            golden.check(name, drawn, atol=1e-6)
        elif name in ("cme.frame", "cme.decision"):
            golden.check(name, arrays.get(name, torch.zeros(0)), atol=0)
        elif name in ("ious", "object_score_logits", "cme.logits", "nomem.object_score_logits"):
            golden.check(name, arrays[name], atol=1e-5, outliers=0.0)
        elif name == "memory.maskmem_features":
            golden.check(name, arrays[name], outliers=outliers, **loose)
        elif name in ("pred_masks", "low_res_masks", "nomem.low_res_masks"):
            golden.check(name, arrays[name], outliers=outliers, **MASKS[rule])
        else:
            golden.check(name, arrays[name], outliers=outliers, **FEATURES[rule])


SMALL = [path for path in (*files("e2e_infer_*"), *files("e2e_image_*")) if Recording(path).config["image_size"] < 1024]
LARGE = [path for path in (*files("e2e_infer_*"), *files("e2e_image_*")) if path not in SMALL]


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_video(path):
    compare_video(path)


@pytest.mark.parametrize("path", one_full_size(LARGE))
def test_video_at_full_size(path):
    compare_video(path)


def padded_batch(c):
    """The recorded training batch: videos and targets padded to the larger, captions of different length."""
    frame_name, target_name = names_in(c["inputs"])
    sizes = [tuple(hw) for hw in c["videos_hw"]]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    frames = torch.zeros(len(sizes), c["T"], 3, height, width)
    masks = torch.zeros(len(sizes), c["T"], height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        frames[i, :, :, :h, :w] = draw(frame_name.replace("<i>", str(i)), (c["T"], 3, h, w))
        coarse = draw(target_name.replace("<i>", str(i)), (c["T"], 1, h // 10, w // 10))
        masks[i, :, :h, :w] = F.interpolate(coarse, size=(h, w), mode="nearest")[:, 0] > 0.5
    annotated = torch.ones(masks.shape[:2], dtype=torch.bool)
    return Batch(clip_of(frames, c["captions_ids"], sizes), Targets(masks, annotated))


@recordings("e2e_train*.safetensors")
def test_training_step(path):
    golden = Recording(path)
    c = golden.config
    net, batch = network(c).train(), padded_batch(c)
    sentences = []
    net.prompter.register_forward_pre_hook(lambda module, args: sentences.append(args[1].sentence))
    prediction = net(batch.clip)
    assert isinstance(prediction, SwitchedPrediction)
    terms = {**DiceFocal(parity="official").terms(batch, prediction), **CMESupervision().terms(batch, prediction)}
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    golden.check("clip_text_state", sentences[0], **FEATURES[c["rule"]])
    golden.check("masks", prediction.mask_logits.flatten(0, 1), **MASKS[c["rule"]])
    golden.check("ious", prediction.iou.flatten(), atol=1e-5)
    golden.check("object_score_logits", prediction.presence_logits.flatten(), atol=1e-5)
    golden.check("cme.logits", prediction.switch_logits.flatten(0, 1), atol=1e-5)
    golden.check("cme.label", CMESupervision().labels(prediction).flatten(), atol=0)
    for name, ours in {"loss_dice": "dice", "loss_mask": "focal", "CME_loss": "cme"}.items():
        golden.check(name, terms[ours], atol=1e-5)
    golden.check("total", total, atol=1e-5)
    trained = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    gradients, unknown = to_official(trained)
    assert not unknown and set(gradients) == set(golden.metadata["grad_norm_names"])
    norms = torch.stack([gradients[name].norm() for name in golden.metadata["grad_norm_names"]])
    golden.check("grad_norms", norms, atol=1e-9, rtol=2e-3)
    golden.check("grad_total_norm", norms.norm(), atol=0, rtol=2e-3)
    buffers, _ = to_official(net.state_dict())
    for name in golden.arrays:
        if name.startswith("grad."):
            # Single elements of sums over all pixels are noisier than their tensor: judge by its norm.
            error, largest = golden.error(name, gradients[name.removeprefix("grad.")]), golden.arrays[name].abs().max()
            assert error.norm() <= 2e-3 * golden.arrays[name].double().norm(), name
            golden.check(name, gradients[name.removeprefix("grad.")], atol=1e-2 * float(largest))
        if name.startswith("after."):
            golden.check(name, buffers[name.removeprefix("after.")], **FEATURES[c["rule"]])
