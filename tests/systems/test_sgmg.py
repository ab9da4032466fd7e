"""SgMg's own behaviour: fast paths against the slow truth, matching, variants, bad input."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from callbacks.matching import SetMatching, truth_of
from rvos_lightning.core.types import Batch, Candidates, Clip, ClipMeta, Targets
from rvos_lightning.parts.losses import generalised_iou
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.parts.weights import WeightsError, load_official, save
from rvos_lightning.systems.sgmg import official
from rvos_lightning.systems.sgmg.kernels import PatchKernels
from rvos_lightning.systems.sgmg.network import SgMg
from rvos_lightning.systems.sgmg.refiner import Refiner
from rvos_lightning.systems.sgmg.sampling import BagAttention
from rvos_lightning.systems.sgmg.spectral import SpectralBlock, gaussians, window_means
from rvos_lightning.systems.sgmg.video_swin import SIZES, SwinSize, VideoSwin, from_kinetics
from rvos_lightning.systems.sgmg.windows import WindowAttention

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
SMALL = SwinSize(width=16, depths=(1, 1, 1, 1), heads=(1, 2, 2, 2), window=(4, 3, 3), patch=2, drop_path=0.0)


def sgmg(**options) -> SgMg:
    """A tiny network with every part."""
    torch.manual_seed(0)
    text = Roberta(size=TextSize(0, 16, 1, 2, 32, 30, 0.0), frozen=False, pooler=True)
    sizes = {"dim": 32, "heads": 2, "hidden": 32, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.0}
    return SgMg(VideoSwin(size=SMALL), text, **{**sizes, "train_multiple": 16, **options})


def clip(texts, videos=1, time=3, size=(80, 88), video=None, seed=0) -> Clip:
    """Random frames and some sentences about them."""
    frames = torch.rand(videos, time, 3, *size, generator=torch.Generator().manual_seed(seed))
    names = tuple(str(i) for i in range(time))
    video = torch.tensor(video if video is not None else [0] * len(texts))
    return Clip(frames, video, texts, [ClipMeta(f"v{v}", str(i), names, size, size) for i, v in enumerate(video)])


def batch(texts, **options) -> Batch:
    """The same with a moving square as truth."""
    made = clip(texts, **options)
    masks = torch.zeros(len(made), made.time, *made.frames.shape[-2:], dtype=torch.bool)
    for item in range(len(made)):
        for frame in range(made.time):
            masks[item, frame, 20 + 5 * frame : 50 + 5 * frame, 10 + 9 * item : 40 + 9 * item] = True
    return Batch(made, Targets(masks, torch.ones(masks.shape[:2], dtype=torch.bool)))


@torch.no_grad()
@pytest.mark.parametrize("size", [(3, 3), (6, 8), (7, 5), (12, 9)])
def test_half_a_spectrum_equals_the_whole(size):
    """The definition, with the whole complex spectrum and a real 3 x 3 convolution."""
    torch.manual_seed(1)
    block = SpectralBlock(8)
    x = torch.randn(3, 8, *size)
    soft = gaussians([(13, 10), size], 2.0)[1]  # resized, so not symmetric
    a = block.gate(block.local(x).mean((2, 3)))
    spectrum = torch.fft.fft2(x) * (1 - a[:, :, None, None] * soft)
    mixed = block.mix_out(torch.relu(block.mix_in(torch.cat([spectrum.real, spectrum.imag], 1))))
    slow = x + torch.fft.ifft2(torch.complex(*mixed.chunk(2, 1))).real
    torch.testing.assert_close(block(x, soft), slow, **CLOSE)
    means = F.unfold(x, 3).mean(-1).view(3, 8, 9)
    torch.testing.assert_close(window_means(x), means, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("conditional", [True, False])
def test_kernels_equal_two_layers_cell_by_cell(conditional):
    torch.manual_seed(1)
    kernels = PatchKernels(6, stride=8, patch=4, inner=5, conditional_patches=conditional)
    features, states = torch.randn(2, 6, 3, 4), torch.randn(3, 2, 2, 6)
    centres = torch.rand(3, 2, 2, 2) * 30
    parameters = kernels.kernels(states)
    slow = torch.zeros(3, 2, 2, kernels.outer, 3, 4)
    for k, n, i, y, x in torch.cartesian_prod(*map(torch.arange, (3, 2, 2, 3, 4))).tolist():
        w1, w2, b1, b2 = parameters[k, n, i].split(kernels.splits)
        seen = torch.cat([features[n, :, y, x], centres[k, n, i] - torch.tensor([8.0 * x + 4, 8.0 * y + 4])])
        slow[k, n, i, :, y, x] = w2.view(-1, 5) @ torch.relu(w1.view(5, 8) @ seen + b1) + b2
    if not conditional:
        stretched = F.interpolate(slow.flatten(0, 2), scale_factor=4, mode="bilinear")
        slow = F.pixel_unshuffle(stretched, 4).view(3, 2, 2, 16, 3, 4)
    torch.testing.assert_close(kernels(features, states, centres), slow, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bags_equal_sampled_maps(dtype):
    """transformers' own routine, with places far outside and on cells' borders, and all gradients."""
    torch.manual_seed(1)
    sizes = [(7, 5), (3, 4), (1, 2)]
    value = torch.randn(2, sum(h * w for h, w in sizes), 2, 8, dtype=dtype)
    places = torch.rand(2, 11, 2, 3, 4, 2, dtype=dtype) * 2 - 0.5
    places[0, 0] = (torch.arange(48, dtype=dtype).view(2, 3, 4, 2) + 8) / 64  # exact in both routines
    attention = torch.rand(2, 11, 2, 3, 4, dtype=dtype)
    asked, found = torch.randn(2, 11, 16, dtype=dtype), []
    for routine in (BagAttention(), MultiScaleDeformableAttention()):
        inputs = [x.clone().requires_grad_() for x in (value, places, attention)]
        out = routine(inputs[0], torch.tensor(sizes), sizes, None, *inputs[1:], 64)
        out.backward(asked)
        found.append([out.detach(), *(x.grad for x in inputs)])
    edge = (places[0, 0, ..., 0] * torch.tensor([5, 4, 2])[:, None] - 0.5) % 1 == 0
    assert edge.any(), "a place on a cell's centre has two slopes, of which both take the right one"
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@torch.no_grad()
def test_places_that_are_no_numbers_give_none():
    value, sizes = torch.randn(1, 6, 2, 4), [(2, 3)]
    places = torch.rand(1, 3, 2, 1, 4, 2)
    places[0, 1, 0, 0, 2, 1] = float("nan")
    out = BagAttention()(value, torch.tensor(sizes), sizes, None, places, torch.rand(1, 3, 2, 1, 4), 64)
    assert out.isnan().any(-1).tolist() == [[False, True, False]]


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, 1, 1), (0, 2, 2)], ids=str)
@pytest.mark.parametrize("size", [(3, 8, 11), (5, 3, 4), (4, 6, 3), (9, 7, 2)], ids=str)
def test_windows_equal_those_of_torchvision(size, shift):
    """Padded, rolled and clipped windows: results, and gradients of the map and of all parameters."""
    torch.manual_seed(1)
    ours = WindowAttention(8, [4, 3, 3], list(shift), 2)
    theirs = ShiftedWindowAttention3d(8, [4, 3, 3], list(shift), 2)
    nn.init.normal_(ours.relative_position_bias_table)
    theirs.load_state_dict(ours.state_dict())
    x, found = torch.randn(2, *size, 8), []
    asked = torch.randn_like(x)
    for attention in (ours, theirs):
        seen = x.clone().requires_grad_()
        out = attention(seen)
        out.backward(asked)
        found.append([out.detach(), seen.grad, *(p.grad for p in attention.parameters())])
    assert len(found[0]) == 7 and isinstance(VideoSwin(size=SMALL).features[0][0].attn, WindowAttention)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), found[1][0], **CLOSE)


@torch.no_grad()
def test_refiner_equals_convolutions_of_mask_and_features_together():
    torch.manual_seed(1)
    refiner = Refiner((6, 12))
    masks, fine, coarse = torch.randn(2, 16, 4, 5), torch.randn(2, 6, 8, 10), torch.randn(2, 12, 4, 5)
    slow = masks + refiner.coarse_out(torch.relu(refiner.coarse_in(torch.relu(torch.cat([masks, coarse], 1)))))
    slow = F.interpolate(slow, size=(8, 10), mode="bilinear")
    slow = slow + refiner.fine_out(torch.relu(refiner.fine_in(torch.relu(torch.cat([slow, fine], 1)))))
    torch.testing.assert_close(refiner(masks, refiner.see(fine, coarse)), slow, **CLOSE)


@torch.no_grad()
def test_sentences_that_share_a_video_equal_sentences_alone():
    net = sgmg().eval()
    texts = ["the red one", "a circle that moves left", "it"]
    whole = clip(texts, videos=2, video=[1, 0, 1])
    seen = []
    net.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    together = net(whole)
    assert seen == [2], "each video goes through the backbone once"
    for item, text in enumerate(texts):
        video = int(whole.video[item])
        alone = clip([text])
        alone = replace(alone, frames=whole.frames[video : video + 1])
        found = net(alone)
        torch.testing.assert_close(together.mask_logits[item : item + 1], found.mask_logits, **CLOSE)
        assert int(together.chosen[-1, item]) == int(found.chosen[-1, 0])


@torch.no_grad()
def test_padding_of_a_batch_changes_nothing():
    net = sgmg().eval()
    small = clip(["the red one"], size=(80, 80))
    padded = replace(small, frames=F.pad(small.frames, (0, 8)))
    expected = F.pad(small.frames, (0, 16))
    masks = net(padded).mask_logits
    alone = net(replace(small, frames=expected)).mask_logits
    torch.testing.assert_close(masks[..., :80], alone[..., :80], **CLOSE)
    assert masks.shape[-2:] == (80, 88)


@pytest.mark.parametrize(
    "options",
    [{}, {"fusion": "spatial"}, {"fusion": "linear"}, {"fusion": "none"}, {"conditional_patches": False},
     {"refine": False}, {"activation_checkpointing": True}],
    ids=str,
)  # fmt: skip
def test_every_variant_trains_all_its_parameters(options):
    net, rule, made = sgmg(**options).train(), SetMatching(), batch(["a b", "c"])
    prediction = net(made.clip, choose=rule.bound(made))
    terms = rule.terms(made, prediction)
    assert len(terms) == 14 and prediction.mask_logits.shape == (2, 3, 80, 88)
    torch.stack(list(terms.values())).sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert all("pooler" not in name for name in idle) and not idle, idle


def test_only_matched_queries_are_refined():
    net, rule, made = sgmg(), SetMatching(), batch(["a b", "c"])
    rows = []
    net.refiner.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    prediction = net(made.clip, choose=rule.bound(made))
    assert rows == [2 * 2 * 3], "layers x items x frames, not x queries"
    assert prediction.candidates.mask_logits.shape[:4] == (2, 2, 3, 5)


def test_cheapest_query_is_what_the_hungarian_algorithm_finds():
    made, candidates = batch(["a", "b", "c"]), random_candidates(3)
    rule = SetMatching()
    costs = rule.costs(candidates, truth_of(made, candidates))
    total = sum(rule.weights[name] * cost for name, cost in costs.items())
    chosen = rule.choose(made, candidates)
    for layer, item in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        rows, _ = linear_sum_assignment(total[layer, item][:, None].numpy())
        assert int(chosen[layer, item]) == rows[0]


def random_candidates(items: int) -> Candidates:
    random = torch.Generator().manual_seed(3)
    return Candidates(
        torch.randn(2, items, 3, 5, generator=random),
        torch.rand(2, items, 3, 5, 4, generator=random) / 2,
        torch.randn(2, items, 3, 5, 40, 44, generator=random),
    )


def test_frames_without_truth_take_no_part():
    """Dropping them from the batch gives the same match and losses."""
    rule, made, candidates = SetMatching(), batch(["a", "b"]), random_candidates(2)
    known = made.targets.annotated.clone()
    known[:, 1] = False
    partly = Batch(made.clip, Targets(made.targets.masks, known))
    kept = [0, 2]
    fewer = Candidates(*(x[:, :, kept] for x in (candidates.logits, candidates.boxes, candidates.mask_logits)))
    only = Batch(made.clip, Targets(made.targets.masks[:, kept], known[:, kept]))
    for name, cost in rule.costs(candidates, truth_of(partly, candidates)).items():
        torch.testing.assert_close(cost, rule.costs(fewer, truth_of(only, fewer))[name], **CLOSE)


def test_absent_objects_give_finite_losses_and_gradients():
    net, rule, made = sgmg(), SetMatching(), batch(["a b", "c"])
    masks = made.targets.masks.clone()
    masks[0] = False
    masks[1, 1] = False
    made = Batch(made.clip, Targets(masks, made.targets.annotated))
    terms = rule.terms(made, net(made.clip, choose=rule.bound(made)))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.isfinite() and all(p.grad.isfinite().all() for p in net.parameters())


@torch.no_grad()
def test_proposals_and_middle_frame():
    net = sgmg(proposals=True, frames="middle").eval()
    answer = net(clip(["a", "b c"]))
    assert answer.proposal_logits.shape == (2, 3, 5, 80, 88) and answer.scores.shape == (2, 3, 5)
    best = answer.proposal_logits[torch.arange(2), 1, answer.chosen[-1]]
    torch.testing.assert_close(answer.mask_logits[:, 1], best)
    assert bool((answer.mask_logits[:, [0, 2]] < -50).all())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sgmg()(clip(["a"], size=(48, 48))), "too small.*at least 80"),
        (lambda: sgmg(longest=2)(clip(["a"])), "3 frames.*longest is 2.*model.window"),
        (lambda: VideoSwin(size=replace(SMALL, heads=(3, 2, 2, 2))), "stage 0 has 16 channels"),
        (lambda: VideoSwin(size=replace(SMALL, window=(0, 3, 3))), "window"),
        (lambda: VideoSwin(size=replace(SMALL, depths=(1, 1))), "4 stages"),
        (
            lambda: generalised_iou(torch.tensor([[5.0, 0, 1, 1]]), torch.rand(1, 4).cumsum(-1)),
            "first boxes out of order",
        ),
    ],
)
def test_bad_input_is_one_clear_error(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def kinetics(size: SwinSize) -> dict[str, torch.Tensor]:
    """A checkpoint as the Video Swin repository writes it, with patches of two frames."""
    ours = {f"backbone.{key}": value for key, value in VideoSwin(size=size).state_dict().items()}
    state = {k.replace("backbone.0.body.", "backbone."): v for k, v in official.to_official(ours)[0].items()}
    assert len(state) == len(ours)
    kernel = state["backbone.patch_embed.proj.weight"]
    state["backbone.patch_embed.proj.weight"] = torch.cat([kernel * 0.2, kernel * 0.7], 2)
    return {**state, "backbone.norm.weight": torch.ones(4), "cls_head.fc_cls.weight": torch.ones(4, 4)}


def test_kinetics_weights_come_by_path_with_the_kernel_summed_over_time(tmp_path):
    torch.manual_seed(2)
    state = kinetics(SMALL)
    torch.save({"state_dict": state}, tmp_path / "swin.pth")
    swin = VideoSwin(size=SMALL, weights=tmp_path / "swin.pth")
    kernel = state["backbone.patch_embed.proj.weight"].sum(2, keepdim=True)
    torch.testing.assert_close(swin.patch_embed.proj.weight, kernel)
    torch.testing.assert_close(swin.features[3].reduction.weight, state["backbone.downsamples.1.reduction.weight"])
    with pytest.raises(WeightsError, match="shapes that differ"):
        from_kinetics(state, VideoSwin(size=replace(SMALL, width=32)).state_dict())
    with pytest.raises(WeightsError, match="no Video Swin"):
        from_kinetics({"x": torch.ones(1)}, swin.state_dict())


def test_every_key_of_the_released_file_is_accounted_for(tmp_path):
    import json
    from pathlib import Path

    listed = json.loads((Path(__file__).parents[1] / "golden" / "state_dicts" / "sgmg.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in listed}
    net = official.network_for(state)
    names, unknown = official.to_official(net.state_dict())
    assert set(names) == set(state) and len(state) == 699 and not unknown
    assert all(tuple(names[key].shape) == tuple(shape) for key, shape, _ in listed)
    assert official.describe(state) == "Video-Swin-T, RoBERTa of 12 layers"


def test_files_of_others_are_refused(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no SgMg checkpoint"):
        official.import_official(tmp_path / "a.pth", tmp_path / "b.safetensors")


def test_sizes_of_all_variants():
    from rvos_lightning.systems.sgmg.report import rows, table

    by_name = {row.name: row for row in rows()}
    for name, row in by_name.items():
        if row.beside.replace(",", "").isdecimal():
            assert row.count == int(row.beside.replace(",", "")), name
    whole = by_name["multiply-adds a frame, all"].count
    assert whole < 54e9 and "61.4 G" in table(list(by_name.values()))
    assert set(SIZES) == {"t", "s", "b"}


def test_class_heads_start_anew_in_fit_alone(tmp_path, run):
    """The named option: `model.anew` keeps other weights, and spares evaluation."""
    net = sgmg()
    nn.init.constant_(net.scores[0].weight, 7.0)
    nn.init.constant_(net.transformer.query_embed.weight, 3.0)
    save(net.state_dict(), tmp_path / "w.safetensors")
    assert load_official(tmp_path / "w.safetensors")["scores.0.weight"].eq(7).all()
    from rvos_lightning.core.module import RVOSModule

    module = RVOSModule(sgmg(), weights=tmp_path / "w.safetensors", anew=[r"scores\..*"])
    assert module.network.scores[0].weight.eq(7).all()
    module.start_anew()
    assert not module.network.scores[0].weight.eq(7).any()
    assert module.network.transformer.query_embed.weight.eq(3).all()
    with pytest.raises(WeightsError, match="model.anew"):
        RVOSModule(sgmg(), anew=["nothing"])
