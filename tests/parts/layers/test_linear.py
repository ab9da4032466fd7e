"""Linear layers and 1 x 1 convolutions by oneDNN against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from rvos_lightning.parts.layers import linear as layers
from rvos_lightning.parts.layers.linear import LEAST, linear, pointwise, through_onednn, worthwhile

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def assert_same(fast, slow, values):
    """Results and the gradients of all values."""
    ours, theirs = ([x.clone().requires_grad_() for x in values] for _ in range(2))
    out, expected = fast(*ours), slow(*theirs)
    torch.testing.assert_close(out, expected, **CLOSE)
    asked = torch.randn_like(expected)
    out.backward(asked)
    expected.backward(asked)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 331, 32), (1, 1000, 32), (7, 3, 33, 32), (5, 32), (0, 32)], ids=str)
def test_results_and_gradients_are_those_of_a_linear_layer(shape, bias):
    torch.manual_seed(0)
    values = [torch.randn(shape), torch.randn(24, 32), torch.randn(24)][: 3 if bias else 2]
    assert_same(linear, F.linear, values)


@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_convolutions_of_maps(bias):
    """Of a complex map's real part, too, which is no array of its own."""
    torch.manual_seed(0)
    values = [torch.randn(3, 32, 17, 19, dtype=torch.complex64), torch.randn(24, 32, 1, 1), torch.randn(24)]
    values = values[: 3 if bias else 2]
    assert_same(lambda x, *rest: pointwise(x.real, *rest), lambda x, *rest: F.conv2d(x.real, *rest), values)


def test_rows_in_any_order_in_memory():
    x, weight = torch.randn(40, 32, 50).transpose(1, 2), torch.randn(8, 32)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
def test_frozen_weights_keep_no_input(bias, monkeypatch):
    """Whatever is faster on this CPU."""
    monkeypatch.setattr(layers, "worthwhile", lambda x, weight: True)
    torch.manual_seed(0)
    weight, shift = torch.randn(24, 32), torch.randn(24) if bias else None
    assert_same(lambda x: linear(x, weight, shift), lambda x: F.linear(x, weight, shift), [torch.randn(7, 33, 32)])

    def kept():
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: found.append(x.numel()) or x, lambda x: x):
            out = linear(torch.randn(7, 33, 32, requires_grad=True), weight, shift)
        out += 1  # not refused as a view that a function of its own made
        return max(found)

    assert kept() == weight.numel()
    weight.requires_grad_()
    assert kept() == 7 * 33 * 32


def test_large_products_reach_onednn_with_one_thread():
    x, weight = torch.randn(LEAST // 32 + 1, 32), torch.randn(24, 32)
    if not worthwhile(x, weight):
        pytest.skip("no AVX-512 here")
    assert not worthwhile(x[:-1], weight) and not worthwhile(x.double(), weight.double())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            linear(x, weight)
    finally:
        torch.set_num_threads(threads)
    assert "aten::mkldnn_convolution" in {event.key for event in seen.key_averages()}


def test_under_autocast_a_linear_layer_stays_one():
    x, weight = torch.randn(1000, 32), torch.randn(24, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_layers_of_a_network_keep_names_and_values():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8, bias=False))
    x, before = torch.randn(1000, 32), list(network.state_dict())
    expected = network(x)
    through_onednn(network)
    assert list(network.state_dict()) == before and isinstance(network[0], nn.Linear)
    torch.testing.assert_close(network(x), expected, **CLOSE)
