"""The feature cache of SAM + CLIP: the verb, equality with online features, and everything that can go wrong."""

import json
import re
from dataclasses import replace

import pytest
import torch
from clip_sam_small import batch, frozen_recipe, small

from rvos_lightning.parts.feature_cache import CacheError, FeatureCache, FeatureWriter, fingerprint, verify_shards
from rvos_lightning.run.cli import main

SENTENCES = ["the red circle", "all blue squares"]
DATA = ["--data.train_clips", "6", "--data.val_clips", "4", "--data.test_clips", "2"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A recipe with frozen random encoders, and its cache."""
    folder = tmp_path_factory.mktemp("cache")
    recipe = frozen_recipe(folder)
    words = ["-c", str(recipe), "--out", str(folder / "features"), "--images", "5", *DATA]
    assert main(["cache", *words]) == 0
    return folder, recipe, words


def test_the_verb_fills_adds_nothing_twice_and_verifies(filled, capsys):
    folder, _, words = filled
    cache = next((folder / "features").iterdir())
    manifest = json.loads((cache / "manifest.json").read_text())
    assert (
        manifest["images"] == 12 and len(manifest["shards"]) == 3 and cache.name == fingerprint(manifest["recipe"])[:16]
    )
    assert main(["cache", *words]) == 0
    assert "12 pictures (0 new)" in capsys.readouterr().out
    assert main(["cache", *words, "--data.val_clips", "5"]) == 0
    assert re.search(r"13 pictures \(1 new\), [\d.]+ MiB", capsys.readouterr().out)
    assert verify_shards(cache) == [] and main(["cache", "--verify", str(cache)]) == 0
    assert main(["cache", "-c", "configs/clip_sam.yaml"]) == 2  # where?
    assert main(["cache", "-c", "configs/clip_sam.yaml", "--out", str(folder)]) == 1
    assert "needs frozen image encoders" in capsys.readouterr().err
    assert main(["cache", "-c", "configs/tiny.yaml", "--out", str(folder)]) == 1
    assert "no frozen image encoders" in capsys.readouterr().err


def test_training_reads_the_cache_without_encoders(filled, tmp_path):
    folder, recipe, _ = filled
    words = ["fit", "-c", str(recipe), "--model.network.features", str(folder / "features"), *DATA,
             "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "2",
             "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.batch_size", "2",
             "--trainer.default_root_dir", str(tmp_path / "run")]  # fmt: skip
    fitted = main(words)
    network = fitted.model.network
    assert fitted.trainer.global_step == 2 and network.tower.model.visual is None
    assert not list(network.sam.encoder.parameters())
    with pytest.raises(SystemExit):
        main([*words, "--data.size", "32", "--trainer.default_root_dir", str(tmp_path / "other")])


@pytest.fixture
def cached(tmp_path):
    """An online network, its cache, and the clip that is in it."""
    online, clip = small().eval(), batch(SENTENCES, time=2).clip
    writer = online.feature_writer(tmp_path, 2)
    assert online.lacks(writer, clip) and online.keep(writer, clip) == 4
    writer.flush()
    assert not online.lacks(writer, clip) and online.keep(writer, clip) == 0
    return online, tmp_path, clip


def test_cached_equals_online_within_half_precision(cached):
    online, folder, clip = cached
    offline = small(features=folder).eval()
    offline.load_state_dict(online.state_dict(), strict=False)
    near, exact = offline.encode_images(clip), online.encode_images(clip)
    for a, b in ((near.sam, exact.sam), (near.clip, exact.clip)):
        assert float((a - b).abs().max()) <= 2**-10 * float(b.abs().max())
    assert torch.allclose(offline(clip).mask_logits, online(clip).mask_logits, atol=0.02)
    assert sum(p.numel() for p in offline.parameters()) < sum(p.numel() for p in online.parameters())
    with pytest.raises(ValueError, match="no image encoders"):
        offline.tower.look(torch.rand(1, 3, 32, 32))


def test_other_weights_print_both_fingerprints(cached):
    online, folder, _ = cached
    with torch.no_grad():
        next(online.sam.encoder.parameters()).add_(1)
    from rvos_lightning.systems.clip_sam.cached import recipe

    wanted = recipe(online.sam, online.tower, online.preset)
    there = next(folder.iterdir()).name
    with pytest.raises(CacheError, match=rf"(?s){fingerprint(wanted)[:16]}.*{there} differs in sam_weights"):
        FeatureCache(folder, wanted)
    with pytest.raises(CacheError, match="no feature cache; run"):
        small(features=folder / "elsewhere")


def test_missing_image_and_replaced_picture(cached):
    _, folder, clip = cached
    offline = small(features=folder)
    stranger = replace(clip, meta=[replace(m, video="stranger") for m in clip.meta])
    with pytest.raises(CacheError, match="image 'stranger/0@64x64' is missing among 4: run .python -m rvos_lightning"):
        offline.encode_images(stranger)
    with pytest.raises(CacheError, match="'v0/0@64x64' is not the picture"):
        offline.encode_images(replace(clip, frames=clip.frames.flip(-1)))


def test_changed_byte_and_cut_off_shard(cached):
    _, folder, clip = cached
    shard = next(folder.rglob("shard-00000.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 255
    shard.write_bytes(content)
    with pytest.raises(CacheError, match="has changed on disk"):
        small(features=folder).encode_images(clip)
    assert verify_shards(shard.parent) == ["shard-00000.safetensors"]
    shard.write_bytes(content[:-10])
    with pytest.raises(CacheError, match="cut off or lost"):
        small(features=folder)
    (shard.parent / "index.json").write_text("{")
    with pytest.raises(CacheError, match="index.json: cannot be read as JSON"):
        small(features=folder)


def test_a_killed_writer_loses_only_its_open_shard(tmp_path):
    writer = FeatureWriter(tmp_path, {"a": 1}, images=2)
    for i in range(3):
        writer.add(f"i{i}", i, {"x": torch.full((4,), float(i))})
    index = writer.folder / "index.json"  # killed here, after the index of a second shard, before its manifest
    index.write_text(json.dumps({**json.loads(index.read_text()), "i2": {"shard": "shard-00001.safetensors"}}))
    again = FeatureWriter(tmp_path, {"a": 1}, images=2)
    assert "i1" in again and "i2" not in again
    again.add("i2", 2, {"x": torch.full((4,), 70_000.0)})  # beyond half precision: bfloat16
    again.flush()
    picture = torch.zeros(3, 1, 1)
    cache = FeatureCache(tmp_path, {"a": 1}, verify="never")
    assert cache.read("i2", picture)["x"].dtype == torch.bfloat16 and float(cache.read("i1", picture)["x"][0]) == 1
    with pytest.raises(CacheError, match="not finite"):
        again.add("i3", 3, {"x": torch.tensor([float("nan")])})
