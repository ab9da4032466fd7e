"""The bounded bank equals one that never forgets, read by the rules of SAM 2."""

import pytest
import torch

from rvos_lightning.core.types import Clip, ClipMeta, Features, Prompt
from rvos_lightning.parts.memories.sam2_memory import Sam2Memory
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.segmenters.sam2_build import Sam2Size
from rvos_lightning.systems.tiny.segmenter import TinySegmenter

SIZE = Sam2Size(
    embed_dim=8, stages=(1, 1, 1, 1), global_blocks=(), windows=(4, 4, 4, 2), hidden=16, memory_width=8,
    memory_layers=1, memory_mlp=16, decoder_mlp=16, decoder_heads=2, dropout=0.0, fuser_scale=0.1,
)  # fmt: skip
FRAMES = 19


def scene():
    torch.manual_seed(0)
    sam = Sam2(size=SIZE, image_size=32, frozen=False).eval()
    with torch.no_grad():
        for parameter in sam.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        sam.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(1.0)
    shapes = ((2, 8, 8), (4, 4, 4), (16, 2, 2))
    features = Features(tuple(torch.randn(2, FRAMES, *shape) for shape in shapes))
    meta = [ClipMeta(str(i), "0", ("0",) * FRAMES, (32, 32), (32, 32)) for i in range(2)]
    clip = Clip(torch.zeros(2, FRAMES, 3, 32, 32), torch.arange(2), ["a", "b"], meta)
    return sam, features, Prompt(torch.randn(2, FRAMES, 1, 16)), clip


def part(features, prompt, start, stop):
    return Features(tuple(level[:, start:stop] for level in features.pyramid)), Prompt(prompt.tokens[:, start:stop])


@torch.no_grad()
@pytest.mark.parametrize("conditioning", [0, 2])
def test_bounded_bank_equals_a_full_one(conditioning):
    sam, features, prompt, clip = scene()
    prediction = Sam2Memory(conditioning)(features, prompt, sam, None, clip)
    memories, pointers, masks = {}, {}, []
    for n in range(FRAMES):
        fine, middle, raw = (level[:, n] for level in features.pyramid)
        if n < max(1, conditioning):
            pixels = sam.no_memory(raw)
        else:
            recent = [t for t in range(n - 6, n) if t >= conditioning]
            last = [t for t in range(n - 1, n - 16, -1) if t >= conditioning]
            kept = list(range(conditioning))
            pixels = sam.attend(
                raw,
                [memories[t] for t in kept + recent],
                [6] * len(kept) + [n - t - 1 for t in recent],
                [pointers[t] for t in kept + last],
                [n - t for t in kept + last],
            )
        decoded = sam.decode((fine, middle, pixels), prompt.tokens[:, n])
        present = decoded.presence_logits[:, None, None] > 0
        full = sam.upscale(torch.where(present, decoded.mask_logits, torch.full_like(decoded.mask_logits, -1024.0)))
        memories[n], pointers[n] = sam.remember(raw, full, decoded.presence_logits), sam.pointer(decoded)
        masks.append(full)
    torch.testing.assert_close(prediction.mask_logits, torch.stack(masks, 1))
    assert len(prediction.state.memories) <= 6 and len(prediction.state.pointers) <= 15


@torch.no_grad()
@pytest.mark.parametrize("conditioning", [0, 2])
def test_windows_equal_the_whole(conditioning):
    sam, features, prompt, clip = scene()
    memory = Sam2Memory(conditioning)
    whole, state, masks = memory(features, prompt, sam, None, clip).mask_logits, None, []
    for start, stop in ((0, 1), (1, 8), (8, 9), (9, FRAMES)):
        prediction = memory(*part(features, prompt, start, stop), sam, state, clip.window(start, stop))
        state = prediction.state
        masks.append(prediction.mask_logits)
    torch.testing.assert_close(torch.cat(masks, 1), whole)


def test_training_reaches_back_in_time_only_with_memory():
    for with_memory in (True, False):
        sam, features, prompt, clip = scene()
        features.pyramid[2].requires_grad_()
        prediction = Sam2Memory(memory_in_training=with_memory).train()(features, prompt, sam, None, clip)
        prediction.mask_logits[:, 3].sum().backward()
        assert bool(features.pyramid[2].grad[:, 0].any()) is with_memory


@torch.no_grad()
def test_absent_objects_are_emptied_in_evaluation_only():
    sam, features, prompt, clip = scene()
    sam.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(-99.0)
    assert Sam2Memory().eval()(features, prompt, sam, None, clip).mask_logits.max() == -1024
    assert Sam2Memory(gate_masks=False).eval()(features, prompt, sam, None, clip).mask_logits.max() > -100
    assert Sam2Memory().train()(features, prompt, sam, None, clip).mask_logits.max() > -100


def test_other_segmenters_are_refused():
    with pytest.raises(ValueError, match="Sam2Memory needs a VideoSegmenter, which TinySegmenter is not"):
        Sam2Memory().fit_to(TinySegmenter())
