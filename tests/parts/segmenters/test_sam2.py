"""Sam2 against the sam2 package's own model, and its options."""

import pytest
import torch

from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.segmenters.sam2_build import HUB_FILES, SIZES, Sam2Size
from rvos_lightning.parts.weights import WeightsError, save

TINY = Sam2Size(
    embed_dim=8, stages=(1, 1, 1, 1), global_blocks=(), windows=(4, 4, 4, 2), hidden=16, memory_width=8,
    memory_layers=1, memory_mlp=16, decoder_mlp=16, decoder_heads=2,
)  # fmt: skip


def small(**options):
    torch.manual_seed(0)
    return Sam2(**{"size": TINY, "image_size": 64, "frozen": False, **options})


def published(config, image_size):
    """The package's model from its own YAML."""
    from pathlib import Path

    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from sam2.modeling import sam2_base

    content = OmegaConf.load(Path(sam2_base.__file__).parents[1] / "configs" / config)
    content.model.image_size = image_size
    return instantiate(content.model, _recursive_=True).eval()


@pytest.mark.parametrize(
    ("version", "short", "variant"),
    [("2.0", "t", "hiera_t"), ("2.1", "t", "hiera_t"), ("2.0", "s", "hiera_s"), ("2.1", "b+", "hiera_b+")],
)
def test_published_variants_have_the_packages_keys_and_shapes(version, short, variant):
    folder = "sam2" if version == "2.0" else "sam2.1"
    theirs = published(f"{folder}/{folder}_hiera_{short}.yaml", 1024).state_dict()
    with torch.device("meta"):
        ours = Sam2(variant, version).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@torch.no_grad()
@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("multimask", [False, True])
def test_encoding_decoding_and_memory_equal_the_packages(version, multimask):
    """Features, masks, pointer, memory attention with pointers and memory encoding of the package's SAM2Base."""
    torch.manual_seed(1)
    folder = "sam2" if version == "2.0" else "sam2.1"
    theirs = published(f"{folder}/{folder}_hiera_t.yaml", 128)
    ours = Sam2("hiera_t", version, image_size=128, multimask=multimask).eval()
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 128, 128)
    fine, middle, coarse = ours.encode(images)
    output = theirs.forward_image(ours.prepare(images))
    _, feats, positions, sizes = theirs._prepare_backbone_features(output)
    for mine, other, size in zip((fine, middle, coarse), feats, sizes, strict=True):
        torch.testing.assert_close(mine, other.permute(1, 2, 0).unflatten(2, size), atol=1e-4, rtol=1e-4)
    high_res = [x.permute(1, 2, 0).unflatten(2, s) for x, s in zip(feats[:2], sizes[:2], strict=True)]
    tokens = torch.zeros(2, 0, 256)
    decoded = ours.decode((fine, middle, ours.no_memory(coarse)), tokens)
    _, _, ious, low, high, pointer, score = theirs._forward_sam_heads(
        ours.no_memory(coarse), high_res_features=high_res, multimask_output=multimask
    )
    gated = torch.where(score[:, :, None] > 0, decoded.mask_logits, torch.full_like(decoded.mask_logits, -1024.0))
    torch.testing.assert_close(gated, low[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded.iou, ious.max(1).values if multimask else ious[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.pointer(decoded), pointer, atol=1e-4, rtol=1e-4)
    full = torch.where(score[:, :, None] > 0, ours.upscale(decoded.mask_logits), high[:, 0])
    memory, _ = theirs._encode_new_memory(feats, sizes, full[:, None], score, False)
    torch.testing.assert_close(ours.remember(coarse, full, score[:, 0]), memory.float(), atol=1e-4, rtol=1e-4)
    past = {
        t: {"maskmem_features": m, "maskmem_pos_enc": [p], "obj_ptr": torch.randn(2, 256)}
        for t in range(3)
        for m, p in [(torch.randn(2, 64, 8, 8), theirs.memory_encoder.position_encoding(torch.zeros(2, 64, 8, 8)))]
    }
    outputs = {"cond_frame_outputs": {0: past[0]}, "non_cond_frame_outputs": {1: past[1], 2: past[2]}}
    expected = theirs._prepare_memory_conditioned_features(
        3, False, feats[-1:], positions[-1:], sizes[-1:], outputs, 20
    )
    attended = ours.attend(
        coarse,
        [past[t]["maskmem_features"] for t in (0, 1, 2)],
        [6, 1, 0],
        [past[t]["obj_ptr"] for t in (0, 2, 1)],
        [3, 1, 2],
    )
    torch.testing.assert_close(attended, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_hook_may_widen_the_batch_and_sees_every_stage():
    sam, seen = small().eval(), []

    def hook(stage, x):
        seen.append((stage, x.shape[1]))
        return torch.cat([x, 2 * x]) if stage == 2 else x

    levels = sam.encode(torch.rand(2, 3, 64, 64), hook)
    assert seen == list(enumerate(sam.stage_channels))
    assert [len(level) for level in levels] == [2, 2, 4]
    assert tuple(level.shape[1] for level in levels) == sam.channels


@torch.no_grad()
def test_pad_and_stretch():
    images = torch.rand(1, 3, 40, 48)
    padded = small().prepare(images)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (small().pixel_mean, small().pixel_std))
    torch.testing.assert_close(padded[0, :, :40, :48], (images[0] - mean) / std)
    assert not padded[..., 40:, :].any() and not padded[..., 48:].any()
    assert small().prepare(torch.rand(1, 3, 70, 20)).shape[-2:] == (64, 64)  # excess is cut off
    full = torch.randn(1, 64, 64)
    assert torch.equal(small().on_frame(full, (40, 48)), full[:, :40, :48])
    assert small().on_frame(full, (70, 20)).shape == (1, 70, 20)
    stretched = small(fit="stretch")
    assert stretched.prepare(images).shape[-2:] == (64, 64) and stretched.on_frame(full, (40, 48)).shape == full.shape


def test_frozen_trainable_and_dropout():
    sam = small(frozen=True).train()
    assert not any(p.requires_grad for p in sam.parameters()) and not any(m.training for m in sam.modules())
    sam = small(frozen=True, trainable=["sam_mask_decoder"]).train()
    trained = {name.split(".")[0] for name, p in sam.named_parameters() if p.requires_grad}
    assert trained == {"sam_mask_decoder"}
    sam = small(frozen=True, frozen_dropout=True)
    assert sam.train().memory_attention.layers[0].dropout1.training and not sam.eval().training
    with pytest.raises(ValueError, match="submodule decoder"):
        small(frozen=True, trainable=["decoder"])


def test_weights_from_a_file(tmp_path):
    sam = small()
    save(sam.state_dict(), tmp_path / "sam.safetensors")
    again = small(weights=str(tmp_path / "sam.safetensors"), frozen=True)
    assert torch.equal(again.no_mem_embed, sam.no_mem_embed)
    without = small(weights=str(tmp_path / "sam.safetensors"), object_scores=False)
    assert not any("obj_score" in key for key in without.state_dict())
    with pytest.raises(WeightsError, match="variant and version"):
        small(weights=str(tmp_path / "sam.safetensors"), version="2.1")
    assert HUB_FILES["facebook/sam2.1-hiera-base-plus"] == "sam2.1_hiera_base_plus.pt"
    assert SIZES["hiera_b+"].channels == (112, 224, 448, 896)


def test_image_size_must_fit():
    with pytest.raises(ValueError, match="image_size 100"):
        small(image_size=100)


def test_clicks_can_be_learnt():
    """A part that trains is not told by its constructor what will be asked of it."""
    sam = small()
    points, labels = torch.tensor([[[20.0, 10.0], [3.0, 60.0]]]), torch.tensor([[1, 0]])
    levels = sam.encode(torch.rand(1, 3, 64, 64))
    tokens = sam.embed_points(points, labels, (64, 64))
    assert tokens.shape == (1, 2, 16)
    sam.decode((*levels[:-1], sam.no_memory(levels[-1])), tokens).mask_logits.sum().backward()
    negative, positive, *corners = sam.sam_prompt_encoder.point_embeddings
    assert negative.weight.grad.abs().sum() > 0 and positive.weight.grad.abs().sum() > 0
    boxes = sam.box_tokens(torch.tensor([[1.0, 2.0, 30.0, 40.0]]), (64, 64))
    boxes.sum().backward()
    assert all(corner.weight.grad.abs().sum() > 0 for corner in corners)
