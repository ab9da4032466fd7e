"""Official layout -> convert -> predict, as typed: nothing but the converted file, and the recorded masks come out."""

import json
import re
from math import prod
from pathlib import Path

import once
import pytest
import sa2va_rules
import sam_i2v_rule
import torch
import yaml
from samwise_recordings import VARIANTS, Recording, files, network

from rvos_lightning.parts.weights import save
from rvos_lightning.run.cli import main
from rvos_lightning.systems.sa2va.key_map import to_official
from rvos_lightning.systems.sa2va.mllm_prompter import MLLMPrompter
from rvos_lightning.systems.sa2va.sizes import LanguageSize, MLLMSize, VisionSize
from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2
from rvos_lightning.systems.sam_i2v import official as i2v

ROOT = Path(__file__).parents[2]
MASKS = {"A": {"atol": 1e-6, "rtol": 0.0}, "B": {"atol": 2e-4, "rtol": 1e-4}}  # of the recordings' README
ALONE = ("--callbacks.overlay", "null", "--callbacks.film", "null", "--trainer.enable_progress_bar", "false",
         "--trainer.accelerator", "cpu")  # fmt: skip


def convert(*words):
    assert main(["convert", *map(str, words)]) in (0, None)


def predicted(run, tmp_path, *words):
    """What `predict` with these words keeps, without a single file of weights but the converted one."""
    kept = tmp_path / "kept.pt"
    keep = ("--callbacks.keep", "recorded_data.KeepMasks", "--callbacks.keep.path", kept)
    run("predict", *words, *ALONE, *keep)
    return torch.load(kept, weights_only=True)


def flags(prefix, **values):
    """--PREFIX.KEY VALUE for every value."""
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [word for key, value in said.items() for word in (f"--{prefix}.{key}", value)]


def samwise_words(path):
    """The published recipe, brought to a recording's sizes by flags."""
    c = Recording(path).config
    sizes, network_ = c["roberta"], "model.network"
    text = {"vocabulary": sizes["vocab"], "width": sizes["dim"], "layers": sizes["layers"], "heads": sizes["heads"],
            "mlp": sizes["ffn"], "positions": sizes["max_positions"], "dropout": 0.1}  # fmt: skip
    widths = {"tiny": 96, "small": 96, "base": 112, "large": 144}[c["sam2_version"]]
    recipe = "samwise_refcoco" if c["disable_pred_obj_score"] else "samwise_mevis"
    return [
        "-c", f"configs/paper/{recipe}.yaml", "--data", "recorded_data.SamwiseClip", "--data.recording", path,
        *flags(f"{network_}.segmenter", variant=VARIANTS[c["sam2_version"]], image_size=c["image_size"],
               pixel_mean=[0, 0, 0], pixel_std=[1, 1, 1]),
        *flags(f"{network_}.adapter.text", tokenizer="recorded_data.IdTokenizer", size=text),
        *flags(f"{network_}.adapter", channels=[widths * 2**stage for stage in range(4)], dim=c["adapter_dim"],
               patches=c["HSA_patch_size"], selective=c["HSA"], stages=c["fusion_stages"],
               text_layers=[1, *c["fusion_stages_txt"]], parity="official"),
        *flags(f"{network_}.prompter", text_dim=sizes["dim"]),
        *flags(f"{network_}.memory", switching=c["use_cme_head"], window=c["cme_decision_window"],
               switch=c["switch_mem"], parity="official"),
    ]  # fmt: skip


VIDEOS = [*files("e2e_infer_*"), *files("e2e_image_*")]
SMALL = [path for path in VIDEOS if Recording(path).config["image_size"] < 1024]
LARGE = [pytest.param(path, marks=pytest.mark.slow) for path in VIDEOS if path not in SMALL]


@pytest.mark.parametrize("path", [*once.one_full_size(SMALL), *LARGE], ids=lambda path: path.stem)
def test_samwise(path, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    golden = Recording(path)
    ours, official, back = (tmp_path / name for name in ("ours.safetensors", "official.pth", "back.safetensors"))
    save(network(golden.config).state_dict(), ours)
    convert("samwise", ours, official, "--export")
    ours.unlink()
    convert("samwise", official, back)
    official.unlink()
    assert "RefCOCO" in capsys.readouterr().out or golden.config["HSA"]
    kept = predicted(run, tmp_path, *samwise_words(path), "--model.weights", back)
    stride, shape = golden.strides.get("pred_masks", 1), golden.metadata["shapes"]["pred_masks"]
    frames = kept["logits"].shape[1]
    recorded = golden.arrays["pred_masks"].flatten()[: -(-prod([frames, *shape[1:]]) // stride)]
    logits, masks = (kept[name].flatten()[::stride] for name in ("logits", "masks"))
    torch.testing.assert_close(logits, recorded, **MASKS[golden.config["rule"]])
    sure = recorded.abs() > 1e-3
    assert sure.any() and torch.equal(masks[sure], recorded[sure] > 0)


CLICKS = sorted(sam_i2v_rule.recordings("e2e_click*"), key=lambda path: not path.stem.endswith("_sharp"))


@pytest.mark.xdist_group("sam_i2v")
@pytest.mark.parametrize(
    ("path", "most"),
    [*((path, 3) for path in CLICKS[:1]), *(pytest.param(p, 100, marks=pytest.mark.slow) for p in CLICKS)],
)
def test_sam_i2v(path, most, run, tmp_path, monkeypatch):
    """One click, tracked on; the selector's random draws are those of the recording."""
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    recording = sam_i2v_rule.Recording(path)
    *_, first = sam_i2v_rule.CLICK
    frames = min(first + most, recording.frames("click"))
    model = i2v.build()
    sam_i2v_rule.fill(model, i2v.official_names(model.state_dict()), recording.sharp)
    torch.save({"model": i2v.export_state(model.state_dict())}, tmp_path / "official.pt")
    convert("sam_i2v", tmp_path / "official.pt", tmp_path / "ours.safetensors")
    kept = predicted(
        run, tmp_path, "-c", "configs/paper/sam_i2v.yaml", "--model.weights", tmp_path / "ours.safetensors",
        "--data", "recorded_data.I2vClip", "--data.frames", frames, "--trainer.precision", "32-true",
        *flags("model.network.memory", fill_holes=0),  # recorded without the extension that fills them
        "--model.network.memory.selector", "recorded_data.ReplayedSelector",
        "--model.network.memory.selector.recording", path,
    )  # fmt: skip
    rows, columns = (slice(None, None, step) for step in sam_i2v_rule.STRIDES[2:])
    names = {first: "click.prompt_frame", **{time: f"click.f{time}.video" for time in range(first + 1, frames)}}
    for time, name in names.items():
        recorded = recording[name][0, 0]
        ours = kept["masks"][0, time, rows, columns]
        sure = recorded.abs() > 1e-2 * recorded.std()
        assert torch.equal(ours[sure], recorded[sure] > 0), name


TINY = {"vision": {"layers": 1, "width": 16, "heads": 2, "mlp": 16, "image": 32, "patch": 8},
        "language": {"layers": 2, "width": 32, "mlp": 32, "heads": 2, "kv_heads": 1, "vocabulary": 161,
                     "context": 512}}  # fmt: skip
BOOSTED = (".memory_attention.", ".memory_encoder.", ".obj_ptr_proj.", ".mask_downsample.")


def released_sa2va(folder, two_decoders, presence):
    """A released folder: the recordings' SAM 2, a language model of a few numbers beside it."""
    sam = TwoDecoderSam2(variant="hiera_t")
    size = MLLMSize(VisionSize(**TINY["vision"]), LanguageSize(**TINY["language"]))
    talker = MLLMPrompter(size=size, lora=None).fit_to(sam)
    if hasattr(talker, "fit_to"):
        talker.fit_to(sam)
    layout = {f"segmenter.{key}": value for key, value in sam.state_dict().items()}
    shapes = {key: tuple(make().shape) for key, make in to_official(layout, internlm2=False)}
    loud = lambda key: any(p in key for p in BOOSTED) or key.endswith((".maskmem_tpos_enc", ".no_obj_ptr"))  # noqa: E731
    state = sa2va_rules.weights(shapes, lambda key: 0.1 if loud(key) else 0.02)
    state["grounding_encoder.sam2_model.sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(presence)
    if not two_decoders:  # a Sa2VA checkpoint has one decoder, under the plain name
        state = {key: value for key, value in state.items() if "sam_mask_decoder_modified." not in key}
    words = {f"prompter.{key}": value for key, value in talker.state_dict().items() if "lora_scale" not in key}
    state |= {key: make().clone() for key, make in to_official(words, internlm2=False)}
    folder.mkdir()
    save(state, folder / "model.safetensors")
    vision, text = TINY["vision"], TINY["language"]
    config = {
        "vision_config": {"num_hidden_layers": vision["layers"], "hidden_size": vision["width"],
                          "num_attention_heads": vision["heads"], "intermediate_size": vision["mlp"],
                          "image_size": vision["image"], "patch_size": vision["patch"]},
        "llm_config": {"architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": text["layers"],
                       "hidden_size": text["width"], "intermediate_size": text["mlp"],
                       "num_attention_heads": text["heads"], "num_key_value_heads": text["kv_heads"],
                       "vocab_size": text["vocabulary"]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def sa2va_runs():
    """(recording, array, inference, frames shown) of every recorded run from words to masks."""
    for path in sa2va_rules.files("e1_*.npz"):
        data = sa2va_rules.load(path)
        for key in sorted(data, reverse=True):
            if found := re.fullmatch(r"(sa2va_(\w+)_(?:present|absent))_strided", key):
                shown = min(sa2va_rules.frames_shown(found[2]), len(data[key]))
                yield path, found[1], "sa2va", list(range(shown))
    for path in sa2va_rules.files("e2_*.npz"):
        data = sa2va_rules.load(path)
        for key in sorted(data):
            if found := re.fullmatch(r"(i_chain_(?:present|absent))_stats", key):
                yield path, found[1], "sa2va_i", data["i_sample_idx"].tolist()


RUNS = list(sa2va_runs())


@pytest.mark.parametrize(
    ("path", "name", "inference", "shown"),
    [*RUNS[:1], *(pytest.param(*run, marks=pytest.mark.slow) for run in RUNS[1:])],
)
def test_sa2va(path, name, inference, shown, run, tmp_path, monkeypatch):
    """The answer's [SEG] embedding is the recorded one; from there on everything is as published."""
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    data = sa2va_rules.load(path)
    released_sa2va(tmp_path / "released", inference == "sa2va_i", 0.5 if name.endswith("present") else -0.5)
    convert("sa2va", tmp_path / "released", tmp_path / "ours")
    network_, recipe = "model.network", "configs/paper/sa2va_4b.yaml"
    parts = yaml.safe_load((ROOT / recipe).read_text())["model"]["network"]["init_args"]
    tracker = f"{network_}.memory" if "memory" in parts else network_
    kept = predicted(
        run, tmp_path, "-c", recipe, "--model.weights", tmp_path / "ours",
        "--data", "recorded_data.Sa2vaClip", "--data.frames", int(data[f"{name}_stats"].shape[0]),
        "--trainer.precision", "32-true", *flags(tracker, inference=inference),
        *flags(f"{network_}.segmenter", variant="hiera_t", pixel_mean=[0, 0, 0], pixel_std=[1, 1, 1],
               half_positions=False),
        f"--{network_}.prompter", "recorded_data.RecordedAnswer",
        *flags(f"{network_}.prompter", positions=shown, size=TINY),
    )  # fmt: skip
    logits = kept["logits"][0]
    if inference == "sa2va_i":
        sa2va_rules.close(sa2va_rules.stats(logits), data[f"{name}_stats"], 1e-3)
        return
    sa2va_rules.close(sa2va_rules.strided(logits), data[f"{name}_strided"], 2e-6)
    sa2va_rules.close(sa2va_rules.crop(logits), data[f"{name}_crop"], 2e-6)
