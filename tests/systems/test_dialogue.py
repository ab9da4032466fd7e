"""A small InternVL before Sa2VA: maps of its visual tokens, answers to questions, and what counts as right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from callbacks import AttributeClasses, Looks, Places
from rvos_lightning.core.types import Batch, Facts, Prediction, SegmentedWindow, Targets
from rvos_lightning.data import MovingShapes
from rvos_lightning.data.clips.collate import Collate
from rvos_lightning.data.clips.sampler import Draw
from rvos_lightning.foundations.attributes import AttributePrediction
from rvos_lightning.foundations.dialogue import AnswerAccuracy, AnsweredQuestions, LanguageTaps, PointedPrediction
from rvos_lightning.foundations.naming import NamedSentences
from rvos_lightning.systems.sa2va.mllm_prompter import MLLMPrompter
from rvos_lightning.systems.sa2va.sizes import LanguageSize, MLLMSize, VisionSize

SIZE = MLLMSize(VisionSize(1, 16, 2, 16, 32, 8), LanguageSize("qwen2", 3, 32, 32, 2, 2, 161, context=512))
NAMES = {
    "shape": ["circle", "square", "triangle"],
    "colour": ["red", "green", "blue", "yellow"],
    "direction": ["left", "right", "up", "down"],
}


def prompter(**options):
    torch.manual_seed(0)
    given = {
        "lora": None,
        "answers": ["[SEG]."],
        "checkpointing": False,
        "train_vision": True,
        "train_language": True,
        **options,
    }
    return MLLMPrompter(size=SIZE, prompt="<image>{}", max_new_tokens=6, **given)


def questions(videos=2, seed=0):
    data = MovingShapes(
        size=32, clip_length=3, items_per_video=2, questions=True, context_frames=3, data_seed=seed, redraw=False
    )
    clips = data.train_clips()
    batch = Collate()([clips[Draw(0, i)] for i in range(videos)])
    return Batch(batch.clip.floating(torch.float32), batch.targets)


def test_maps_are_where_the_frames_are():
    taps = LanguageTaps(prompter(), [1], side=32)
    frames = torch.rand(2, 3, 3, 32, 32)
    maps = taps(frames)
    assert [tuple(m.shape) for m in maps] == [(6, 16, 4, 4), (6, 32, 2, 2), (6, 16, 2, 2)]
    assert taps.channels == (16, 32, 16) and taps.strides == (8, 16, 16)
    changed = frames.clone()
    changed[0, 1] = 0  # later frames look back, earlier ones and other videos do not see it
    others = [(m != n).flatten(1).any(1).tolist() for m, n in zip(maps, taps(changed), strict=True)]
    assert others == [[False, True, False, False, False, False], *[[False, True, True, False, False, False]] * 2]
    sum(m.sum() for m in maps).backward()
    unreached = [name for name, p in taps.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []


def test_sentences_are_read_after_the_frames_and_change_no_map():
    taps = LanguageTaps(prompter(), [1], side=32)
    frames, said = torch.rand(2, 3, 3, 32, 32), [["the red circle", "the box"], ["the disc", "the box moving left"]]
    maps, queries, written = taps.read(frames, said)
    assert queries.shape == (4, 16) and len(queries.unique(dim=0)) == 4 and written.shape == (2, 12, 32)
    for own, alone in zip(maps, taps(frames), strict=True):
        assert torch.allclose(own, alone, atol=1e-5)


def test_pixels_and_sentences_are_named_by_the_same_layers():
    data = MovingShapes(
        size=32, clip_length=3, items_per_video=11, labels=["shape", "colour", "direction"], batch_size=2
    )
    batch = next(iter(data.train_dataloader()))
    batch = Batch(batch.clip.floating(torch.float32), batch.targets)
    net, heard = NamedSentences(LanguageTaps(prompter(), [1], side=32), NAMES, sentences=3).train(), []
    read = net.backbone.read
    net.backbone.read = lambda frames, sentences: (heard.extend(sum(sentences, [])), read(frames, sentences))[1]
    prediction = net(batch.clip)
    assert len(heard) == 6 and prediction.told["shape"].shape == (6, 4)
    for n, sentence in enumerate(heard):
        for kind, classes in prediction.truth.items():
            name = NAMES[kind][classes[n] - 1]
            assert any(word in sentence for word in (name, {"circle": "disc", "square": "box"}.get(name, name)))
    terms = AttributeClasses().terms(batch, prediction)
    assert set(terms) == {"shape", "colour", "direction", "told_shape", "told_colour", "told_direction", "own"}
    right = {kind: 20.0 * torch.nn.functional.one_hot(truth, 5) for kind, truth in prediction.truth.items()}
    assert AttributeClasses().terms(batch, replace(prediction, told=right))["told_shape"] < 1e-3 < terms["told_shape"]
    own = replace(prediction, own=20.0 * torch.eye(12).expand(2, -1, -1))
    assert AttributeClasses().terms(batch, own)["own"] < 1e-3 < terms["own"]
    terms["told_shape"].backward()
    heads = net.heads[-1]
    assert heads["shape"].weight.grad.any() and heads["colour"].weight.grad is None
    with pytest.raises(ValueError, match="frames is 3, clips have 2"):
        net(replace(batch.clip, frames=batch.clip.frames[:, :2]))
    with pytest.raises(ValueError, match="sentences say shape, colour, direction; give direction, too"):
        NamedSentences(net.backbone, {kind: NAMES[kind] for kind in ("shape", "colour")})
    assert type(net.eval()(batch.clip)) is AttributePrediction


def test_a_head_shall_look_evenly_at_what_is_meant_or_at_the_text():
    batch = questions(1)
    said = PointedPrediction(torch.full((2, 3, 2, 2), -20.0))
    masks = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    masks[0, 0, :16, :16] = masks[0, 2, :16, :16] = True  # a cell of two frames, and nothing
    batch = Batch(batch.clip, Targets(masks, torch.ones(2, 3, dtype=torch.bool)))
    looks = said.mask_logits.clone()
    looks[0, [0, 2], 0, 0] = 20.0
    even = Looks().terms(batch, replace(said, mask_logits=looks))["looks"]
    assert float(even) == pytest.approx(np.log(2) / 2, abs=1e-4)  # the first item's: one token cannot have it all
    looks[0, 2, 0, 0] = 22.0
    assert Looks().terms(batch, replace(said, mask_logits=looks))["looks"] > even + 0.1
    looks[1, 0, 0, 0] = 20.0
    assert Looks(2.0).terms(batch, replace(said, mask_logits=looks))["looks"] > 20
    with pytest.raises(TypeError, match="AnsweredQuestions"):
        Looks().terms(batch, Prediction(looks))


def test_places_are_what_the_state_of_seg_says():
    batch, net = questions(2), AnsweredQuestions(prompter(), heads=[0, 1]).train()
    prediction = net(batch.clip)
    assert prediction.places.shape == prediction.mask_logits.shape
    right = replace(prediction, places=batch.targets.masks * 40.0 - 20.0)
    for said, wrong in ((right, False), (replace(right, places=-right.places), True)):
        assert {name: float(term) > 0.5 for name, term in Places().terms(batch, said).items()} == dict.fromkeys(
            ("places_dice", "places_focal"), wrong
        )
    with pytest.raises(TypeError, match="AnsweredQuestions"):
        Places().terms(batch, Prediction(prediction.mask_logits))


def test_answers_are_taught_from_what_the_data_says():
    batch = questions(4)
    net = AnsweredQuestions(prompter(), heads=[0, 1]).train()
    prediction = net(batch.clip)
    said, facts = prediction.prompt, [meta.facts for meta in batch.clip.meta]
    assert {fact.kind == "point" for fact in facts} == {True, False}
    for answer, fact, meta in zip(said.answers, facts, batch.clip.meta, strict=True):
        assert answer == fact.answer or fact.kind == "point" and ("[SEG]" in answer) is not meta.no_target
    ends = net.prompter.tokenizer.encode("<|im_end|>")
    assert sum(label in ends for label in said.labels.tolist()) == len(batch.clip)
    shown = (prediction.mask_logits, prediction.places, said.token_logits)
    sum(part.square().mean() for part in shown).backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if p.requires_grad)


def test_an_answer_points_from_its_own_first_tokens():
    net, batch = AnsweredQuestions(prompter(), layer=1, heads=[1]).train(), questions(2)
    taught, ids = net.prompter.lesson(batch.clip, ["", ""])[0], net.prompter.tokenizer
    for (video, place), meta, answer in zip(taught.answers().tolist(), batch.clip.meta, [0, 0, 1, 1], strict=True):
        assert video == answer
        told = meta.facts.answer or ("[SEG]" if not meta.no_target else "There")
        assert taught.ids[video, place] == ids.encode(told)[0] and taught.ids[video, place - 1] == ids.encode("\n")[0]
    with torch.no_grad():
        logits = net(batch.clip).mask_logits
        changed = replace(batch.clip, frames=batch.clip.frames.roll(1, 0))
        torch.manual_seed(0)
        assert logits.shape == (4, 3, 2, 2) and not torch.equal(net(changed).mask_logits, logits)


def test_a_mask_says_how_much_more_a_head_looks_at_a_token_than_at_all_text():
    net, batch = AnsweredQuestions(prompter(attention="eager"), layer=1, heads=[1]).eval(), questions(2)
    language = net.prompter.mllm.model.model.language_model
    visual, text = net.prompter.look(batch.clip.frames[:, :], batch.clip)
    lesson, _ = net.prompter.lesson(batch.clip, text)
    with torch.no_grad():
        passed = language(
            inputs_embeds=net.prompter.mllm.insert(lesson.ids, visual), attention_mask=lesson.mask.long(),
            output_hidden_states=True, output_attentions=True, use_cache=False,
        )  # fmt: skip
        video, place = lesson.answers().unbind(1)
        pointed = net.pointed(batch.clip, lesson, passed.hidden_states[1]).flatten(1)
    seen = lesson.ids == net.prompter.mllm.image_token
    for n, (own, begins) in enumerate(zip(video.tolist(), place.tolist(), strict=True)):
        looks = [passed.attentions[1][own, 1, begins - back] for back in (0, 1)]  # at the answer, or just before
        odds = [(one[seen[own]] / one[~seen[own]].sum()).log() for one in looks]
        assert any(torch.allclose(pointed[n], one, atol=1e-4) for one in odds)


def test_a_question_is_answered_freely_and_counted():
    batch = questions(4)
    net, metric = AnsweredQuestions(prompter(), heads=[0, 1]).eval(), AnswerAccuracy()
    with torch.no_grad():
        prediction = net(batch.clip)
    assert len(prediction.prompt.answers) == len(batch.clip) == 8 and prediction.mask_logits.shape[:2] == (8, 3)
    truths = [meta.facts.answer or ("None." if meta.no_target else "[SEG].") for meta in batch.clip.meta]
    wrong = next(i for i, meta in enumerate(batch.clip.meta) if meta.facts.kind == "point")
    truths[wrong] = "None." if "[SEG]" in truths[wrong] else "[SEG]."
    spaced = [" ".join(truth) if "[" not in truth else truth for truth in truths]
    told = replace(prediction.prompt, answers=[f"{truth}<|im_end|>" for truth in spaced])
    said = replace(prediction, prompt=told)
    window = SegmentedWindow(said.mask_logits > 0, batch.targets, batch.clip.meta, batch.clip, said)
    metric.update(window)
    assert metric.compute()["answers"] == 7 / 8 and metric.compute()["answers/point"] < 1
    other = AnswerAccuracy()  # of another process, which meets the kinds in another order
    turned = replace(prediction.prompt, answers=told.answers[::-1])
    other.update(replace(window, meta=batch.clip.meta[::-1], prediction=replace(prediction, prompt=turned)))
    assert torch.equal(other.right, metric.right) and torch.equal(other.total, metric.total)
    with pytest.raises(TypeError, match="give data.questions true"):
        metric.update(replace(window, meta=[replace(meta, facts=Facts()) for meta in batch.clip.meta]))
    with pytest.raises(TypeError, match="AnsweredQuestions"):
        metric.update(replace(window, prediction=Prediction(prediction.mask_logits)))
