#!/usr/bin/env bash
# torchvision's video Swin takes a block class, and its block class takes an attention class, but an attention class that is
# given to the block (as the module itself does for its default) is dropped: every block is built with the default attention.
# No error, no warning: what was swapped in is never called.
# Where it bites: a faster or masked attention "plugged into" SwinTransformer3d seems to cost and to give exactly nothing.
# Source: torchvision 0.29.2, models/video/swin_transformer.py, SwinTransformer3d.__init__ passes attn_layer to block itself.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from functools import partial

import torchvision
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d


class Own(ShiftedWindowAttention3d):
    pass


print("torchvision", torchvision.__version__)
block = partial(SwinTransformerBlock, attn_layer=Own)
assert isinstance(block(16, 2, window_size=[2, 2, 2], shift_size=[0, 0, 0]).attn, Own)
net = SwinTransformer3d([2, 4, 4], 16, [1, 1], [2, 2], [2, 2, 2], block=block, num_classes=2)
built = [type(module.attn).__name__ for module in net.modules() if isinstance(module, SwinTransformerBlock)]
print("the block by itself:   ", Own.__name__)
print("blocks of the network: ", built)
assert built and "Own" not in built, "changed"
PY
