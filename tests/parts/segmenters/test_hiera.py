"""Windows on real cells against sam2's own padded ones: outputs and gradients, whatever the map's sides."""

from copy import deepcopy

import pytest
import torch
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock

from rvos_lightning.parts.segmenters.hiera import RealCellsBlock, on_real_cells


def trunks():
    torch.manual_seed(0)
    slow = Hiera(
        embed_dim=8, num_heads=1, stages=(1, 2, 3, 2), global_att_blocks=(4,), window_spec=(8, 4, 14, 7),
        window_pos_embed_bkg_spatial_size=(7, 7),
    )  # fmt: skip
    for parameter in slow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return slow, on_real_cells(deepcopy(slow))


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (320, 256)])
def test_outputs_and_gradients_equal_padded_windows(size):
    slow, fast = trunks()
    pictures = torch.randn(2, 3, *size)
    ours, theirs = fast(pictures), slow(pictures)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    for outputs in (ours, theirs):
        sum(output.square().mean() for output in outputs).backward()
    theirs = dict(slow.named_parameters())
    assert theirs.keys() == dict(fast.named_parameters()).keys()
    for name, parameter in fast.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-4, msg=name)


def test_padding_is_skipped_where_there_is_some(monkeypatch):
    """The library's own way is only taken where windows are full, or pooling would mix a cell with padding."""
    _, fast = trunks()
    taken = []
    monkeypatch.setattr(MultiScaleBlock, "forward", lambda self, x: taken.append(x.shape[1]) or x)
    wide = [block for block in fast.blocks if block.window_size == 14]
    plain, pooled = (next(b for b in wide if bool(b.q_stride) is pools) for pools in (False, True))
    for block in (plain, pooled):
        assert isinstance(block, RealCellsBlock)
        block(torch.randn(1, 16, 16, block.dim))
        assert taken == []
    plain(torch.randn(1, 28, 14, plain.dim))
    pooled(torch.randn(1, 15, 16, pooled.dim))
    assert taken == [28, 15]
