"""Official layout -> convert -> predict, as typed: nothing but the converted file, and the recorded masks come out."""

import json
from math import prod

import once
import pytest
import torch
from samwise_recordings import VARIANTS, Recording, files, network

from rvos_lightning.parts.weights import save
from rvos_lightning.run.cli import main

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
               patches=c["HSA_patch_size"], selective=c["HSA"], parity="official"),
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
