"""TinyViT's short ways against timm's own: padded windows, a bias without batch axis, normalisation apart."""

import copy
import pickle

import pytest
import torch
from timm.models.tiny_vit import Attention, ConvNorm, TinyVit, TinyVitBlock
from torch import nn

from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.segmenters.tiny_vit import RealCellsAttention, without_needless_work


def blocks(dim: int = 16, heads: int = 2, window: int = 5) -> tuple[TinyVitBlock, TinyVitBlock]:
    torch.manual_seed(0)
    slow = TinyVitBlock(dim, heads, window)
    for parameter in slow.parameters():
        nn.init.normal_(parameter, std=0.3)
    for norm in (module for module in slow.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    fast = copy.deepcopy(slow)
    without_needless_work(fast)
    return slow, fast


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(5, 5), (10, 5), (12, 10), (8, 11), (3, 4), (16, 2)])
def test_a_block_equals_timms_in_outputs_and_gradients(size: tuple[int, int], training: bool) -> None:
    slow, fast = (block.train(training) or block for block in blocks())
    x = torch.randn(2, *size, 16, requires_grad=True)
    ours, theirs = fast(x), slow(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(ours)
    got = torch.autograd.grad((ours * weight).sum(), [x, *fast.parameters()])
    expected = torch.autograd.grad((theirs * weight).sum(), [x, *slow.parameters()])
    for name, one, other in zip(["map", *dict(slow.named_parameters())], got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
    assert got[-1].abs().sum() > 0 and list(fast.state_dict()) == list(slow.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_the_trunk_equals_timms_at_sides_that_windows_do_not_fill(training: bool) -> None:
    """Running statistics, too, are gathered as before."""
    torch.manual_seed(0)
    slow = TinyVit(
        num_classes=0, embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4), drop_path_rate=0
    )
    for module in slow.modules():
        if isinstance(module, Attention):
            nn.init.normal_(module.attention_biases)
    fast = copy.deepcopy(slow)
    without_needless_work(fast)
    assert not any(type(module) in (Attention, TinyVitBlock, ConvNorm) for module in fast.modules())
    pictures = torch.randn(2, 3, 160, 96)
    for norm in (module for module in slow.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight), norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    fast.load_state_dict(slow.state_dict())
    with torch.set_grad_enabled(training):
        ours, theirs = fast.train(training)(pictures), slow.train(training)(pictures)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    for one, other in zip(fast.buffers(), slow.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_padding_is_one_key_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    attend = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, bias: seen.append((q.shape[-2], k.shape[-2], bias.ndim)) or attend(q, k, v, bias),
    )
    _, fast = blocks()
    with torch.no_grad():
        fast.eval()(torch.randn(1, 7, 8, 16))
    assert seen == [(25, 25, 4), (15, 16, 4), (10, 11, 4), (6, 7, 4)]


def test_the_encoder_takes_them_and_can_be_copied() -> None:
    encoder = Sam("small").encoder.eval()
    assert any(isinstance(module, RealCellsAttention) for module in encoder.modules())
    with torch.no_grad():
        encoder(torch.rand(1, 3, 64, 64))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(encoder.train())))  # `train` empties timm's cache of biases
    assert list(copied.state_dict()) == list(encoder.state_dict())
