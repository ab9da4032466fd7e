"""The small CLIP that SAM + CLIP's small recipe starts from: how it is trained, read and frozen, and what it knows."""

from dataclasses import replace

import pytest
import torch
from clip_sam_small import batch

from callbacks.masks import DiceFocal
from rvos_lightning.data.shapes.moving_shapes import MovingShapes
from rvos_lightning.foundations.alignment import PatchesAndWords
from rvos_lightning.parts.text.bert import Bert
from rvos_lightning.parts.text.roberta import TextSize
from rvos_lightning.parts.weights import WeightsError, reproducible_prefixes
from rvos_lightning.systems.clip_sam.towers import SmallTower

SIZE = TextSize(0, 96, 2, 4, 192, 40, 0.0)


def tower(**options):
    return SmallTower(Bert(size=SIZE), 96, 128, 16, **options)


def test_every_sentence_is_compared_with_the_patches_of_its_own_frames():
    network = PatchesAndWords(tower())
    data = batch(["the red circle", "the blue square", "the thing"], videos=2, time=2)
    prediction = network(data.clip)
    assert prediction.mask_logits.shape == (3, 2, 8, 8) and prediction.covers == "picture"
    alone = network(data.clip.window(1, 2)).mask_logits
    assert torch.allclose(prediction.mask_logits[:, 1:], alone, atol=1e-5)
    sum(DiceFocal().terms(data, prediction).values()).backward()
    assert all(p.grad is not None for p in network.parameters())
    with pytest.raises(ValueError, match="the clip has none"):
        network(replace(data.clip, expressions=None))


def test_a_tower_starts_from_weights_and_can_be_frozen():
    read = tower(weights="small/clip", frozen=True)
    assert read.frozen and not any(p.requires_grad for p in read.parameters()) and not read.train().training
    assert reproducible_prefixes(torch.nn.ModuleDict({"tower": read})) == ["tower."]  # checkpoints leave it out
    assert not tower().frozen and all(p.requires_grad for p in tower(weights="small/clip").parameters())
    with pytest.raises(WeightsError, match="small/clip does not fit.*give the sizes it was trained with"):
        SmallTower(Bert(size=TextSize(0, 32, 2, 4, 64, 40, 0.0)), 32, 128, 16, weights="small/clip")
    with pytest.raises(WeightsError, match="there are: .*small/clip"):
        tower(weights="small/clips")


def test_the_shipped_one_knows_shapes_colours_sizes_and_places():
    """Of a patch on the thing and one elsewhere, the first is more like the words, on pictures nobody trained on."""
    kinds = {"attributes": 0.4, "size": 0.2, "relation": 0.4}
    data = MovingShapes(stills=True, kinds=kinds, clip_length=1, expressions_per_video=4, val_clips=16, data_seed=7)
    network = PatchesAndWords(tower(weights="small/clip")).eval()
    right = total = 0
    with torch.no_grad():
        for part in data.val_dataloader():
            like = network(part.clip.floating(torch.float32)).mask_logits[:, 0].flatten(1)
            share = torch.nn.functional.adaptive_avg_pool2d(part.targets.masks[:, :1].float(), 8).flatten(1)
            for row, inside in zip(like, share, strict=True):
                pairs = row[inside > 0.9][:, None] > row[inside == 0]
                right, total = right + int(pairs.sum()), total + pairs.numel()
    assert total > 1000 and right / total > 0.97, right / total
