"""SgMg's official layout -> convert -> predict, as typed: nothing but the converted file, and the recorded masks."""

import once
import pytest
import torch
from sgmg_recordings import Recording, files, network, sliced
from test_official_by_flag import convert, flags, predicted

from rvos_lightning.parts.weights import load_official, save

VIDEOS = once.one_full_size(files("e2e_infer_*.safetensors"), lambda path: "boost" not in Recording(path).config)


@pytest.mark.parametrize("path", VIDEOS)
def test_sgmg(path, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RVOS_WEIGHTS", str(tmp_path / "nothing_here"))
    golden = Recording(path)
    c = golden.config
    size = c["backbone"].split("_")[2]
    ours, released, back = (tmp_path / name for name in ("ours.safetensors", "released.pth", "back.safetensors"))
    save(network(c).state_dict(), ours)
    convert("sgmg", ours, released, "--export")
    ours.unlink()
    state = {**load_official(released), "transformer.total_ops": torch.zeros(1)}  # as a counter leaves it
    torch.save({"model": state, "epoch": 3}, released)
    convert("sgmg", released, back)
    released.unlink()
    assert f"Video-Swin-{size.upper()}, RoBERTa of {c['text_layers']} layers" in capsys.readouterr().out
    text = {"vocabulary": c["vocab"], "layers": c["text_layers"]}
    words = [
        "-c", f"configs/paper/sgmg_ref_youtube_vos_{size}.yaml", "--data", "recorded_data.SgMgClip",
        "--data.recording", path, "--model.weights", back,
        *flags("model.network.text", tokenizer="recorded_data.IdTokenizer", size=text),
    ]  # fmt: skip
    kept = predicted(run, tmp_path, *words)
    golden.check("binary_area", kept["masks"][0].flatten(1).sum(1), atol=3)
    facts = golden.tensors["pred_masks"]
    padded = torch.full(facts["full_shape"], torch.nan)  # no one gives out what was padded
    padded[0, :, 0, : c["H"], : c["W"]] = kept["logits"][0]
    ours = sliced(padded, facts["slice"])
    known = ~ours.isnan()
    assert known.any()
    torch.testing.assert_close(ours[known], golden["pred_masks"][known], atol=2e-5, rtol=0)
