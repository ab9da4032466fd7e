"""SAM + CLIP: parameter counts, oracle, skipping, grouping, bad input, losses under their special cases."""

import pytest
import torch
from clip_sam_small import CLIP, batch, small

from callbacks.bridge import DecoderMasks, NoTarget, QueryMatching, instances
from rvos_lightning.core.types import Batch, Targets
from rvos_lightning.parts.point_matching import match
from rvos_lightning.systems.clip_sam.bridge import Sizes
from rvos_lightning.systems.clip_sam.report import rows, table
from rvos_lightning.systems.clip_sam.towers import ClipTower

SENTENCES = ["the red circle", "all blue squares on the left", "the thing"]


def test_parameter_integers():
    counts = {row.name: row.count for row in rows()}
    assert counts["CLIP ViT-L/14@336"] == 304_293_888
    assert counts["SAM ViT-B"] == 89_670_912
    assert counts["SAM decoder"] == 4_058_340
    assert counts["BERT"] == 108_891_648
    assert counts["DFAM"] == 6_899_970
    assert counts["DFAM, with no-target head"] == 6_966_276
    assert counts["PWAM"] == 787_968
    assert counts["CLIP pyramid, width 768"] == 16_557_184
    assert counts["CLIP pyramid, width 256"] == 2_067_584
    assert counts["pixel decoder, width 768"] == 7_414_208
    assert counts["pixel decoder, width 256"] == 6_627_776
    assert counts["SAM pyramid"] == 1_969_152
    assert counts["sparse token"] == 789_760
    assert counts["linear 768 to 256"] == 196_864
    assert counts["trained, released"] == 147_629_346
    assert "7.88 M" in table(rows()) and "0.788" in table(rows())


def test_every_trained_parameter_gets_a_gradient_and_no_other():
    for options in ({}, {"no_target": True}, {"sparse_source": "category_pred"}, {"language_feedback": True}):
        net = small(**options)
        net.train()
        data = batch(SENTENCES)
        losses = [DecoderMasks(canvas=0), QueryMatching(points=64), *([NoTarget()] if "no_target" in options else [])]
        terms = {}
        prediction = net(data.clip)
        for loss in losses:
            terms |= loss.terms(data, prediction)
        sum(terms.values()).backward()
        for name, parameter in net.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, (options, name)
            assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
        frozen = {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
        assert frozen == {"sam", "tower"}


def test_oracle_is_refused_allowed_and_needs_a_category_of_the_table():
    with pytest.raises(ValueError, match="allow_oracle"):
        small(sparse_source="category_gt")
    with pytest.raises(ValueError, match="allow_oracle"):
        small(preset="released")
    net = small(sparse_source="category_gt", allow_oracle=True).eval()
    assert net.oracle == "oracle category"
    with pytest.raises(ValueError, match="item '0' of 'v0' has no annotated category"):
        net(batch(SENTENCES).clip)
    with pytest.raises(ValueError, match="'unicorn' is not in the table of 134 names"):
        net(batch(SENTENCES, category="unicorn").clip)
    dogs, cats = (net(batch(SENTENCES, category=name).clip).mask_logits for name in ("dog", "cat"))
    assert not torch.equal(dogs, cats)


def test_clip_with_plain_gelu_is_refused():
    with pytest.raises(ValueError, match="QuickGELU"):
        ClipTower(size={**CLIP, "quick_gelu": False})
    assert ClipTower(size={**CLIP, "quick_gelu": False}, plain_gelu=True).grid == 4
    with pytest.raises(ValueError, match="no model 'ViT-nothing'"):
        ClipTower("ViT-nothing")


def test_clip_reads_sentences_by_their_end_and_the_released_defect_is_constant():
    tower = ClipTower(size=CLIP).eval()
    good, released = tower.read(SENTENCES), tower.read(SENTENCES, start_token=True)
    assert not torch.allclose(good[0], good[1], atol=1e-3)
    assert torch.equal(released[0], released[1])
    assert tower.read(["word " * 200]).shape == (1, 32)  # cut, end token kept


def test_no_sentences_is_an_error():
    net, data = small(), batch(SENTENCES)
    from dataclasses import replace

    with pytest.raises(ValueError, match="the clips have none"):
        net(replace(data.clip, expressions=None))


@pytest.mark.parametrize("preset", ["default", "released"])
def test_padding_changes_nothing_but_in_the_released_sparse_token(preset):
    net = small(preset=preset, sparse_source="cls").eval()
    alone = net(batch(SENTENCES[:1]).clip).mask_logits[0]
    beside = net(batch(["the red circle", "a very much longer sentence about something else"]).clip).mask_logits[0]
    assert torch.allclose(alone, beside, atol=1e-5)  # the released preset pads every sentence alike
    ids, real = net.tokens(SENTENCES[:1])
    assert ids.shape[1] == (35 if preset == "released" else int(real.sum()))


def test_long_sentences_are_cut_with_their_end_token():
    net = small(words=6)
    ids, real = net.tokens(["one two three four five six seven eight", "one"])
    assert ids.shape == (2, 6) and int(ids[0, -1]) == net.text.tokenizer.end and int(real[1].sum()) == 3


def test_queries_are_skipped_bit_equal():
    net = small(no_target=True).eval()
    data = batch(SENTENCES)
    asked = net(data.clip)
    net.answers = False
    skipped = net(data.clip)
    assert asked.outputs and not skipped.outputs and skipped.no_target_logits is None
    assert torch.equal(asked.mask_logits, skipped.mask_logits)
    assert asked.no_target_logits.shape == (3,)
    assert not small().eval()(data.clip).outputs


def test_sentences_of_one_image_together_equal_one_by_one():
    net = small(no_target=True).eval()
    together = net(batch(SENTENCES, videos=1).clip)
    for i, sentence in enumerate(SENTENCES):
        alone = net(batch([sentence], videos=1).clip)
        assert torch.allclose(together.mask_logits[i], alone.mask_logits[0], atol=1e-5)
        assert torch.allclose(together.no_target_logits[i], alone.no_target_logits[0], atol=1e-5)


def test_a_video_is_segmented_frame_by_frame():
    net = small(no_target=True).eval()
    film = batch(SENTENCES, videos=2, time=3)
    whole = net(film.clip)
    assert whole.mask_logits.shape[:2] == (3, 3) and whole.presence_logits.shape == (3, 3)
    for t in range(3):
        assert torch.allclose(whole.mask_logits[:, t], net(film.clip.window(t, t + 1)).mask_logits[:, 0], atol=1e-5)
    net.train()
    prediction = net(film.clip)
    assert len(prediction.outputs) == 4 and len(prediction.column) == 9
    assert all(bool(v.isfinite()) for v in QueryMatching(points=32).terms(film, prediction).values())


def test_the_bridge_prompts_sam2_and_its_memory():
    from rvos_lightning.parts.memories.sam2_memory import Sam2Memory
    from rvos_lightning.parts.segmenters.sam2 import Sam2
    from rvos_lightning.parts.text.bert import Bert
    from rvos_lightning.parts.text.roberta import TextSize
    from rvos_lightning.systems.clip_sam.network import ClipSam
    from rvos_lightning.systems.clip_sam.video import ClipSam2

    def build(fit="stretch", **options):
        torch.manual_seed(0)
        text, sizes = Bert(size=TextSize(0, 32, 2, 4, 64, 40, 0.0)), Sizes(8, pixel_layers=1, heads=4, hidden=64)
        sam = Sam2("narrow", image_size=64, frozen=False, fit=fit)
        return ClipSam2(sam, Sam2Memory(gate_masks=False), ClipTower(size=CLIP), text, sizes=sizes, **options)

    with pytest.raises(ValueError, match="set it to stretch"):
        build(fit="pad")
    with pytest.raises(ValueError, match="take the network clip_sam.video.ClipSam2"):
        ClipSam(Sam2("narrow", image_size=64), ClipTower(size=CLIP), Bert(size=TextSize(0, 32, 2, 4, 64, 40, 0.0)))
    film, net = batch(SENTENCES, videos=2, time=3), build(no_target=True)
    net.eval()
    whole = net(film.clip)
    assert whole.mask_logits.shape[:2] == (3, 3) and whole.covers == "frame" and whole.no_target_logits.shape == (3,)
    first = net(film.clip.window(0, 1))
    rest = net(film.clip.window(1, 3), first.state)  # memory goes from window to window
    assert torch.allclose(rest.mask_logits, whole.mask_logits[:, 1:], atol=1e-4)
    assert not torch.allclose(net(film.clip.window(1, 3)).mask_logits, whole.mask_logits[:, 1:], atol=1e-4)
    net.train()
    prediction = net(film.clip)
    terms = {**QueryMatching(points=32).terms(film, prediction), **NoTarget().terms(film, prediction)}
    (sum(terms.values()) + prediction.mask_logits.square().mean()).backward()
    silent = [name for name, p in net.bridge.named_parameters() if p.grad is None]
    assert not silent


def test_padding_of_a_batch_changes_no_mask():
    net, data = small().eval(), batch(SENTENCES)
    from dataclasses import replace

    padded = replace(data.clip, frames=torch.nn.functional.pad(data.clip.frames, (0, 40, 0, 24)))
    assert torch.allclose(net(padded).mask_logits, net(data.clip).mask_logits, atol=1e-5)


def test_masks_ignore_language_without_feedback_and_hear_it_with():
    for feedback in (False, True):
        net = small(language_feedback=feedback, no_target=True).eval()
        if feedback:
            torch.nn.init.ones_(net.bridge.queries.feedback)
        one, other = (net(batch([sentence], videos=1).clip).outputs[-1].masks for sentence in SENTENCES[:2])
        assert torch.equal(one, other) != feedback


def test_dense_and_deformable_encoders_and_fpn_differ():
    data = batch(SENTENCES)
    kinds = [Sizes(8, pixel_layers=1, heads=4, hidden=64, pixel_encoder=kind) for kind in ("deformable", "dense")]
    assert not torch.equal(*(small(sizes=sizes).eval()(data.clip).mask_logits for sizes in kinds))
    with pytest.raises(ValueError, match="at least 3"):
        small(sizes=Sizes(layers=2))


def test_matching_equals_brute_force():
    import itertools

    costs = torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(0))
    found = match(costs, [1, 2, 3])
    for row, count in enumerate((1, 2, 3)):
        best = min(
            itertools.permutations(range(5), count), key=lambda own: sum(costs[row, q, t] for t, q in enumerate(own))
        )
        own = found.row == row
        pairs = sorted(zip(found.target[own].tolist(), found.query[own].tolist(), strict=True))
        assert [q for _, q in pairs] == list(best)
    assert not len(match(costs, [0, 0, 0]).row)
    with pytest.raises(ValueError, match="not finite"):
        match(torch.full((1, 4, 2), float("nan")), [2])


def test_samples_without_target_never_dilute():
    net = small(no_target=True).train()
    data = batch(SENTENCES[:2])
    prediction = net(data.clip)
    one = DecoderMasks(canvas=0).terms(data, prediction)
    masks = data.targets.masks.clone()
    masks[1] = False
    empty = Batch(data.clip, Targets(masks, data.targets.annotated))
    alone = DecoderMasks(canvas=0).terms(Batch(data.clip, Targets(masks, torch.tensor([[True], [False]]))), prediction)
    with_empty = DecoderMasks(canvas=0).terms(empty, prediction)
    diluted = DecoderMasks(canvas=0, dilute=True).terms(empty, prediction)
    assert torch.equal(with_empty["mask_dice"], alone["mask_dice"])
    assert torch.allclose(diluted["mask_dice"] * 2, alone["mask_dice"])
    assert float(one["mask_dice"].detach()) > 0
    nothing = Batch(data.clip, Targets(torch.zeros_like(masks), data.targets.annotated))
    terms = {**DecoderMasks(canvas=0).terms(nothing, prediction), **QueryMatching(points=32).terms(nothing, prediction)}
    assert float(terms["mask_bce"]) == float(terms["query_mask"]) == 0 and float(terms["query_class"]) > 0
    sum(terms.values()).backward()


def test_single_objects_and_unions():
    data = batch(SENTENCES[:2])
    union = instances(data.targets, data.clip.meta)
    assert union.counts == [1, 1]
    single = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    for i in range(3):
        single[i, 0, 10 * i : 10 * i + 5, :9] = True
    targets = Targets(
        data.targets.masks, data.targets.annotated, instances=single, instance_item=torch.tensor([1, 0, 1])
    )
    split = instances(targets, data.clip.meta)
    assert split.counts == [1, 2] and split.start.tolist() == [0, 1]
    assert torch.equal(split.masks[0, 0].bool(), single[1, 0])


def test_paraphrases_of_one_target_are_no_negatives():
    from dataclasses import replace

    data = batch(["the dog", "the brown dog", "the cat"], videos=1)
    same = [replace(m, objects=(7,) if i < 2 else (8,)) for i, m in enumerate(data.clip.meta)]
    clip = replace(data.clip, meta=same)
    prediction = small().train()(clip)
    ignored = QueryMatching(points=32)._ignored(Batch(clip, data.targets), 3)
    assert ignored.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    terms = QueryMatching(points=32).terms(Batch(clip, data.targets), prediction)
    torch.autograd.grad(terms["query_class"], prediction.outputs[-1].clip_logits)
