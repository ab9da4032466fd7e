"""Image SAM: variants, hooks, weights."""

import copy

import pytest
import torch
from torch import nn

from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.segmenters.sam_encoders import normalise
from rvos_lightning.parts.weights import WeightsError, freeze


@pytest.mark.parametrize("variant", ["small", "small_edge_sam", "small_slim_sam", "small_sam_b"])
def test_small_encodes_decodes_and_lets_hooks_in(variant: str) -> None:
    sam = Sam(variant).eval()
    seen = []

    def hook(stage: int, x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[1])
        return x + 1

    images = torch.rand(2, 3, 48, 40)
    with torch.no_grad():
        plain, hooked = sam.encode(images), sam.encode(images, hook)
        decoded = sam.decode(plain, torch.zeros(2, 1, sam.prompt_dim))
    assert tuple(seen) == sam.stage_channels
    assert tuple(level.shape[1] for level in plain) == sam.channels
    assert plain[-1].shape[-2:] == (8, 8) and plain[0].shape[-1] == sam.stage_sides[0]
    assert not torch.allclose(plain[-1], hooked[-1])
    assert decoded.mask_logits.shape == (2, 32, 32) and decoded.presence_logits is None


@pytest.mark.parametrize("variant", ["tiny_sam", "edge_sam", "slim_sam_77", "sam_l", "sam_h"])
def test_variants_say_what_they_return(variant: str) -> None:
    with torch.device("meta"):
        sam = Sam(variant, 256)
        levels = sam.encoder(torch.zeros(1, 3, 256, 256))
    assert tuple(level.shape[1] for level in levels) == sam.channels and levels[-1].shape[-2:] == (16, 16)


def test_own_weights_come_back_and_others_are_refused(tmp_path) -> None:
    sam = Sam("small", 32)
    path = tmp_path / "sam.pt"
    torch.save(sam.state_dict(), path)
    again = Sam("small", 32, weights=path)
    assert all(torch.equal(a, b) for a, b in zip(sam.state_dict().values(), again.state_dict().values(), strict=True))
    torch.save({"image_encoder.neck.0.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="does not fill"):
        Sam("small", 32, weights=path)


def test_image_size_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match="stride 16"):
        Sam("tiny_sam", 100)


def test_normalise_resizes_like_the_original_and_keeps_ready_images() -> None:
    images = torch.rand(1, 3, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(normalise(images, 16), expected)
    assert normalise(images, 8).shape == (1, 3, 8, 8)


def test_spatial_adapters_start_as_nothing_and_alone_are_trained_in_a_frozen_encoder() -> None:
    torch.manual_seed(0)
    plain = Sam("small", 64).eval()
    torch.manual_seed(0)
    adapted = Sam("small", 64, adapter_width=8, frozen_encoder=True).train()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(adapted.eval().encode(images)[-1], plain.encode(images)[-1])
    trained = {name for name, p in adapted.encoder.named_parameters() if p.requires_grad}
    assert trained and all(part in name for name in trained for part in [".mlp."]) and not adapted.encoder.training
    assert not any(".mlp.mlp." in name for name in trained)
    with pytest.raises(ValueError, match="no transformer blocks"):
        Sam("edge_sam", adapter_width=8)


@torch.no_grad()
def test_a_frozen_encoder_forgets_biases_of_old_weights():
    """timm keeps expanded attention biases in eval mode; a frozen encoder ignores `train`, which would clear them."""
    torch.manual_seed(0)
    sam, other = Sam("small", frozen_encoder=True).eval(), Sam("small").eval()
    for parameter in other.parameters():
        parameter.normal_(std=0.2)
    image = torch.rand(1, 3, 64, 64)
    sam.encode(image)
    sam.load_state_dict(other.state_dict())
    assert torch.equal(sam.encode(image)[-1], other.encode(image)[-1])


def test_a_frozen_part_copies_deeply():
    part = freeze(nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    copied = copy.deepcopy(part)
    assert part.train() is part and copied.train() is copied and not copied.training
    assert not any(parameter.requires_grad for parameter in copied.parameters())


def test_pictures_are_squashed_alike_by_name_not_by_device():
    pictures = torch.rand(1, 3, 40, 50)
    pillow, own = Sam("small"), Sam("small", resample="torch")
    assert not torch.equal(pillow.prepare(pictures), own.prepare(pictures))
    assert (pillow.prepare(pictures) - own.prepare(pictures)).abs().mean() < 0.02  # levels are 0.017 apart
