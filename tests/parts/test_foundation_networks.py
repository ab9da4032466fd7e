"""The networks that foundations are parts of: what they classify, what they hide, and how they are scored."""

from dataclasses import replace

import pytest
import torch

from callbacks.foundations import AttributeClasses, HiddenWords
from rvos_lightning.core.network import PromptedSegmenter
from rvos_lightning.core.types import Batch, Clip, ClipMeta, SegmentedWindow, Targets, User, UserPrompt
from rvos_lightning.data.clips.simulated_user import first_click, tight_box
from rvos_lightning.data.shapes.moving_shapes import MovingShapes
from rvos_lightning.foundations.attributes import (
    AttributeAccuracy,
    AttributePixels,
    AttributePrediction,
    TrunkTaps,
    classes_of,
    log_odds,
)
from rvos_lightning.foundations.motion import AdapterTaps
from rvos_lightning.foundations.pointing import PointedMemory
from rvos_lightning.foundations.words import MaskedWords, WordAccuracy
from rvos_lightning.parts.adapters.image_features import ImageFeatures
from rvos_lightning.parts.prompters.user import UserPrompter
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.text.roberta import Roberta, TextSize
from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter
from rvos_lightning.systems.sgmg.video_swin import SwinSize, SwinStart, VideoSwin

KINDS = {"shape": ["circle", "square"], "direction": ["left", "right"]}
SIZE = SwinSize(width=4, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=(2, 2, 2), patch=2)


def network():
    torch.manual_seed(0)
    return AttributePixels(VideoSwin(size=SIZE), KINDS)


def clip(expressions, videos=2, time=2, side=32):
    meta = [ClipMeta(f"{n}", f"{n}", ("0", "1"), (side, side), (side, side)) for n in range(len(expressions))]
    video = torch.arange(len(expressions)) % videos
    return Clip(torch.rand(videos, time, 3, side, side), video, list(expressions), meta)


def test_a_names_mask_is_where_it_is_likelier_than_all_else_of_its_kind():
    net, asked = network(), clip(["left", "square"])
    said = net(asked)
    assert said.mask_logits.shape == (2, 2, 16, 16)
    mean = {
        kind: sum(
            torch.nn.functional.interpolate(tap[kind].flatten(0, 1), (16, 16), mode="bilinear").unflatten(0, (2, 2))
            for tap in said.taps[1:]
        ) / 3
        for kind in KINDS
    }  # fmt: skip
    torch.testing.assert_close(said.mask_logits[0], mean["direction"].softmax(2).logit()[0, :, 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(said.mask_logits[1], mean["shape"].softmax(2).logit()[1, :, 2], atol=1e-4, rtol=1e-4)
    assert log_odds(torch.tensor([[[[[50.0]], [[-50.0]]]]])).isfinite().all()
    with pytest.raises(ValueError, match="'up' is no name of an attribute.*known: circle, square, left, right"):
        net(clip(["up"]))
    with pytest.raises(ValueError, match="each name belongs to one kind"):
        AttributePixels(VideoSwin(size=SIZE), {"a": ["x"], "b": ["x"]})


def window(clip, said, targets=None):
    return SegmentedWindow(said.mask_logits > 0, targets, clip.meta, clip, said)


def known(expressions):
    """Two videos of two frames of 2 x 2 pixels, the upper row is what the expression says."""
    masks = torch.zeros(len(expressions), 2, 2, 2, dtype=torch.bool)
    masks[:, :, 0] = True
    return Batch(clip(expressions, side=2), Targets(masks, torch.ones(len(expressions), 2, dtype=torch.bool)))


def prediction(batch, right):
    """Sure of the upper row's classes where `right`, of the other name elsewhere, and of none in the lower row."""
    truth = classes_of(batch.clip, batch.targets.masks, KINDS)
    logits = {}
    for kind, classes in truth.items():
        shown = classes if right else torch.where(classes > 0, 3 - classes, classes)
        logits[kind] = 20.0 * torch.nn.functional.one_hot(shown, 3).permute(0, 1, 4, 2, 3).float()
    return AttributePrediction(torch.zeros(len(batch.clip), 2, 2, 2), kinds=KINDS, taps=[logits] * 3)


def test_pixels_without_a_name_are_class_0_and_the_loss_and_score_follow_the_truth():
    batch = known(["left", "square", "circle"])  # items of videos 0, 1, 0
    truth = classes_of(batch.clip, batch.targets.masks, KINDS)
    assert truth["direction"][0, 0].tolist() == [[1, 1], [0, 0]] and not truth["direction"][1].any()
    assert truth["shape"][0, 1].tolist() == [[1, 1], [0, 0]] and truth["shape"][1, 0].tolist() == [[2, 2], [0, 0]]
    for right in (True, False):
        said = prediction(batch, right)
        terms = AttributeClasses({"direction": 2.0}).terms(batch, said)
        assert set(terms) == {"shape", "direction"}
        wrong = 20.0 * (not right)  # of things' pixels; the ground's are right in both
        assert float(terms["shape"]) == pytest.approx(wrong, abs=1e-3)
        assert float(terms["direction"]) == pytest.approx(2 * wrong, abs=1e-3)
        metric = AttributeAccuracy()
        metric.update(window(batch.clip, said, batch.targets))
        assert {k: float(v) for k, v in metric.compute().items()} == dict.fromkeys(
            ("accuracy", "accuracy/shape", "accuracy/direction"), float(right)
        )
    ground = torch.zeros(2, 2, 3, 2, 2)
    ground[:, :, 0] = 20.0
    said = AttributePrediction(torch.zeros(3, 2, 2, 2), kinds=KINDS, taps=[dict.fromkeys(KINDS, ground)] * 3)
    assert float(AttributeClasses().terms(batch, said)["shape"]) == pytest.approx(20.0, abs=1e-3)
    assert float(AttributeClasses(every=2).terms(batch, said)["shape"]) < 1e-3  # looks at the lower row alone
    with pytest.raises(ValueError, match="no kind 'size'; there are shape, direction"):
        AttributeClasses({"size": 1.0}).terms(batch, prediction(batch, True))


def test_every_tap_learns_from_a_real_batch():
    data = MovingShapes(labels=True, size=34, clip_length=2, items_per_video=13, batch_size=2)
    batch = next(iter(data.train_dataloader()))
    batch = Batch(batch.clip.floating(torch.float32), batch.targets)
    net = AttributePixels(
        VideoSwin(size=SIZE),
        {"shape": ["circle", "square", "triangle"], "colour": ["red", "green", "blue", "yellow"],
         "size": ["small", "big"], "direction": ["left", "right", "up", "down"]},
    )  # fmt: skip
    sum(AttributeClasses().terms(batch, net(batch.clip)).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.heads.parameters())


TRUNKS = {"small": (16, 8, 8, 8), "small_edge_sam": (32, 16, 8, 4), "small_sam_b": (8, 8), "sam2": (32, 16, 8, 4)}


@pytest.mark.parametrize(("kind", "sides"), TRUNKS.items())
def test_a_trunk_is_a_backbone_and_learns_alone(kind, sides):
    sam = Sam2("narrow", image_size=64, trainable=["image_encoder.trunk"]) if kind == "sam2" else Sam(kind)
    net = AttributePixels(TrunkTaps(sam), KINDS)
    said = net(clip(["left", "square"], side=64))
    assert [tuple(tap["shape"].shape[-2:]) for tap in said.taps] == [(side, side) for side in sides]
    assert said.mask_logits.shape == (2, 2, sides[0], sides[0])
    said.mask_logits.square().mean().backward()
    trunk = (sam.image_encoder if kind == "sam2" else sam.encoder).trunk
    assert all(p.grad is not None for name, p in trunk.named_parameters() if not name.startswith("neck."))
    assert next(trunk.parameters()).grad.any()  # what the first layer learns comes through all others
    assert all(p.grad is None for name, p in sam.named_parameters() if "trunk" not in name or "neck" in name)
    with pytest.raises(ValueError, match="give data.size 64"):
        net(clip(["left"]))


def test_selective_attention_alone_learns_directions_on_adapters():
    text = Roberta(weights="small/roberta", pooler=True)
    adapter = CMTAdapter(
        text,
        text_layers=(1, 2, 3, 4),
        dim=64,
        heads=8,
        patches=(2, 1, 1),
        dropout=0.0,
        weights="small/samwise_adapters",
    )
    net = AttributePixels(AdapterTaps(Sam2("narrow", image_size=64, weights="small/sam2"), adapter), KINDS).train()
    said = net(clip(["left"], side=64))
    assert [tuple(tap["direction"].shape[-2:]) for tap in said.taps] == [(16, 16), (8, 8), (4, 4)]
    said.mask_logits.square().mean().backward()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained and all(".selective." in name or name.startswith("heads.") for name in trained)
    assert not adapter.adapters["1"].down.training  # its running statistics stay


class Pointing(User):
    """Says what it was told, once."""

    def __init__(self, *prompts):
        self.prompts = prompts

    def first_prompt(self, item):
        return self.prompts[item]

    def correct(self, item, frame, mask):
        return None


@pytest.fixture(scope="module")
def small_sam2():
    sam = Sam2("narrow", image_size=64, weights="small/sam2")
    return PromptedSegmenter(sam, ImageFeatures(), UserPrompter(), PointedMemory()).eval()


def pointed(frames, *prompts):
    """A clip of the frames for every prompt, all one video."""
    asked = clip(["thing"] * len(prompts), videos=1, time=len(frames), side=64)
    return replace(asked, frames=frames[None].float() / 255, expressions=None, user=Pointing(*prompts))


@torch.no_grad()
def test_what_a_click_a_box_and_a_mask_point_at_is_tracked(small_sam2):
    reader = MovingShapes(size=64, clip_length=6).reader("val")
    scores = []
    for item in range(0, 16, 2):
        truth, frames = reader.read_masks(item, range(6))[0], reader.read_frames(item // 2, range(6))
        left, top, right, bottom = tight_box(truth[0])
        corners = torch.tensor([[left, top], [right, bottom]]) / 64
        asked = pointed(
            frames,
            [UserPrompt(0, torch.tensor([first_click(truth[0])]) / 64, torch.tensor([1]))],
            [UserPrompt(0, corners, torch.tensor([2, 3]))],
            [UserPrompt(0, mask=truth[0])],
        )
        masks = small_sam2(asked).mask_logits > 0
        scores.append((masks & truth).sum((1, 2, 3)) / (masks | truth).sum((1, 2, 3)))
    click, box, mask = torch.stack(scores).mean(0).tolist()
    assert min(click, box, mask) > 0.8, (click, box, mask)


@torch.no_grad()
def test_an_image_sam_finds_what_a_click_and_a_box_point_at():
    sam = Sam("small", weights="small/sam").eval()
    reader = MovingShapes(size=64).reader("val")
    scores = []
    for item in range(0, 32, 2):
        truth, frame = reader.read_masks(item, [0])[0][0], reader.read_frames(item // 2, [0])
        left, top, right, bottom = tight_box(truth)
        click, corners = torch.tensor([[first_click(truth)]]), torch.tensor([[[left, top], [right, bottom]]])
        features = sam.encode(frame.float() / 255)
        for points, labels in ((click, torch.tensor([[1]])), (corners, torch.tensor([[2, 3]]))):
            logits = sam.decode(features, sam.embed_points(points.float(), labels)).mask_logits
            mask = torch.nn.functional.interpolate(logits[None], (64, 64), mode="bilinear")[0, 0] > 0
            scores.append((mask & truth).sum() / (mask | truth).sum())
    click, box = torch.stack(scores).view(-1, 2).mean(0).tolist()
    assert min(click, box) > 0.8, (click, box)


def test_a_prompt_on_a_later_frame_is_refused(small_sam2):
    late = [UserPrompt(1, torch.tensor([[0.3, 0.5]]), torch.tensor([1]))]
    with pytest.raises(ValueError, match="something is pointed at on frame 1"):
        small_sam2(pointed(torch.zeros(2, 3, 64, 64), late))


def test_a_wider_spread_is_drawn_for_what_it_names_alone():
    torch.manual_seed(0)
    net = VideoSwin(size=SwinSize(32, (1, 1, 1, 1), (1, 1, 1, 1), (3, 3, 3), 2), start=SwinStart(1.0, 1.5))
    table = net.features[0][0].attn.relative_position_bias_table
    assert 1.2 < float(table.detach().std()) < 1.8
    assert float(net.features[4][0].mlp[0].weight.detach().std()) == pytest.approx(128**-0.5, rel=0.1)
    published = VideoSwin(size=SIZE).features[0][0].attn.relative_position_bias_table
    assert float(published.detach().std()) < 0.05


@pytest.fixture
def words():
    torch.manual_seed(0)
    return MaskedWords(Roberta(size=TextSize(0, 16, 1, 1, 16, 30, 0.0), frozen=False, pooler=True), share=0.3)


SENTENCES = ["the red circle moving left", "all stars", "segment the small blue box that stands still"]


def test_hidden_words_are_among_the_sentences_words_and_the_same_in_every_evaluation(words):
    words.eval()
    ids, real = words.text.tokenize(SENTENCES)
    hidden, shown = words.hide(SENTENCES, ids, real)
    again, _ = words.hide(SENTENCES, ids, real)
    assert torch.equal(hidden, again) and hidden.any(1).all()  # one in a sentence at least
    special = (ids == words.text.tokenizer.end) | (ids == words.text.tokenizer.pad)
    special[:, 0] = True
    assert not (hidden & special).any() and torch.equal(shown[~hidden], ids[~hidden])
    words.train()
    many = SENTENCES * 200
    ids, real = words.text.tokenize(many)
    hidden, shown = words.hide(many, ids, real)
    assert 0.25 < float(hidden.sum() / (real.sum() - 2 * len(many))) < 0.4
    assert 0.7 < float((shown[hidden] == words.unknown).float().mean()) < 0.9


def test_words_are_learned_and_scored(words):
    optimizer = torch.optim.Adam(words.parameters(), 2e-2)
    given = clip(SENTENCES, videos=1)
    for _ in range(150):
        optimizer.zero_grad()
        sum(HiddenWords().terms(Batch(given), words.train()(given)).values()).backward()
        optimizer.step()
    metric = WordAccuracy()
    said = words.eval()(given)
    metric.update(window(given, said))
    scores = metric.compute()
    assert float(scores["held"]) > 0.9
    assert float(scores["words"]) == float((said.word_logits.argmax(1) == said.words).float().mean())
    assert not (said.mask_logits > 0).any()
