"""Recorded runs of the released Sa2VA language-model step: vision tower, states, loss, generation, [SEG]."""

import re

import pytest
import torch

from rvos_lightning.parts.weights import KeyMap, convert
from rvos_lightning.systems.sa2va.key_map import M, key_rules, to_official
from rvos_lightning.systems.sa2va.mllm import MLLM
from rvos_lightning.systems.sa2va.sizes import LanguageSize, MLLMSize, VisionSize
from tests.parity import sa2va_rules as rules

VIT = rules.stated(
    r"Vision: hidden (\d+), (\d+) heads, (\d+) layers, mlp (\d+), image (\d+), patch (\d+)", (64, 4, 2, 128, 56, 14)
)
LLM = rules.stated(r"LLM: hidden (\d+), mlp (\d+), (\d+) layers, (\d+) heads, (\d+) KV heads", (96, 160, 3, 6, 2))
VOCABULARY = rules.stated(r"vocab (\d+)", 64)
CONTEXT, SEG = rules.stated(r"IMG_CONTEXT id (\d+), \[SEG\] id (\d+)", (60, 61))
EOS = rules.stated(r"eos id (\d+)", 62)
BOOST = rules.stated(r"multiplied by (\d+)", 50)


def size_of(back_end):
    family, vision = back_end.split("_")
    width, heads, layers, mlp, image, patch = VIT
    hidden, text_mlp, text_layers, text_heads, kv = LLM
    eps, theta = (1e-6 if family == "qwen2" else 1e-5), (1e4 if family == "phi3" else 1e6)
    kv = text_heads if family == "phi3" else kv
    language = LanguageSize(family, text_layers, hidden, text_mlp, text_heads, kv, VOCABULARY, eps, theta, 4096)
    return MLLMSize(VisionSize(layers, width, heads, mlp, image, patch, vision == "6b"), language)


def official_layout(mllm, internlm2, head_dim):
    """Official keys and shapes of a model of ours; also exercises the map back."""
    state = {f"prompter.mllm.{k}": v for k, v in mllm.state_dict().items() if k != "lora_scale"}
    return {key: tuple(make().shape) for key, make in to_official(state, internlm2, head_dim)}


def build(back_end):
    size = size_of(back_end)
    mllm = MLLM(size, CONTEXT, attention="eager").eval()
    head_dim = size.language.width // size.language.heads
    layout = official_layout(mllm, size.language.family == "internlm2", head_dim)
    state = rules.weights(layout)
    target = {f"prompter.mllm.{k}": v for k, v in mllm.state_dict().items()}
    ours = convert(state, KeyMap(key_rules(head_dim), missing=[r".*lora_scale"]), target)
    back = {key: make() for key, make in to_official(ours, size.language.family == "internlm2", head_dim)}
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    mllm.load_state_dict(
        {k.removeprefix("prompter.mllm."): v for k, v in ours.items()} | {"lora_scale": torch.tensor(0.0)}
    )
    return mllm


def project(states):
    """text_hidden_fcs with the recorded weights."""
    width = states.shape[-1]
    shapes = {"0.weight": (width, width), "0.bias": (width,), "2.weight": (256, width), "2.bias": (256,)}
    w = {k: rules.weight(f"text_hidden_fcs.{k}", s) for k, s in shapes.items()}
    hidden = torch.relu(states @ w["0.weight"].T + w["0.bias"])
    return hidden @ w["2.weight"].T + w["2.bias"]


def back_end_of(path, prefix):
    return re.fullmatch(rf"{prefix}_(.*)", path.stem)[1]


@pytest.mark.parametrize("path", rules.files("c_internvl_*.npz"), ids=lambda p: p.stem)
@torch.no_grad()
def test_forward(path):
    data = rules.load(path)
    mllm = build(back_end_of(path, "c_internvl"))
    tower = mllm.model.model.vision_tower
    seen = {}
    block = tower.encoder.layer[0]
    block.attention.register_forward_hook(lambda m, i, o: seen.update(attn=o[0]))
    block.mlp.register_forward_hook(lambda m, i, o: seen.update(mlp=o))
    tower.embeddings.register_forward_hook(lambda m, i, o: seen.update(embed=o))
    image, tiles = VIT[4], len(data["vit_last"]) - 1
    pixels = torch.cat([rules.given("pixel_values", (tiles, 3, image, image)), torch.zeros(1, 3, image, image)])
    rules.close(tower(pixel_values=pixels).last_hidden_state, data["vit_last"], 1e-6)
    for name, key in (("embed", "vit_embed"), ("attn", "vit_block0_attn"), ("mlp", "vit_block0_mlp")):
        rules.close(seen[name], data[key], 1e-6)
    rules.close(mllm.model.get_image_features(pixel_values=pixels).pooler_output, data["mlp1_out"], 1e-6)
    visual = mllm.visual_tokens(pixels)
    assert len(visual) == tiles  # the zero tile is gone
    ids, mask, labels = (torch.from_numpy(data[key]) for key in ("input_ids", "attention_mask", "labels"))
    embeddings = mllm.insert(ids, visual.flatten(0, 1))
    layers = []
    for layer in mllm.model.model.language_model.layers:
        layer.register_forward_hook(lambda m, i, o: layers.append(o))
    states = mllm.states(embeddings, mask)
    everything = torch.stack([embeddings, *layers[:-1], states]) * mask[None, :, :, None]
    rules.close(everything, data["hidden_states"], 2e-6)
    logits = mllm.logits(states)
    rules.close(logits * mask[..., None], data["logits"], 1e-6)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    rules.close(loss, data["loss"], 2e-6)
    seg = states[ids == SEG]
    rules.close(seg, data["seg_hidden"], 2e-6)
    rules.close(project(seg), data["seg_embed"], 2e-6)


@pytest.mark.parametrize("path", rules.files("c_generate_*.npz"), ids=lambda p: p.stem)
@pytest.mark.parametrize("asked", [1, 3])
@torch.no_grad()
def test_generation(path, asked):
    """Alone and beside longer and shorter questions about the same pictures: the answer stays the same."""
    data = rules.load(path)
    mllm = build(back_end_of(path, "c_generate"))
    for layer in (mllm.model.get_input_embeddings(), mllm.model.get_output_embeddings()):
        layer.weight.mul_(BOOST)
    prompt, expected, seg = data["prompt_ids"].tolist(), data["sequence"].tolist(), int(data["seg_id"])
    tiles = prompt.count(CONTEXT) // mllm.size.vision.tokens
    pixels = rules.given("gen_pixel_values", (tiles, 3, VIT[4], VIT[4]))
    others = [prompt[:-3] + [5], prompt[:-2] + [7, 8, 9, 10, 11]]
    visual = mllm.visual_tokens(pixels).flatten(0, 1)
    answers = mllm.generate([prompt, *others][:asked], visual, len(expected), lambda tokens: tokens[-1] == EOS)
    assert answers[0].tokens == expected
    recorded = torch.from_numpy(data["last_hidden"])
    rules.close(answers[0].states, recorded[len(prompt) :], 1e-5)
    before = mllm.states(mllm.insert(torch.tensor([prompt]), visual))[0]
    rules.close(before, recorded[: len(prompt)], 1e-5)
    rules.close(answers[0].states_at(seg), data["seg_hidden"], 1e-5)
    rules.close(project(answers[0].states_at(seg)), data["seg_embed"], 1e-5)


@pytest.mark.parametrize("path", rules.files("c_visual_prompt*.npz"), ids=lambda p: p.stem)
@torch.no_grad()
def test_regions_marked_by_the_user(path):
    """The visual tokens in order: every tile's, then those of the thumbnail below each mask."""
    data = rules.load(path)
    back_end = re.search(r"c_visual_prompt\.npz (\w+) model\.", rules.README) or ["", "qwen2_300m"]
    mllm = build(back_end[1])
    shown = torch.from_numpy(data["vp_overall_mask"]).bool()
    tiles = mllm.visual_tokens(rules.given("vp_pixel_values", (len(shown), 3, VIT[4], VIT[4])))
    (thumbnail,) = tiles[shown]
    marked = [thumbnail[torch.from_numpy(mask).bool().flatten()] for mask in data["prompt_masks"]]
    ids = torch.from_numpy(data["input_ids"])
    embeddings = mllm.insert(ids, torch.cat([*tiles, *marked]))
    rules.close(embeddings, data["inputs_embeds"], 2e-6)
    rules.close(mllm.states(embeddings, torch.ones_like(ids, dtype=torch.bool)), data["last_hidden"], 2e-6)


def test_map_names_are_ours():
    assert M.startswith("prompter.mllm.")
