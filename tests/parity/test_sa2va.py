"""Recorded runs of the released Sa2VA and Sa2VA-i code: prompts, frames, pixels, losses."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from stated import check_kinds

from callbacks import point_masks
from rvos_lightning.core.types import ClipMeta, SegmentedWindow, Targets
from rvos_lightning.data.clips.sampling import RandomDistinct, UniformWithOffset, uniform_positions
from rvos_lightning.metrics.overlap import overlap_counts, ratio
from rvos_lightning.metrics.region_boundary import boundary_radius, j_and_f
from rvos_lightning.metrics.revos import ReVOS
from rvos_lightning.systems.sa2va import conversation, frames, tiling
from tests.parity import sa2va_rules as rules


def picture(name, shape):
    w, h = (int(v) for v in shape[:2])
    low = np.random.RandomState(rules.seed(rules.start() + name)).randint(0, 256, size=(h // 16 + 2, w // 16 + 2, 3))
    return Image.fromarray(low.astype(np.uint8)).resize((w, h), Image.Resampling.BILINEAR)


def test_every_recording_is_of_a_kind_that_is_tested():
    language = ("c_internvl_", "c_generate_", "c_visual_prompt")
    check_kinds(rules.FOLDER, ("a_", "b_", *language, "d_", "e1_", "e2_", "f_", "g_", "h_", "i_"))


@pytest.mark.parametrize("path", rules.files("a_*.npz"), ids=lambda p: p.stem)
def test_tiling_table(path):
    data = rules.load(path)
    assert tiling.grids() and sorted(map(tuple, data["ratio_order"].tolist())) == sorted(tiling.grids())
    for width, height, columns, rows, tiles, with_thumbnail, tokens in data["tiling"].tolist():
        assert tiling.choose_grid(width, height) == (columns, rows), (width, height)
        assert tiles == columns * rows and with_thumbnail == tiles + (tiles > 1) and tokens == with_thumbnail * 256


@pytest.mark.parametrize("path", rules.files("a_*.npz"), ids=lambda p: p.stem)
def test_pixels(path):
    data = rules.load(path)
    names = [key[len("direct_") :] for key in data if key.startswith("direct_") and not key.endswith("_sum")]
    assert names
    for name in names:
        shape = data[f"tiles_{name}_shape"]
        image = picture(f"img_{name}", shape)
        assert np.array_equal(np.asarray(image).reshape(-1, 3).sum(0), data[f"img_{name}_sum"])
        size = int(shape[-1])
        tiles = tiling.tile_image(image, size)
        assert tuple(tiles.shape) == tuple(shape[2:])
        rules.close(tiles[:, :, 7::56, 7::56], data[f"tiles_{name}"], 1e-6)
        rules.close(tiles.double().sum((1, 2, 3)), data[f"tiles_{name}_sum"], 1e-2)
        frame = tiling.normalise(tiling.squash(image, size))
        rules.close(frame[:, 7::56, 7::56], data[f"frame_{name}"], 1e-6)
        whole = tiling.squash(image, 1024)
        assert np.array_equal(whole.permute(1, 2, 0)[15::64, 15::64].numpy(), data[f"direct_{name}"])
        assert np.array_equal(whole.sum((1, 2)).numpy(), data[f"direct_{name}_sum"])
        for how in ("train", "video", "image"):
            normal = tiling.normalise(whole, how)[:, 15::64, 15::64].float()
            rules.close(normal, data[f"sam_norm_{how}_{name}"], 1e-6)
        through_unit = tiling.resize_frames(tiling.to_pixels(image)[None].float() / 255, 1024, "pillow")
        assert torch.equal((through_unit[0] * 255).round().byte(), whole)


@pytest.mark.parametrize("path", rules.files("f_*.npz"), ids=lambda p: p.stem)
def test_frame_tables(path):
    data = rules.load(path)
    lengths = data["video_lengths"].tolist()
    for k in data["ks"].tolist():
        for row, length in enumerate(lengths):
            assert uniform_positions(length, k) == data[f"uniform_k{k}"][row].tolist()
            for name, rule in (("uniform_mllm", "uniform"), ("firstk", "first")):
                shown = [i for i in data[f"{name}_k{k}"][row].tolist() if i >= 0]
                assert frames.inference_frames(length, k, rule) == shown, (name, length, k)
        if f"train_uniform_k{k}" not in data:
            continue
        moved = [(n, UniformWithOffset(u)) for n in lengths if n > k for u in data["train_u"].tolist()]
        expected = [[n, *sampling(n, k, 0, np.random.default_rng(0))] for n, sampling in moved]
        assert expected == data[f"train_uniform_k{k}"].tolist()


@pytest.mark.parametrize("path", rules.files("f_*.npz"), ids=lambda p: p.stem)
def test_random_frame_tables(path):
    data = rules.load(path)
    samplers = {"uniform": UniformWithOffset(), "random": RandomDistinct()}
    tables = [re.fullmatch(r"train_(uniform|random)_npseed(\d+)_k(\d+)", key) for key in data]
    assert any(tables)
    for table in filter(None, tables):
        rng = np.random.RandomState(int(table[2]))
        for length, *indices in data[table[0]].tolist():
            assert samplers[table[1]](length, int(table[3]), 0, rng) == indices, (table[0], length)


def tokenizer():
    from transformers import PreTrainedTokenizerFast

    path = rules.files("g_*tokenizer.json")[0]
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|im_end|>", pad_token="<|endoftext|>")


def long_form(text):
    return re.sub(r"\{IMG_CONTEXT\*(\d+)\}", lambda m: conversation.CONTEXT * int(m[1]), text)


def turns_of(text, chat, separator):
    """Split a recorded conversation into questions and answers by its template."""
    before, after = (re.escape(part) for part in chat.instruction.split("{input}"))
    end = re.escape(chat.suffix + separator)
    pattern = f"{before}(.*?){after}(.*?){end}"
    assert re.fullmatch(f"({pattern})+", text, re.S)
    return [conversation.Turn(*found) for found in re.findall(pattern, text, re.S)]


def spans_of(labels):
    active = np.concatenate([[0], (np.asarray(labels) != conversation.IGNORED).astype(int), [0]])
    starts, stops = np.where(np.diff(active) == 1)[0], np.where(np.diff(active) == -1)[0]
    return [list(pair) for pair in zip(starts.tolist(), stops.tolist(), strict=True)]


@pytest.mark.parametrize("recorded", rules.prompts())
def test_training_conversations(recorded):
    tokens = tokenizer()
    ids = recorded["tokenizer"]["ids"]
    assert {name: tokens.convert_tokens_to_ids(name) for name in ids} == ids
    for key, case in recorded["train"].items():
        kind, name, mutated = key.split("/")
        chat = conversation.template(name, legacy_instruction_override=mutated == "mutated=True")
        text = long_form(case["text"])
        separate = kind == "video"
        turns = turns_of(text, chat, chat.separator if separate else "")
        encoded = conversation.encode(tokens, turns, chat, separate=separate)
        flat = [
            i
            for part in case["input_ids"]
            for i in ([ids["<IMG_CONTEXT>"]] * part[1] if isinstance(part, list) else [part])
        ]
        assert encoded.ids == flat and len(flat) == case["n"], key
        assert spans_of(encoded.labels) == case["label_spans"], key
        visual = [int(n) for n in re.findall(r"\{IMG_CONTEXT\*(\d+)\}", case["text"])]
        first = turns[0].question
        built = (
            conversation.video_tokens(len(visual), visual[0])
            if separate
            else conversation.image_tokens(1, visual[0]) + "\n"
        )
        assert first.startswith(built) and not first[len(built) :].startswith("\n"), key


@pytest.mark.parametrize("recorded", rules.prompts())
def test_inference_prompts(recorded):
    for key, case in recorded["inference"].items():
        kind, name = key.split("/")
        chat, text = conversation.template(name), long_form(case["text"])
        counts = [int(n) for n in re.findall(r"\{IMG_CONTEXT\*(\d+)\}", case["text"])]
        if kind.startswith("video"):
            expression = re.search(r"Please segment (.*)\.", case["text"])[1]
            words, visual = (
                conversation.VIDEO_PROMPT.format(expression),
                conversation.video_tokens(len(counts), counts[0]),
            )
        elif kind.startswith("image"):
            expression = re.search(r"Please segment (.*) in this image", case["text"])[1]
            words, visual = conversation.IMAGE_PROMPT.format(expression), conversation.image_tokens(1, counts[0])
        else:
            continue  # regions marked by the user: no verb offers them
        assert conversation.inference_prompt(words, visual, chat) == text, key


@pytest.mark.parametrize("path", rules.files("d_*.npz"), ids=lambda p: p.stem)
def test_losses(path):
    data = rules.load(path)
    count, height, width, gt_height, gt_width, _ = data["shape"].tolist()
    logits = (3 * rules.given("mask_logits", (count, height, width))).requires_grad_()
    noise = rules.given("mask_gt", (count, gt_height, gt_width))
    full = torch.nn.functional.avg_pool2d(noise, 9, 1, 4) > 0
    assert np.array_equal(full.numpy(), rules.unpack(data["gt_full_bits"], (count, gt_height, gt_width)))
    targets = torch.nn.functional.interpolate(full[:, None].float(), (height, width), mode="nearest")[:, 0]
    assert np.array_equal(targets.bool().numpy(), rules.unpack(data["gt_bits"], (count, height, width)))
    where, weights = torch.from_numpy(data["coords"]), point_masks.PointMasks()
    points, truth = point_masks.at_points(logits, where), point_masks.at_points(targets, where)
    rules.close(points, data["point_pred"], 1e-6)
    rules.close(truth, data["point_target"], 1e-6)
    mask, dice = point_masks.point_losses(points, truth)
    rules.close(weights.mask * mask, data["loss_mask"], 1e-6)
    rules.close(weights.dice * dice, data["loss_dice"], 1e-6)
    (weights.mask * mask + weights.dice * dice).backward()
    rules.close(logits.grad[:, ::8, ::8], data["grad_strided"], 1e-6)
    rules.close(logits.grad.double().abs().sum(), data["grad_absum"], 1e-5)
    mask, dice = point_masks.point_losses(logits.flatten(1), targets.flatten(1), small=0.0)
    rules.close(weights.mask * mask, data["dense_loss_mask"], 1e-6)
    rules.close(weights.dice * dice, data["dense_loss_dice"], 1e-6)


@pytest.mark.parametrize("path", rules.files("h_*.npz"), ids=lambda p: p.stem)
def test_metrics(path):
    data = rules.load(path)
    shape = tuple(data["shape"].tolist())
    truth, prediction, foreground = (
        torch.from_numpy(rules.unpack(data[f"{name}_bits"], shape)) for name in ("gt", "pred", "fg")
    )
    j, f = j_and_f(prediction, truth)
    rules.close(j, data["J"], 1e-9)
    rules.close(f, data["F"], 1e-9)
    assert boundary_radius(*shape[1:]) == float(data["bound_pix"])
    metric = ReVOS()
    meta = [ClipMeta("v", str(i), ("0",), shape[1:], shape[1:], (0,), "revos") for i in range(shape[0])]
    annotated = torch.ones(shape[0], 1, dtype=torch.bool)
    targets = Targets(truth[:, None], annotated, foreground=foreground[:, None])
    metric.update(SegmentedWindow(prediction[:, None], targets, meta))
    rows = sorted((metric.row(unit) for unit in metric.units()), key=lambda row: int(row["item"]))
    rules.close(torch.tensor([row["a"] for row in rows], dtype=torch.float64), data["A"], 1e-9)
    rules.close(torch.tensor([row["r"] for row in rows], dtype=torch.float64), data["R"], 1e-9)
    counts = overlap_counts(truth, prediction)
    assert counts[:, 0].tolist() == data["cIoU_inter"].tolist() and counts[:, 1].tolist() == data["cIoU_union"].tolist()
    assert abs(ratio(float(counts[:, 0].sum()), float(counts[:, 1].sum())) - float(data["cIoU"])) < 1e-9
