"""Official weights -> converted -> fine-tuned on one's own real video -> scored, as typed, at reduced size."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import sam_i2v_rule
import torch
from samwise_recordings import Recording as Samwise
from samwise_recordings import files as samwise_files
from samwise_recordings import network as samwise_network
from sgmg_recordings import Recording as SgMg
from sgmg_recordings import files as sgmg_files
from sgmg_recordings import network as sgmg_network
from test_official_by_flag import TINY, convert, flags, released_sa2va, samwise_words

from rvos_lightning.parts.weights import save
from rvos_lightning.run.cli import main
from rvos_lightning.systems.sam_i2v import official as i2v

ROOT = Path(__file__).parents[2]
HORSE = ROOT / "tests/data/horsejump"
STEPS = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu",
         "--trainer.num_sanity_val_steps", "0", "--trainer.enable_progress_bar", "false",
         "--trainer.precision", "32-true",
         "--trainer.accumulate_grad_batches", "1", "--callbacks.film", "null", "--data.workers", "0"]  # fmt: skip
WORDS = {"class_path": "rvos_lightning.parts.text.tokenizers.WordTokenizer", "init_args": {"words": [], "buckets": 64}}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The horse and its rider as one's own data, by the command that imports masks."""
    folder = tmp_path_factory.mktemp("own")
    for kind, end in (("frames", "jpg"), ("masks", "png")):
        (folder / kind / "horse").mkdir(parents=True)
        for frame in ("00000", "00003", "00006", "00009"):
            shutil.copy(HORSE / kind / f"{frame}.{end}", folder / kind / "horse")
    said = [("horse", "the brown horse", "1"), ("horse", "both of them", "1;2"), ("horse", "a cow", "-")]
    with (folder / "said.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "exp", "objects"), *said])
    for split in ("train", "val"):
        words = ["labels", "import", "masks", folder / "masks", "--frames", folder / "frames", "--out", folder / "mine"]
        assert main([*map(str, words), "--split", split, "--sentences", str(folder / "said.csv")]) == 0
    return folder / "mine"


def tune(run, tmp_path, name, weights, videos, *words):
    """fit, then validate the merged file without adapters; every changed parameter is one that was chosen."""
    recipe = ["-c", f"configs/finetune/{name}.yaml", "--data.root", videos, *words]
    done = run("fit", *recipe, "--model.weights", weights, *STEPS, folder=tmp_path / "tuned")
    network = done.model.network
    chosen = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert any("lora_B" in key for key in chosen) and any("lora" not in key for key in chosen)
    moved = [key for key in chosen if "lora_B" in key and network.get_parameter(key).abs().sum() > 0]
    assert len(moved) >= 0.9 * sum("lora_B" in key for key in chosen), "adapters that no gradient reached"
    scores = json.loads((tmp_path / "tuned" / "scores.json").read_text())
    assert "j_and_f" in json.dumps(scores)
    last = tmp_path / "tuned" / "checkpoints" / "last.ckpt"
    assert main(["convert", "run", str(last), str(tmp_path / "merged.safetensors"), "--merge"]) == 0
    alone = [word for word in STEPS[4:6]] + ["--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"]
    plain = run("validate", *recipe, "--model.tune", "null", "--model.weights", tmp_path / "merged.safetensors", *alone,
                folder=tmp_path / "plain")  # fmt: skip
    one, two = (float(d.trainer.callback_metrics["val/j_and_f"]) for d in (done, plain))
    assert one == pytest.approx(two, abs=0.02)
    assert not any("lora" in key for key in plain.model.network.state_dict() if "lora_scale" not in key)
    return network


@pytest.mark.filterwarnings("ignore")
def test_samwise(run, tmp_path, videos, monkeypatch):
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    small = [path for path in samwise_files("e2e_infer_*") if Samwise(path).config["image_size"] < 1024]
    path = next(path for path in small if not Samwise(path).config["disable_pred_obj_score"])
    ours, official, back = (tmp_path / name for name in ("ours.safetensors", "official.pth", "back.safetensors"))
    save(samwise_network(Samwise(path).config).state_dict(), ours)
    convert("samwise", ours, official, "--export")
    convert("samwise", official, back)
    words = samwise_words(path)
    words = words[words.index("--model.network.segmenter.variant") :]
    sizes = flags("data", size=128, resize="squash", eval_size=128, eval_resize="squash", clip_length=2)
    words += [*flags("model.network.adapter.text", tokenizer=WORDS), *sizes]
    tune(run, tmp_path, "samwise", back, videos, *words)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sam_i2v(run, tmp_path, videos, monkeypatch):
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    recording = sam_i2v_rule.Recording(sam_i2v_rule.recordings("e2e_click*")[0])
    model = i2v.build()
    sam_i2v_rule.fill(model, i2v.official_names(model.state_dict()), recording.sharp)
    torch.save({"model": i2v.export_state(model.state_dict())}, tmp_path / "official.pt")
    convert("sam_i2v", tmp_path / "official.pt", tmp_path / "ours.safetensors")
    words = [*flags("model.network.segmenter", image_size=256), *flags("data", size=256, clip_length=2)]
    tune(run, tmp_path, "sam_i2v", tmp_path / "ours.safetensors", videos, *words)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sa2va(run, tmp_path, videos, monkeypatch):
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    released_sa2va(tmp_path / "released", False, 0.5)
    convert("sa2va", tmp_path / "released", tmp_path / "ours")
    words = [
        *flags("model.network.segmenter", variant="hiera_t", image_size=256),
        *flags("model.network.prompter", size=TINY, frames=2),
        *flags("data", size=256, clip_length=2, context_frames=2, items_per_video=1),
        "--model.network.prompter.tokenizer", ROOT / "rvos_lightning/systems/sa2va/shapes_tokenizer.json",
    ]  # fmt: skip
    tune(run, tmp_path, "sa2va", tmp_path / "ours", videos, *words)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sgmg(run, tmp_path, videos, monkeypatch):
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    golden = next(
        SgMg(path) for path in sgmg_files("e2e_infer_*.safetensors") if "_t_" in SgMg(path).config["backbone"]
    )
    ours, released, back = (tmp_path / name for name in ("ours.safetensors", "released.pth", "back.safetensors"))
    save(sgmg_network(golden.config).state_dict(), ours)
    convert("sgmg", ours, released, "--export")
    convert("sgmg", released, back)
    text = {"vocabulary": golden.config["vocab"], "layers": golden.config["text_layers"]}
    words = [*flags("model.network.text", tokenizer=WORDS, size=text),
             *flags("data", augment=[], size=160, resize="squash", eval_size=160, eval_resize="squash"),
             *flags("data", clip_length=2)]  # fmt: skip
    tune(run, tmp_path, "sgmg", back, videos, *words)


@pytest.mark.filterwarnings("ignore")
def test_clip_sam(run, tmp_path, videos, monkeypatch):
    """Its official layout is that of one size (ViT-B, ViT-L): here our layout, the small recipe's parts."""
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    text = {"vocabulary": 0, "width": 64, "layers": 1, "heads": 4, "mlp": 128, "positions": 40, "dropout": 0.0}
    bert = {"class_path": "rvos_lightning.parts.text.bert.Bert", "init_args": {"size": text, "weights": None}}
    tower = {
        "class_path": "rvos_lightning.systems.clip_sam.towers.SmallTower",
        "init_args": {"width": 64, "image_size": 64, "stride": 8, "text": bert, "weights": None, "frozen": False},
    }
    small = {"variant": "small", "image_size": 64, "weights": None}
    sam = {"class_path": "rvos_lightning.parts.segmenters.sam.Sam", "init_args": small}
    network = {
        "sam": sam, "tower": tower, "text": bert, "preset": "released", "sparse_source": "cls", "no_target": True,
        "categories": ["horse", "rider", "background"],
        "sizes": {"queries": 8, "pixel_layers": 1, "heads": 4, "hidden": 128, "pixel_encoder": "dense"},
    }  # fmt: skip
    whole = {"class_path": "rvos_lightning.systems.clip_sam.network.ClipSam", "init_args": network}
    first = run("fit", "-c", "configs/clip_sam.yaml", "--model.network", json.dumps(whole), *STEPS[:-1], "1",
                "--data.batch_size", "2", "--trainer.limit_val_batches", "1", "--model.lr_scale", "null",
                folder=tmp_path / "first")  # fmt: skip
    save(first.model.network.state_dict(), tmp_path / "ours.safetensors")
    words = [
        "--model.network", json.dumps(whole), *flags("data", size=64),
        *flags("model.tune.lora", targets=["sam.encoder.", "text.model.encoder.*(query|value)$"]),
        *flags("objectives.decoder", canvas=64), *flags("objectives.queries", points=64),
    ]  # fmt: skip
    tune(run, tmp_path, "clip_sam", tmp_path / "ours.safetensors", videos, *words)


def test_headers_say_how_much_memory_it_takes():
    for path in (ROOT / "configs/finetune").glob("*.yaml"):
        header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        assert all(f"{size} GB" in header for size in (12, 24, 80)), path.name
