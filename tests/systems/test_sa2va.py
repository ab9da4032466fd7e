"""Sa2VA at single-digit sizes: prompting, memory, sharing, checkpoints in and out, errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rvos_lightning.core.inference import segment_video
from rvos_lightning.core.types import Batch, Clip, ClipMeta
from rvos_lightning.data import MovingShapes
from rvos_lightning.data.shapes.moving_shapes import VOCABULARY
from rvos_lightning.data.shapes.questions import VOCABULARY as ASKED
from rvos_lightning.parts.segmenters.sam2_build import Sam2Size
from rvos_lightning.parts.weights import KeyMap, WeightsError, convert
from rvos_lightning.systems.sa2va import conversation as talk
from rvos_lightning.systems.sa2va import frames, lora, official
from rvos_lightning.systems.sa2va.key_map import key_rules, to_official
from rvos_lightning.systems.sa2va.mllm import Answer
from rvos_lightning.systems.sa2va.mllm_prompter import SHAPES_TOKENIZER, MLLMPrompter
from rvos_lightning.systems.sa2va.network import Sa2VA
from rvos_lightning.systems.sa2va.shards import keys_of
from rvos_lightning.systems.sa2va.sizes import RELEASED, LanguageSize, MLLMSize, VisionSize
from rvos_lightning.systems.sa2va.start import AROUND
from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2
from rvos_lightning.systems.sa2va.word_tokenizer import word_tokenizer

SIZE = MLLMSize(VisionSize(1, 16, 2, 16, 32, 8), LanguageSize("qwen2", 2, 32, 32, 2, 1, 161, context=512))
SAM = Sam2Size(8, 1, (1, 1, 1, 1), (), (4, 4, 4, 4), hidden=32, memory_width=16, memory_layers=1, memory_mlp=32,
               decoder_mlp=32, decoder_heads=2, dropout=0.0, fuser_scale=0.1)  # fmt: skip
ADAPTERS = lora.LoRA(4, 8, 0.0)


def prompter(segmenter=None, **options):
    torch.manual_seed(0)
    given = {"size": SIZE, "max_new_tokens": 6, "lora": None, "checkpointing": False, **options}
    return MLLMPrompter(**given).fit_to(segmenter or TwoDecoderSam2(image_size=64, size=SAM))


def network(inference="sa2va_i", sam=None, **options):
    torch.manual_seed(0)
    segmenter = TwoDecoderSam2(image_size=64, size=SAM, **(sam or {}))
    return Sa2VA(segmenter, prompter(**options), inference, track_in_training=bool(sam))


def clip(time=6, videos=1, items=2, side=32, context=None, no_target=False):
    torch.manual_seed(1)
    texts = [f"the {colour} circle" for colour in ("red", "blue", "green", "white", "yellow")][: videos * items]
    meta = [
        ClipMeta(f"v{i // items}", str(i), tuple(map(str, range(time))), (side, side), (side, side),
                 tuple(range(time)), no_target=no_target)
        for i in range(videos * items)
    ]  # fmt: skip
    pixels = torch.rand(videos, time, 3, side, side)
    shown = None if context is None else pixels[:, list(context)]
    return Clip(
        pixels,
        torch.arange(videos).repeat_interleave(items),
        texts,
        meta,
        context=shown,
        context_positions=context and (context,) * videos,
    )


def speak(net, tokens):
    """Make the language model always answer the same words; states follow from the question alone."""

    def answer(prompt):
        random = torch.Generator().manual_seed(sum(prompt))
        return Answer(list(tokens), torch.randn(len(tokens) - 1, 32, generator=random))

    net.prompter.mllm.generate = lambda prompts, visual, limit, stopped: [answer(prompt) for prompt in prompts]


def run(net, whole, window):
    with torch.no_grad():
        return torch.cat([w.prediction.mask_logits for w in segment_video(net.eval(), Batch(whole), window)], 1)


def test_shipped_tokenizer_is_made_from_the_vocabulary():
    assert json.loads(SHAPES_TOKENIZER.read_text()) == json.loads(word_tokenizer((*VOCABULARY, *ASKED)).to_str())
    tokenizer = prompter().tokenizer
    for text in (
        *VOCABULARY,
        *ASKED,
        *talk.QUESTIONS,
        *talk.ANSWERS,
        "<|im_start|>user\n",
        "There is no such object.",
    ):
        assert tokenizer.convert_tokens_to_ids("<unk>") not in tokenizer.encode(text)


def test_trains_one_step_and_the_split_is_as_published():
    net = network(lora=ADAPTERS, sam={"frozen": True, "trainable": ["sam_mask_decoder"]})
    net.memory.track_in_training = False
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trained) and not any("vision_tower" in name for name in trained)
    language = [name for name in trained if "language_model" in name and ".lora_" not in name]
    assert language == ["prompter.mllm.model.model.language_model.embed_tokens.weight"]
    assert {"prompter.mllm.model.lm_head.weight", "prompter.to_prompt.0.weight"} <= trained
    sam2 = {name for name in trained if name.startswith("segmenter.")}
    assert sam2 and all(name.startswith("segmenter.sam_mask_decoder.") for name in sam2)
    prediction = net.train()(clip(time=3))
    assert not net.prompter.mllm.model.model.vision_tower.training
    assert prediction.mask_logits.shape == (2, 3, 16, 16) and prediction.prompt.spoken.all()
    (prediction.mask_logits.square().mean() + prediction.prompt.token_logits.square().mean()).backward()
    assert net.prompter.to_prompt[0].weight.grad.abs().sum() > 0


def test_one_conversation_per_video_and_states_at_seg():
    from rvos_lightning.systems.sa2va.teaching import prepare_lesson

    own = prompter()
    turns = [talk.Turn("one?", "[SEG]."), talk.Turn("two?", "None."), talk.Turn("three?", "It is [SEG].")]
    lesson = prepare_lesson(own.tokenizer, turns, torch.tensor([0, 0, 1]), own.seg_id, own.chat, True, 512)
    assert lesson.ids.shape[0] == 2 and lesson.spoken.tolist() == [True, False, True]
    for item in (0, 2):
        video, place = lesson.seg[item].tolist()
        assert lesson.ids[video, place] == own.seg_id == lesson.labels[video, place]
    taught = own.tokenizer.decode(lesson.labels[1][lesson.labels[1] != talk.IGNORED])
    assert taught.replace(" ", "") == "Itis[SEG].<|im_end|>"
    with pytest.raises(ValueError, match="fewer frames"):
        prepare_lesson(own.tokenizer, turns, torch.tensor([0, 0, 1]), own.seg_id, own.chat, True, 8)


def test_no_target_is_taught_without_seg_and_counts_nothing():
    from callbacks.point_masks import PointMasks
    from rvos_lightning.core.types import Targets

    net, one = network().train(), clip(time=2, no_target=True)
    prediction = net(one)
    assert not prediction.prompt.spoken.any() and set(prediction.prompt.answers) == {"There is no such object."}
    targets = Targets(torch.zeros(2, 2, 32, 32, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool))
    terms = PointMasks(points=16).terms(Batch(one, targets), prediction)
    assert all(float(term.detach()) == 0 and term.requires_grad for term in terms.values())


@pytest.mark.parametrize("inference", ["sa2va", "sa2va_i"])
def test_windows_do_not_change_masks(inference):
    net = network(inference)
    speak(net, [5, net.prompter.seg_id, 6])
    whole = clip(time=12, context=(0, 3, 11))
    torch.testing.assert_close(run(net, whole, 12), run(net, whole, 5))


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["sa2va", "sa2va_i"])
def test_compiled_masks_of_what_is_said_equal_eager_ones(inference):
    torch.compiler.reset()
    net = network(inference)
    speak(net, [5, net.prompter.seg_id, 6])
    whole = clip(time=3, context=(0, 2))
    other = replace(whole, expressions=whole.expressions[::-1])
    eager = [run(net, asked, 3) for asked in (whole, other)]
    net.compile(backend="aot_eager")
    compiled = [run(net, whole, 3)]
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled.append(run(net, other, 3))
    assert float(eager[0].std()) > 0 and not torch.allclose(*eager, atol=1e-3)
    torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("inference", ["sa2va", "sa2va_i"])
def test_items_and_videos_do_not_touch_each_other(inference):
    net = network(inference)
    speak(net, [5, net.prompter.seg_id, 6])
    both = clip(time=6, videos=2, items=2, context=(0, 2))
    together = run(net, both, 6)
    alone = replace(
        both, frames=both.frames[1:], video=torch.tensor([0]), expressions=both.expressions[3:], meta=both.meta[3:],
        context=both.context[1:],
    )  # fmt: skip
    torch.testing.assert_close(run(net, alone, 6)[0], together[3], atol=1e-4, rtol=1e-4)


def test_answer_without_seg_gives_an_empty_mask_and_says_so(caplog):
    net = network()
    speak(net, [5, 6])
    with caplog.at_level("INFO"):
        assert (run(net, clip(), 6) < 0).all()
    said = [record.levelname for record in caplog.records if "no [SEG]" in record.message]
    assert said == ["WARNING", "INFO"]  # the first one reaches the user, every one the log
    # [SEG] as the very last token has no state
    speak(net, [5, net.prompter.seg_id])
    assert (run(net, clip(), 6) < 0).all()


def test_the_prefix_is_shared_and_asking_together_changes_nothing():
    own = prompter(ask_at_once=1).eval()
    together = prompter(ask_at_once=16).eval()
    lengths = []
    states = together.mllm.states
    together.mllm.states = lambda e, *a, **k: lengths.append(e.shape[:2]) or states(e, *a, **k)
    one = clip(items=4)
    apart = own.ask(one)
    assert together.ask(one).answers == apart.answers
    visual = 5 * (SIZE.vision.tokens + 2)
    assert lengths[0][0] == 1 and lengths[0][1] > visual and all(n < 20 for _, n in lengths[1:])


def test_frames_shown():
    whole = clip(time=10)
    assert frames.shown(whole, 3, "uniform").positions == (0, 4, 9)
    assert frames.shown(whole, 3, "first").positions == (0, 1, 2)
    seen = frames.shown(clip(time=10, context=(0, 0, 9)), 5, "first")
    assert seen.positions == (0, 9) and seen.frames.shape[1] == 2
    with pytest.raises(ValueError, match="context"):
        frames.shown(replace(clip(time=10), context=whole.frames[:, :2]), 5, "first")


def test_prediction_does_not_read_what_is_not_its_own():
    """Subsets and targets change nothing in inference."""
    net = network()
    speak(net, [5, net.prompter.seg_id, 6])
    torch.testing.assert_close(run(net, clip(), 6), run(net, clip(no_target=True), 6))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"questions": ["Please segment it."]}, "placeholder"),
        ({"prompt": "Please segment {}."}, "<image>"),
        ({"answers": ["Sure."]}, r"\[SEG\]"),
        ({"template": "alpaca"}, "qwen_chat"),
        ({"lora": lora.LoRA(targets=("wqkv",))}, "wqkv"),
        ({"start": "near"}, "heads >= 8"),
        ({"size": replace(SIZE, language=replace(SIZE.language, vocabulary=64))}, "vocabulary"),
        ({"tokenizer": Path("nowhere")}, "tokenizer"),
    ],
)
def test_bad_input_is_named(options, said):
    with pytest.raises(ValueError, match=said):
        prompter(**options)


def test_tokenizer_without_seg_is_refused(tmp_path):
    content = SHAPES_TOKENIZER.read_text().replace("[SEG]", "[NOT]")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"lacks \[SEG\]"):
        prompter(tokenizer=tmp_path / "tokenizer.json")


def test_more_frames_than_context_is_refused():
    own = prompter(size=replace(SIZE, language=replace(SIZE.language, context=32))).eval()
    with pytest.raises(ValueError, match="fewer frames"):
        own.ask(clip(time=12))


def test_an_answer_ends_where_the_context_does():
    own = prompter(max_new_tokens=2048).eval()
    length = len(own.prompt_ids("the red circle", talk.video_tokens(5, SIZE.vision.tokens)))
    own.mllm.size = replace(SIZE, language=replace(SIZE.language, context=length + 3))
    own.stopped = lambda tokens: False
    (answer,) = own.mllm.generate(
        [own.prompt_ids("the red circle", talk.video_tokens(5, SIZE.vision.tokens))],
        torch.zeros(5 * SIZE.vision.tokens, 32), 2048, own.stopped,
    )  # fmt: skip
    assert len(answer.tokens) == 4


def release(folder, two_decoders=False, family="qwen2"):
    """A folder as released, of tiny random weights."""
    size = replace(SIZE, language=replace(SIZE.language, family=family))
    sam = TwoDecoderSam2(image_size=64, variant="narrow", second_decoder=two_decoders)
    own = MLLMPrompter(size=size, lora=None).fit_to(sam)
    state = {f"segmenter.{k}": v for k, v in sam.state_dict().items()}
    state |= {f"prompter.{k}": v for k, v in own.state_dict().items() if "lora_scale" not in k}
    official_state = {k: make().clone() for k, make in to_official(state, family == "internlm2", 16)}
    folder.mkdir()
    keys = sorted(official_state)
    for i in range(2):
        save_file({k: official_state[k] for k in keys[i::2]}, folder / f"model-{i}.safetensors")
    vision = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    names = {"qwen2": "Qwen2ForCausalLM", "internlm2": "InternLM2ForCausalLM"}
    text = {"architectures": [names[family]], "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 32,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 161}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"vision_config": vision, "llm_config": text}))
    return official_state


@pytest.mark.parametrize(("two_decoders", "family"), [(False, "qwen2"), (True, "internlm2")])
def test_import_and_export_return_the_release(tmp_path, two_decoders, family):
    before = release(tmp_path / "released", two_decoders, family)
    assert "used" in official.import_official(tmp_path / "released", tmp_path / "ours", "narrow")
    official.export_official(tmp_path / "ours", tmp_path / "back")
    from rvos_lightning.systems.sa2va.shards import Tensors

    back = Tensors(tmp_path / "back")
    assert back.where.keys() == before.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in before.items())


def test_unknown_or_missing_keys_are_refused(tmp_path):
    state = release(tmp_path / "released")
    save_file({"surprise": torch.zeros(1)}, tmp_path / "released" / "model-9.safetensors")
    with pytest.raises(WeightsError, match="surprise"):
        official.import_official(tmp_path / "released", tmp_path / "ours", "narrow")
    (tmp_path / "released" / "model-9.safetensors").unlink()
    (tmp_path / "released" / "model-1.safetensors").unlink()
    with pytest.raises(WeightsError, match="does not fill"):
        official.import_official(tmp_path / "released", tmp_path / "ours", "narrow")
    assert state


def test_sa2va_becomes_sa2va_i(tmp_path):
    before = release(tmp_path / "sa2va")
    decoder = {k.removeprefix(official.SAM): v + 1 for k, v in before.items() if ".sam_mask_decoder." in k}
    save_file(decoder, tmp_path / "sam2.safetensors")
    official.add_original_decoder(tmp_path / "sa2va", tmp_path / "sam2.safetensors", tmp_path / "both")
    found = keys_of(tmp_path / "both")
    assert len(found) == len(before) + len(decoder)
    official.import_official(tmp_path / "both", tmp_path / "ours", "narrow")
    with pytest.raises(WeightsError, match="two mask decoders"):
        official.add_original_decoder(tmp_path / "both", tmp_path / "sam2.safetensors", tmp_path / "again")


LAYOUTS = Path(__file__).parents[1] / "golden" / "state_dicts" / "sa2va.json"


def released_layout(name):
    recorded = json.loads(LAYOUTS.read_text())["layouts"]
    entries = recorded[name] + [e for e in recorded["1B"] if e["key"].startswith("grounding") and name != "1B"]
    layout = {}
    for entry in entries:
        for index in indices(entry):
            key = entry["key"]
            for i in index:
                key = key.replace("{i}", str(i), 1)
            layout[key] = torch.empty(entry["shape"], device="meta")
    return layout


def indices(entry):
    """Index tuples of an entry: inclusive ranges for one `{i}`, tuples for several."""
    holes = entry["key"].count("{i}")
    if holes == 0:
        return [()]
    if holes == 1:
        return [(i,) for first, last in entry["i"] for i in range(first, last + 1)]
    return [tuple(index) for index in entry["i"]]


@pytest.mark.parametrize("two_decoders", [False, True])
@pytest.mark.parametrize("name", ["1B", "4B", "8B", "26B"])
def test_every_released_key_is_accounted_for(name, two_decoders):
    layout = released_layout(name)
    if two_decoders:
        modified = "sam_mask_decoder_modified."
        layout |= {k.replace("sam_mask_decoder.", modified): v for k, v in layout.items() if "sam_mask_decoder." in k}
    assert len(layout) == {"1B": 1541, "4B": 1685, "8B": 1477, "26B": 1838}[name] + 131 * two_decoders
    size = RELEASED[name.lower()]
    target = official.expected(size, two_decoders, with_sam2=True)
    key_map = KeyMap(key_rules(size.language.width // size.language.heads, two_decoders), missing=[official.LORA_SCALE])
    ours = convert(layout, key_map, target)
    back = to_official({k: v for k, v in ours.items()}, size.language.family == "internlm2")
    shapes = {key: make().shape for key, make in back}
    assert shapes == {key: tensor.shape for key, tensor in layout.items()}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft 0.21 on transformers 5.23
def test_merge_equals_adapters():
    own = prompter(lora=ADAPTERS).eval()
    for name, parameter in own.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    plain = prompter().eval()
    base = {k.replace(".base_layer.", "."): v for k, v in own.mllm.state_dict().items() if ".lora_" not in k}
    plain.mllm.load_state_dict(base)
    ids = torch.randint(0, 100, (1, 7))
    expected = own.mllm.states(own.mllm.embed(ids))
    assert (plain.mllm.states(plain.mllm.embed(ids)) - expected).abs().max() > 1e-3
    merged = prompter().eval()
    state = lora.merged(own.mllm.state_dict(), float(own.mllm.lora_scale))
    merged.mllm.load_state_dict(state | {"lora_scale": torch.tensor(0.0)})
    torch.testing.assert_close(merged.mllm.states(merged.mllm.embed(ids)), expected, atol=1e-5, rtol=1e-5)


def test_starts_from_converted_weights_with_fresh_adapters(tmp_path):
    before = release(tmp_path / "released")
    official.import_official(tmp_path / "released", tmp_path / "ours", "narrow")
    small = TwoDecoderSam2("narrow", image_size=64)
    own = prompter(small, lora=ADAPTERS, weights=tmp_path / "ours")
    embedding = own.mllm.model.get_input_embeddings().weight
    assert torch.equal(embedding, before["language_model.model.embed_tokens.weight"])
    assert torch.equal(own.to_prompt[0].weight, before["text_hidden_fcs.0.weight"])


def test_a_language_model_that_has_never_prompted_starts_with_a_fresh_projection(tmp_path):
    """As InternVL2.5's own folders once converted, from which the paper recipes train."""
    before = prompter()
    tensors = {f"prompter.mllm.{key}": value for key, value in before.mllm.state_dict().items()}
    save_file(tensors, tmp_path / "ours.safetensors")
    torch.manual_seed(1)
    own = MLLMPrompter(size=SIZE, lora=ADAPTERS, checkpointing=False, weights=tmp_path / "ours.safetensors")
    own.fit_to(TwoDecoderSam2(image_size=64, size=SAM))
    assert torch.equal(own.mllm.model.get_input_embeddings().weight, before.mllm.model.get_input_embeddings().weight)
    assert not torch.equal(own.to_prompt[0].weight, before.to_prompt[0].weight)


def test_a_segmenter_that_knows_one_mask_gives_that():
    torch.manual_seed(0)
    one, three = (TwoDecoderSam2(image_size=64, size=SAM, multimask=many).eval() for many in (False, True))
    three.load_state_dict(one.state_dict())
    coarse, fine = torch.randn(2, 32, 4, 4), [torch.randn(2, 4, 16, 16), torch.randn(2, 8, 8, 8)]
    with torch.no_grad():
        decoded = one.decode_language(coarse, fine, torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0)))
        before = three.decode_language(coarse, fine, torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0)))
        assert not torch.equal(decoded.mask_logits, before.mask_logits)
        for own in (one, three):  # the three masks of the other one
            for mlp in own.sam_mask_decoder.output_hypernetworks_mlps[1:]:
                for parameter in mlp.parameters():
                    parameter.zero_()
        tokens = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0))
        assert torch.equal(one.decode_language(coarse, fine, tokens).mask_logits, decoded.mask_logits)
        assert not three.decode_language(coarse, fine, tokens).mask_logits.any()


def test_vision_heads_that_start_near_look_at_a_neighbour_each():
    size = replace(SIZE, vision=VisionSize(2, 64, 8, 16, 64, 8), language=replace(SIZE.language, heads=8, kv_heads=8))
    torch.manual_seed(0)
    tower = prompter(size=size, lora=None, start="near").mllm.model.model.vision_tower
    attention, states = tower.encoder.layer[0].attention, tower.embeddings(torch.zeros(1, 3, 64, 64))[0]
    queries, keys = (
        proj(tower.encoder.layer[0].layernorm_before(states)).view(65, 8, 8).transpose(0, 1)
        for proj in (attention.q_proj, attention.k_proj)
    )
    middle = 1 + 4 * 8 + 4
    found = (queries @ keys.transpose(1, 2))[:, middle].argmax(1) - middle
    assert found.tolist() == [8 * down + right for down, right in AROUND]


def test_heads_that_start_near_look_one_frame_back():
    language = replace(SIZE.language, heads=8, kv_heads=8, head_dim=32, rope_theta=1e4)
    size = MLLMSize(VisionSize(1, 16, 2, 16, 64, 8), language)
    own = prompter(size=size, start="near", attention="eager").eval()
    attention, seen = own.mllm.model.model.language_model.layers[0].self_attn, []
    attention.register_forward_hook(lambda module, inputs, output: seen.append(output[1][0, :, 70]))
    own.mllm.states(own.mllm.embed(torch.randint(0, 100, (1, 80))))
    back = 70 - seen[0].argmax(-1)
    assert back[:5].tolist() == [19, 20, 18, 23, 15]  # 16 visual tokens in rows of 4, and three that frame them
    assert (seen[0][:5].amax(-1) > 0.5).all() and (seen[0][5:7, 55:].sum(-1) > 0.6).all()


def test_the_last_heads_that_start_near_look_at_what_the_asking_token_says():
    language = replace(SIZE.language, heads=8, kv_heads=8, head_dim=32, width=64, rope_theta=1e4)
    own = prompter(size=MLLMSize(VisionSize(1, 16, 2, 16, 64, 8), language), start="near", attention="eager").eval()
    layer, seen = own.mllm.model.model.language_model.layers[-1], []
    layer.self_attn.register_forward_hook(lambda module, inputs, output: seen.append(output[1][0, -2:, 299]))
    alike = torch.randn(64)

    def same(module, inputs):
        inputs[0][0, [40, 299]] = alike

    layer.register_forward_pre_hook(same)
    with torch.no_grad():
        own.mllm.states(own.mllm.embed(torch.randint(0, 100, (1, 300))))
    assert set(seen[0].topk(2).indices.flatten().tolist()) == {40, 299}


def test_learns_from_moving_shapes_batches():
    from rvos_lightning.data.clips.collate import Collate
    from rvos_lightning.data.clips.sampler import Draw

    data = MovingShapes(size=32, clip_length=3, items_per_video=2, kinds={"attributes": 1.0, "no_target": 1.0})
    clips = data.train_clips()
    batch = Collate()([clips[Draw(0, i)] for i in range(2)])
    batch = Batch(batch.clip.floating(torch.float32), batch.targets)
    net = network(sam={"frozen": False, "train_original": True}).train()
    prediction = net(batch.clip)
    tracks = prediction.tracks
    assert batch.clip.video[tracks.items].tolist() == [0, 1]  # one item of each video
    assert tracks.mask_logits.shape == prediction.mask_logits[:2].shape
    assert tracks.tracked.sum() in (1, 2)
