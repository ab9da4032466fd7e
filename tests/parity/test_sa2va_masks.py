"""Recorded runs of the released Sa2VA / Sa2VA-i mask code: language-prompted decoding, both kinds of tracking."""

import functools
import re

import numpy as np
import pytest
import torch
from once import one_full_size
from torch.nn import functional as F

from rvos_lightning.parts.weights import KeyMap, convert
from rvos_lightning.systems.sa2va.bank import Bank
from rvos_lightning.systems.sa2va.key_map import FINETUNED, ORIGINAL, sam2_rules, to_official
from rvos_lightning.systems.sa2va.language_memory import LanguageMemory, prompt_masks
from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2, half_position_code
from tests.parity import sa2va_rules as rules

BOOSTED = (".memory_attention.", ".memory_encoder.", ".obj_ptr_proj.", ".mask_downsample.")
FRAME = rules.stated(r"\(h,w\)=\((\d+),(\d+)\)", (270, 480))


@functools.cache
def build(variant, boost):
    """SAM 2.0 with recorded weights under official names, through the key map and back."""
    sam = TwoDecoderSam2(variant=variant, half_positions=False).eval()
    state = {f"segmenter.{key}": value for key, value in sam.state_dict().items()}
    layout = {key: tuple(make().shape) for key, make in to_official(state, internlm2=False)}
    scale = (
        (lambda k: 0.1 if any(p in k for p in BOOSTED) or k.endswith((".maskmem_tpos_enc", ".no_obj_ptr")) else 0.02)
        if boost
        else (lambda k: 0.02)
    )
    official = rules.weights(layout, scale)
    ours = convert(official, KeyMap(sam2_rules(two_decoders=True)), state)
    back = {key: make() for key, make in to_official(ours, internlm2=False)}
    assert back.keys() == official.keys() and all(torch.equal(back[k], official[k]) for k in back)
    sam.load_state_dict({key.removeprefix("segmenter."): value for key, value in ours.items()})
    return sam


def set_presence(sam, flag, decoders):
    for decoder in decoders:
        decoder.pred_obj_score_head.layers[2].bias.data.fill_(0.5 if flag == "present" else -0.5)


def compare(logits, data, name, atol=2e-6):
    rules.close(rules.strided(logits), data[f"{name}_strided"], atol)
    rules.close(rules.crop(logits), data[f"{name}_crop"], atol)
    rules.close(rules.stats(logits)[:, :4], data[f"{name}_stats"][:, :4], max(atol, 1e-5))


def cost(path):
    """Recordings of the tiny trunk before those of the large one, then by frames that are tracked."""
    frames = sum(len(value) for key, value in rules.load(path).items() if key.endswith("_strided"))
    return path.stem.startswith("b_"), frames


VIDEOS = one_full_size([*rules.files("e1_*.npz"), *rules.files("e2_*.npz"), *rules.files("b_*.npz")], chosen=cost)


def recordings(kind):
    """Those of a kind; by default only the cheapest of all kinds runs, they are all of full size."""
    return pytest.mark.parametrize("path", [param for param in VIDEOS if param.id.startswith(kind)])


@recordings("b_")
@torch.no_grad()
def test_language_decoding(path):
    data = rules.load(path)
    sam = build("hiera_l", boost=False)
    frames, objects, width = data["layout"].tolist()
    hidden = rules.given("seg_hidden", (objects, width))
    shapes = {"0.weight": (width, width), "0.bias": (width,), "2.weight": (256, width), "2.bias": (256,)}
    w = {k: rules.weight(f"text_hidden_fcs.{k}", s) for k, s in shapes.items()}
    embed = torch.relu(hidden @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]
    rules.close(embed, data["seg_embed"], 2e-6)
    maps = sam.maps_of_pixels(rules.given("frames_l", (frames, 3, 1024, 1024)))
    fine = sam.fine(maps, "original")  # the plain official name
    rules.close(fine[0][:, ::8, ::32, ::32], data["fpn_s0_conv"], 2e-5)
    rules.close(fine[1][:, ::8, ::16, ::16], data["fpn_s1_conv"], 2e-5)
    rules.close(maps.coarse[:, ::16, ::8, ::8], data["fpn_s2"], 2e-5)
    empty = sam.sam_prompt_encoder.not_a_point_embed.weight.expand(1, 2, -1)
    rules.close(empty, data["sparse_pad"], 2e-5)
    rules.close(sam.sam_prompt_encoder.no_mask_embed.weight[0], data["dense_no_mask"], 2e-5)
    rules.close(sam.dense_position()[0, ::16, ::8, ::8], data["dense_pe"], 2e-5)
    video = torch.arange(frames).repeat_interleave(objects)
    coarse, fine = sam.no_memory(maps.coarse)[video], [level[video] for level in fine]
    decoder, seen = sam.decoder("original"), {}
    handle = decoder.register_forward_hook(lambda m, i, o: seen.update(masks=o[0], iou=o[1], score=o[3]))
    decoded = sam.decode_language(coarse, fine, embed.repeat(frames, 1)[:, None], "original")
    rules.close(rules.strided(seen["masks"]), data["low_multimasks_strided"], 2e-6)
    rules.close(seen["iou"], data["ious"], 2e-5)
    rules.close(seen["score"], data["obj_score_logits"], 2e-5)
    assert seen["iou"].argmax(1).tolist() == data["best"].tolist()
    rules.close(sam.pointer(decoded), data["obj_ptr"], 2e-5)
    rules.close(rules.crop(decoded.mask_logits), data["low_best_crop"], 2e-6)
    rules.close(rules.stats(decoded.mask_logits)[:, :4], data["low_best_stats"][:, :4], 1e-5)
    rules.close(sam.upscale(decoded.mask_logits)[:, 16::64, 16::64], data["high_best_strided"], 2e-6)
    sam.decode_language(coarse[:1], [level[:1] for level in fine], None, "original")
    handle.remove()
    best = int(data["best"][0])
    alone = rules.strided(seen["masks"][0])
    errors = [np.abs(alone[i].numpy() - data["noprompt_low_strided"][0]).max() for i in (best, *range(3))]
    assert min(errors) < 2e-6


@pytest.mark.parametrize("path", rules.files("i_*.npz"), ids=lambda p: p.stem)
def test_dense_positions(path):
    data = rules.load(path)
    sam = TwoDecoderSam2(variant="hiera_t", half_positions=False)
    matrix = rules.given("pe_gauss", (2, 128))
    sam.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.copy_(matrix)
    exact = sam.dense_position()[0]
    half = half_position_code(matrix, sam.grid)[0].float()
    rules.close(exact[::8, ::8, ::8], data["dense_pe_fp32"], 1e-5)
    rules.close(half[::8, ::8, ::8], data["dense_pe_bf16"], 1e-2)
    assert abs((half - exact).abs().max().item() - float(data["max_abs_diff"])) < 1e-2
    assert abs((half - exact).square().mean().sqrt().item() - float(data["rms_diff"])) < 1e-3


@functools.cache
def frame_maps(count):
    sam = build("hiera_t", boost=True)
    frames = rules.given("frames", (count, 3, 1024, 1024))
    with torch.no_grad():
        return [sam.maps_of_pixels(frame[None]) for frame in frames]


def follow(memory, bank, maps, sam):
    """All frames' logits at full resolution."""
    video, outputs = torch.zeros(1, dtype=torch.long), []
    for position, frame in enumerate(maps):
        if position in bank.prompted:
            outputs.append(bank.prompted[position].mask_logits)
            continue
        tracked, entry = memory.track(bank, position, frame, video, sam)
        bank.add(position, entry)
        outputs.append(tracked.mask_logits)
    return torch.cat([sam.upscale(low) for low in outputs])


@recordings("e1_")
@torch.no_grad()
def test_sa2va_memory(path):
    data, sam, memory = rules.load(path), build("hiera_t", boost=True), LanguageMemory("sa2va")
    finetuned = {k.removeprefix(ORIGINAL): v.clone() for k, v in named(sam, ORIGINAL).items()}
    kept = {k: v.clone() for k, v in sam.sam_mask_decoder.state_dict().items()}
    sam.sam_mask_decoder.load_state_dict(finetuned)  # a Sa2VA checkpoint has one decoder, under the plain name
    names = [key.removesuffix("_strided") for key in data if key.endswith("_strided")]
    assert names
    for name in names:
        kind, flag = re.fullmatch(r"sa2va_(\w+)_(present|absent)", name).groups()
        set_presence(sam, flag, [sam.sam_mask_decoder])
        maps = frame_maps(len(data[f"{name}_strided"]))
        token, video, bank = rules.given("seg_embed", (1, 256))[:, None], torch.zeros(1, dtype=torch.long), Bank()
        for position in range(min(rules.frames_shown(kind), len(maps))):
            decoded = memory.decode_frame(maps[position], video, token, sam)
            pair = memory.condition_on_language(maps[position], video, decoded, sam)
            bank.prompted[position], bank.conditioning[position] = pair
        logits = follow(memory, bank, maps, sam)
        compare(logits, data, name)
        for key in [k for k in data if re.fullmatch(rf"{name}_(mem|ptr)\d+", k)]:
            part, position = re.fullmatch(rf"{name}_(mem|ptr)(\d+)", key).groups()
            entry = bank.conditioning[int(position)]
            value = entry.memory[0, ::16, ::16, ::16].float() if part == "mem" else entry.pointer[0]
            rules.close(value, data[key], 2e-4 if part == "mem" else 2e-5)
    sam.sam_mask_decoder.load_state_dict(kept)


def named(sam, prefix):
    return {f"segmenter.{k}": v for k, v in sam.state_dict().items() if f"segmenter.{k}".startswith(prefix)}


def ellipse(t):
    h, w = FRAME
    y, x = np.mgrid[:h, :w]
    cx, cy, a, b = 0.25 * w + 0.08 * w * t, 0.45 * h + 0.03 * h * t, 0.13 * w, 0.17 * h
    return torch.from_numpy(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1)


def square(mask):
    """A binary mask as the prompt: the same chain that language masks take."""
    return prompt_masks(mask[None].float() * 2 - 1, [tuple(mask.shape)], 1024)


def near(areas, expected):
    """Logits here are about 0.02, so rounding at 2e-8 moves the sign of a pixel in some ten thousand."""
    assert np.abs(areas.numpy() - expected).max() <= 1e-4 * FRAME[0] * FRAME[1]


@recordings("e2_")
@torch.no_grad()
def test_sa2va_i(path):
    data, sam, memory = rules.load(path), build("hiera_t", boost=True), LanguageMemory("sa2va_i")
    assert FINETUNED != ORIGINAL
    shown, video = data["i_sample_idx"].tolist(), torch.zeros(1, dtype=torch.long)
    names = [key.removesuffix("_strided") for key in data if key.endswith("_strided")]
    maps = frame_maps(max(len(data[f"{name}_strided"]) for name in names))
    token = rules.given("seg_embed", (1, 256))[:, None]
    low = torch.cat([memory.decode_frame(maps[t], video, token, sam).mask_logits for t in shown])
    compare(low, data, "i_phase1_low")
    areas = (F.interpolate(low[:, None], FRAME, mode="bilinear") > 0).flatten(1).sum(1)
    near(areas, data["i_phase1_mask_area"])
    for name in [n for n in names if n != "i_phase1_low"]:
        kind, flag = re.fullmatch(r"i_(\w+)_(present|absent)", name).groups()
        set_presence(sam, flag, [sam.original_decoder])
        prompts = {t: square(ellipse(t)) for t in shown}
        if kind == "chain":
            prompts = {t: prompt_masks(one[None], [FRAME], 1024) for t, one in zip(shown, low, strict=True)}
        if kind.endswith("first_only"):
            prompts = {shown[0]: prompts[shown[0]]}
        if kind.endswith("emptylast"):
            prompts[shown[-1]] = torch.zeros_like(prompts[shown[-1]])
        bank = Bank()
        for t, mask in prompts.items():
            bank.prompted[t], bank.conditioning[t] = memory.condition_on_masks(maps[t], video, mask, sam)
        logits = follow(memory, bank, maps, sam)
        if kind == "chain":
            rules.close(rules.stats(logits), data[f"{name}_stats"], 1e-3)
            continue
        compare(logits, data, name)
        if f"{name}_mask_area" in data:
            areas = (F.interpolate(logits[:, None], FRAME, mode="bilinear").sigmoid() > 0.5).flatten(1).sum(1)
            near(areas, data[f"{name}_mask_area"])
