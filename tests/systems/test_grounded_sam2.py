"""The detector-and-tracker baselines, with a tiny random detector."""

import pytest
import torch
from samwise_small import clip, segmenter
from torchvision.ops import box_iou, masks_to_boxes

from rvos_lightning.parts.text.tokenizers import WordTokenizer
from rvos_lightning.systems.grounded_sam2.detector import GroundingDino
from rvos_lightning.systems.grounded_sam2.network import GroundedSam2

CONFIG = {
    "backbone_config": {
        "model_type": "swin",
        "image_size": 64,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_size": 4,
        "out_indices": [2, 3, 4],
    },
    "text_config": {
        "model_type": "bert",
        "vocab_size": 1100,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    },
    "num_queries": 5,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 32,
}


def build(frames):
    torch.manual_seed(0)
    detector = GroundingDino(None, WordTokenizer([], buckets=500), CONFIG, short_side=64, long_side=96)
    return GroundedSam2(segmenter(frozen=True), detector, frames).eval()


def test_detector_gives_one_box_inside_each_frame():
    boxes = build("all").detector(torch.rand(3, 3, 40, 60), ["a dog", "the red car on the left", "it."])
    assert boxes.shape == (3, 4) and boxes.min() >= 0
    assert (boxes[:, 0::2] <= 60).all() and (boxes[:, 1::2] <= 40).all() and (boxes[:, :2] <= boxes[:, 2:]).all()


@pytest.mark.parametrize("frames", ["first", "all"])
def test_windows_equal_the_whole(frames):
    net = build(frames)
    whole = clip(2, 4, ["the red one", "a dog", "it"], video=[1, 0, 1], size=(48, 64))
    asked = []
    ask = net.detector.forward
    net.detector.forward = lambda images, words: asked.append(len(images)) or ask(images, words)
    first = net(whole.window(0, 3))
    second = net(whole.window(3, 4), first.state)
    assert sum(asked) == (3 if frames == "first" else 12)
    assert first.mask_logits.shape == (3, 3, 48, 64)
    parts = torch.cat([first.mask_logits, second.mask_logits], 1)
    torch.testing.assert_close(parts, net(whole).mask_logits, atol=1e-4, rtol=1e-4)


def test_box_tokens_are_the_packages():
    sam = segmenter()
    box = torch.tensor([[3.0, 5.0, 30.0, 41.0]])
    tokens = sam.box_tokens(box, (64, 64))
    expected = sam.sam_prompt_encoder(points=None, boxes=box, masks=None)[0]
    torch.testing.assert_close(tokens, expected)
    sam.fit = "stretch"
    torch.testing.assert_close(sam.box_tokens(box / 2, (32, 32)), tokens)


def test_a_small_detector_finds_what_looks_tell():
    """Boxes of shipped weights on stills that nobody trained on; where nothing is under the click, the patch."""
    from rvos_lightning.data import MovingShapes
    from rvos_lightning.foundations.patch_detector import PatchDetector
    from rvos_lightning.parts.segmenters.sam import Sam
    from rvos_lightning.parts.text.bert import Bert
    from rvos_lightning.parts.text.roberta import TextSize
    from rvos_lightning.systems.clip_sam.towers import SmallTower

    tower = SmallTower(Bert(size=TextSize(0, 96, 2, 4, 192, 40, 0.0)), 96, 128, 16, weights="small/clip")
    detector = PatchDetector(tower, Sam("small", image_size=64, occlusion=True, weights="small/sam"))
    data = MovingShapes(stills=True, kinds={"attributes": 1.0}, size=64, clip_length=1, val_clips=16, data_seed=7)
    overlaps, past = [], torch.tensor([0, 0, 1, 1])  # torchvision's boxes end on the last pixel
    for part in data.val_dataloader():
        clip = part.clip.floating(torch.float32)
        found = detector(clip.frames[clip.video, 0], clip.expressions)
        overlaps.append(box_iou(found, masks_to_boxes(part.targets.masks[:, 0]) + past).diagonal())
    overlaps = torch.cat(overlaps)
    assert len(overlaps) > 30 and (overlaps > 0.5).float().mean() > 0.8, overlaps
    for parameter in detector.segmenter.parameters():
        parameter.zero_()
    alone = detector(torch.zeros(1, 3, 64, 64), ["the red circle"])
    assert (alone[:, 2:] - alone[:, :2] == 8).all()
