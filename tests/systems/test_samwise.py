"""SAMWISE's own behaviour: what the recordings of the official code cannot show."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samwise_small import TEXT, batch, clip, samwise, segmenter
from torch import nn

from callbacks.cme import CMESupervision
from callbacks.masks import DiceFocal, Presence
from rvos_lightning.parts.text.roberta import Roberta
from rvos_lightning.parts.text.tokenizers import WordTokenizer
from rvos_lightning.parts.weights import WeightsError, load_official, save
from rvos_lightning.systems.samwise import official
from rvos_lightning.systems.samwise.attention import FusedAttention
from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
from rvos_lightning.systems.samwise.outputs import SwitchedPrediction

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
STATE_DICTS = Path(__file__).parents[1] / "golden" / "state_dicts"


def item(whole, index):
    """One item of a clip alone, with its own video."""
    video = int(whole.video[index])
    return replace(
        whole,
        frames=whole.frames[video : video + 1],
        video=torch.zeros(1, dtype=torch.long),
        expressions=[whole.expressions[index]],
        meta=[whole.meta[index]],
    )


@torch.no_grad()
@pytest.mark.parametrize("stages", [(1, 2, 3), (2, 3), (3,), ()])
def test_items_in_lock_step_equal_items_alone(stages):
    """Uneven sentences, shared videos, several windows and a switch: batching changes nothing."""
    net = samwise(adapter={"stages": stages, "patches": (4, 2, 2)[3 - len(stages) :] or (4, 2, 2)}).eval()
    whole = clip(2, 8, ["the red one", "a circle that moves left", "it"], video=[1, 0, 1])
    net.memory.encoder.decision_head.bias.copy_(torch.tensor([20.0, 0.0]))

    def run(one):
        first = net(one.window(0, 5))
        second = net(one.window(5, 8), first.state)
        masks, opinions = zip(*((part.mask_logits, part.switch_logits) for part in (first, second)), strict=True)
        return torch.cat(masks, 1), torch.cat(opinions, 1), second.state.last_switch

    low, high = run(whole)[1].diff(dim=-1).flatten(1).amax(1).sort().values[1:]
    net.memory.encoder.decision_head.bias[1] -= (low + high) / 2  # so that exactly one item switches
    masks, opinions, switches = run(whole)
    assert int((switches > 0).sum()) == 1
    for i in range(3):
        for ours, alone in zip((masks, opinions, switches), run(item(whole, i)), strict=True):
            torch.testing.assert_close(ours[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padding_of_frames_changes_nothing():
    """A smaller picture padded to its batch's size is seen as if it were alone (the segmenter pads it anyway)."""
    net = samwise().eval()
    small = clip(1, 3, ["the red one"], size=(40, 48))
    padded = torch.zeros(1, 3, 3, 64, 56)
    padded[..., :40, :48] = small.frames
    seen = net(replace(small, frames=padded))
    torch.testing.assert_close(seen.mask_logits[..., :40, :48], net(small).mask_logits, **CLOSE)
    assert seen.mask_logits.shape[-2:] == (64, 56)


def test_official_parity_attends_padding():
    """Only training under `parity: official` lets the length of another sentence in the batch matter."""
    for parity, training, same in (("fixed", True, True), ("official", True, False), ("official", False, True)):
        net = samwise(adapter={"parity": parity}).eval()
        net.adapter.training = training  # its batch normalisations stay as they are
        whole = clip(2, 3)
        with torch.no_grad():
            together, alone = net.adapter(whole, net.segmenter), net.adapter(item(whole, 0), net.segmenter)
        assert torch.allclose(together.pyramid[2][:1], alone.pyramid[2], atol=1e-6, rtol=1e-5) is same


def test_switch_writes_the_other_mask_and_cools_down():
    net = samwise(memory={"window": 2}).eval()
    head = net.memory.encoder.decision_head
    written = []
    remember = net.segmenter.remember

    def spy(pixels, full, presence=None):
        written.append(full)
        return remember(pixels, full, presence)

    net.segmenter.remember = spy
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 99.0]))
        switching = net(clip(1, 8))
        switched = written[:]
        written.clear()
        head.bias.copy_(torch.tensor([99.0, 0.0]))
        keeping = net(clip(1, 8))
    assert isinstance(switching, SwitchedPrediction) and switching.switch_frames == (3, 4, 5, 6, 7)
    assert switching.switch_ran[0].tolist() == [True] * 5  # window 2: cool-down of one frame
    assert int(switching.state.last_switch) == 7 and int(keeping.state.last_switch) == 0
    torch.testing.assert_close(switching.mask_logits[:, :4], keeping.mask_logits[:, :4])
    assert not torch.allclose(switching.mask_logits[:, 4:], keeping.mask_logits[:, 4:])
    assert not torch.allclose(switched[3], written[3])


def test_cool_down_of_a_longer_window():
    net = samwise(memory={"window": 4}).eval()
    with torch.no_grad():
        net.memory.encoder.decision_head.bias.copy_(torch.tensor([0.0, 99.0]))
        prediction = net(clip(1, 12))
    ran = [frame for frame, ran in zip(prediction.switch_frames, prediction.switch_ran[0], strict=True) if ran]
    assert ran == [5, 8, 11]


def test_one_frame_window_restarts_only_in_parity_mode():
    for parity, restarts in (("fixed", False), ("official", True)):
        net = samwise(memory={"parity": parity}).eval()
        whole = clip(1, 5)
        with torch.no_grad():
            state = net(whole.window(0, 4)).state
            last = net(whole.window(4, 5), state)
            fresh = net(whole.window(4, 5))
        assert torch.equal(last.mask_logits, fresh.mask_logits) is restarts


WORDLESS = (  # what no sentence reaches: clicks, mask prompts, other masks of the decoder
    r"segmenter\.(sam_prompt_encoder\.(point_embeddings|mask_downscaling)|sam_mask_decoder\.(iou_prediction_head|"
    r"output_hypernetworks_mlps\.[123])|mask_downsample|no_mem_pos_enc).*"
)


def test_a_step_reaches_all_that_a_sentence_can_reach_and_nothing_frozen():
    made = batch(time=4)
    net = samwise().train()
    prediction = net(made.clip)
    objectives = (DiceFocal(), CMESupervision(min_area=0), Presence())
    sum(sum(o.terms(made, prediction).values()) for o in objectives).backward()
    idle = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert idle and [name for name in idle if not re.fullmatch(WORDLESS, name)] == []
    frozen = samwise(frozen=True).train()
    assert not any(p.requires_grad for p in frozen.segmenter.parameters())
    assert not any(m.training for m in frozen.segmenter.modules())
    frozen(made.clip).mask_logits.sum().backward()
    assert frozen.adapter.adapters["1"].down[0].weight.grad is not None


@pytest.mark.parametrize("time", [1, 2])
def test_no_second_pass_where_no_frame_is_due(time, monkeypatch):
    made, calls = batch(time=time), []
    net = samwise().train()
    decode = net.segmenter.decode
    monkeypatch.setattr(net.segmenter, "decode", lambda *args: calls.append(1) or decode(*args))
    prediction = net(made.clip)
    assert len(calls) == time and prediction.switch_logits.shape == (len(made.clip), 0, 2)
    assert CMESupervision().terms(made, prediction)["cme"] == 0


def test_checkpointing_changes_nothing_but_memory():
    made, gradients = batch(time=3), []
    for checkpointing in (False, True):
        net = samwise(checkpointing=checkpointing).train()
        net(made.clip).mask_logits.square().mean().backward()
        gradients.append(net.segmenter.image_encoder.trunk.blocks[3].mlp.layers[0].weight.grad)
    torch.testing.assert_close(*gradients)


def test_fused_attention_is_torch_attention():
    torch.manual_seed(0)
    ours, theirs = FusedAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    queries, keys = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    expected = theirs(queries, keys, keys, key_padding_mask=~real)[0]
    torch.testing.assert_close(ours(queries, keys, real), expected)
    torch.testing.assert_close(ours(queries, queries), theirs(queries, queries, queries)[0])


def test_wrong_widths_are_named():
    with pytest.raises(ValueError, match=r"adapter.channels is \(1, 2, 3, 4\), Sam2 has \(8, 16, 32, 64\)"):
        samwise(adapter={"channels": (1, 2, 3, 4)})
    with pytest.raises(ValueError, match="text_layers"):
        samwise(adapter={"text_layers": (1, 2, 3, 5)})
    with pytest.raises(ValueError, match="stages"):
        samwise(adapter={"stages": (1, 4)})


def official_names(variant):
    """Names and shapes of the official checkpoint, from its published list."""
    content = json.loads((STATE_DICTS / f"{variant}.json").read_text())
    return {name: (tuple(shape), dtype) for name, shape, dtype in content}


@pytest.mark.parametrize("variant", ["samwise", "samwise_refcoco_pretraining"])
def test_official_layout_is_known_to_the_last_key(variant):
    """Every official key becomes a key of ours and back, shapes included, for both published variants."""
    names = official_names(variant)
    state = {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for name, (shape, dtype) in names.items()
    }
    selective = variant == "samwise"
    assert ("RVOS" in official.describe(state)) is selective and "hiera_b+" in official.describe(state)
    target = official.parts_for(state).state_dict()
    ours = official.convert(state, official.KEY_MAP, target)
    back, unknown = official.to_official(ours)
    assert not unknown
    unused = {name for name in names if any(official.re.fullmatch(p, name) for p in official.NEVER_USED)}
    assert {name: tuple(t.shape) for name, t in back.items()} == {
        name: shape for name, (shape, _) in names.items() if name not in unused
    }


def small_official(tmp_path):
    """A seeded official-style checkpoint of small width, with an argparse.Namespace inside, old serialisation."""
    import argparse

    from rvos_lightning.core.network import PromptedSegmenter
    from rvos_lightning.parts.segmenters.sam2 import Sam2
    from rvos_lightning.parts.text.roberta import Roberta, TextSize
    from rvos_lightning.parts.text.tokenizers import WordTokenizer
    from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
    from rvos_lightning.systems.samwise.conditional_memory import ConditionalMemory
    from rvos_lightning.systems.samwise.motion_prompter import MotionPrompter

    torch.manual_seed(3)
    sam = Sam2("hiera_t")
    text = Roberta(size=TextSize(40, 16, 12, 1, 16, 8), tokenizer=WordTokenizer((), buckets=1))
    parts = PromptedSegmenter(sam, CMTAdapter(text, dim=16), MotionPrompter(), ConditionalMemory())
    parts.adapter.text.model.embeddings.token_type_embeddings.weight.zero_()
    state, _ = official.to_official(parts.state_dict())
    content = {"model": {**official._filler(state), **state}, "args": argparse.Namespace(lr=1e-5), "epoch": 1}
    path = tmp_path / "official.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path, content["model"], parts


@torch.no_grad()
def test_checkpoint_round_trip(tmp_path):
    path, state, parts = small_official(tmp_path)
    report = official.import_official(path, tmp_path / "ours.safetensors")
    assert "RVOS" in report and "hiera_t" in report
    ours = load_official(tmp_path / "ours.safetensors")
    parts.load_state_dict(ours)
    assert "10 the official model never uses" in official.export_official(
        tmp_path / "ours.safetensors", tmp_path / "back.pth"
    )
    back = load_official(tmp_path / "back.pth")
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key], value), key
    del ours["memory.encoder.norm1.weight"]
    save({**ours, "stranger": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match="stranger"):
        official.export_official(tmp_path / "odd.safetensors", tmp_path / "odd.pth")


def test_parameter_table_has_the_published_numbers():
    """The counts that the specification took from the instantiated official model."""
    from rvos_lightning.systems.samwise.report import rows, table

    counts = {row.name: row.count for row in rows()}
    assert counts["SAM 2 with text MLP"] == 81_162_114
    assert counts["RoBERTa-base"] == 124_054_272
    assert [counts[f"CMT adapter {i}"] for i in range(3)] == [1_381_056, 1_483_904, 1_711_104]
    assert counts["Conditional Memory Encoder"] + 512 == 331_394  # without the official one's unused norm
    assert counts["layers 1, 2, 3 (adapters alone)"] == 4_182_848
    token_types, head, norm = 768, 642_393, 512
    assert counts["total, RoBERTa, hiera_b+"] - token_types + head + norm == 210_766_237
    assert "150 M" in table(rows())


def test_video_stage_starts_from_image_stage(tmp_path):
    """Stage 1 has neither HSA, CME nor object scores: what it lacks must be named as fresh, and stays as built."""
    from rvos_lightning.parts.starting import start_from

    first = samwise(adapter={"selective": False}, memory={"switching": False}, object_scores=False)
    save(first.state_dict(), tmp_path / "stage1.safetensors")
    second = samwise(seed=1)
    with pytest.raises(WeightsError, match="does not fill"):
        start_from(second, tmp_path / "stage1.safetensors")
    fresh = [r"adapter\.adapters\..*\.selective\..*", r"memory\.encoder\..*", r"segmenter\..*obj_.*"]
    before = second.memory.encoder.linear1.weight.clone()
    start_from(second, tmp_path / "stage1.safetensors", fresh)
    assert torch.equal(second.prompter.project_text.layers[0].weight, first.prompter.project_text.layers[0].weight)
    assert torch.equal(second.memory.encoder.linear1.weight, before)


@torch.no_grad()
def test_sentences_are_read_once_per_video_and_anew_when_weights_change():
    net, whole, calls = samwise().eval(), clip(1, 4), []
    tokenize = net.adapter.text.tokenize

    def counted(expressions):
        calls.append(expressions)
        return tokenize(expressions)

    net.adapter.text.tokenize = counted
    first = net(whole.window(0, 2))
    second = net(whole.window(2, 4), first.state)
    assert len(calls) == 1
    torch.testing.assert_close(second.prompt.tokens, net(whole.window(2, 4)).prompt.tokens)
    state = {key: value.flip(0) if "word_embeddings" in key else value for key, value in net.state_dict().items()}
    net.load_state_dict(state)
    assert not torch.allclose(net(whole.window(0, 2)).prompt.tokens, first.prompt.tokens)
    net.train().eval()
    net(whole.window(0, 2))
    net(replace(whole, expressions=["something else"]))
    assert len(calls) == 4


def adapters(**options):
    text = Roberta(size=TEXT, tokenizer=WordTokenizer(buckets=16), frozen=False)
    given = {"text_layers": (1, 2, 3, 4), "dim": 8, "heads": 2, "patches": (4, 2, 2), **options}
    return CMTAdapter(text, **given).fit_to(segmenter()).adapters.state_dict()


def test_adapters_start_from_a_first_stage_without_selective_attention(tmp_path):
    saved = adapters(selective=False)
    save(saved, tmp_path / "stills.safetensors")
    made = adapters(weights=tmp_path / "stills.safetensors")
    assert all(torch.equal(made[key], value) for key, value in saved.items())
    assert {key for key in made if key not in saved} == {key for key in made if ".selective." in key} != set()
    save({key: value for key, value in saved.items() if "text_up" not in key}, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match="text_up"):
        adapters(weights=tmp_path / "less.safetensors")
