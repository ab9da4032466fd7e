#!/usr/bin/env bash
# timm's TinyViT (the image encoder of MobileSAM, TinySAM and SAM-I2V) in evaluation mode expands its attention biases once
# and keeps them: after load_state_dict it goes on with the biases of the weights before, every other weight being new,
# until train() is called. No error, no warning: a network that has looked at one picture answers wrongly after a checkpoint
# is loaded into it.
# Where it bites: several checkpoints scored one after another with one network; weights read after a first forward pass.
# Source: timm 1.0.31, timm/models/tiny_vit.py, class Attention: the cache is emptied by train(True) only (LeViT's alike).
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 timm==1.0.31 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import timm
import torch
from timm.models.tiny_vit import TinyVit

print("torch", torch.__version__, "timm", timm.__version__)
sizes = dict(num_classes=0, embed_dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))


def drawn(seed):
    torch.manual_seed(seed)
    net = TinyVit(**sizes)
    for name, parameter in net.named_parameters():
        if name.endswith("attention_biases"):
            torch.nn.init.normal_(parameter)
    return net.eval()


picture = torch.randn(1, 3, 224, 224)
with torch.no_grad():
    used, fresh, other = drawn(0), drawn(0), drawn(1)
    used(picture)  # looks at one picture before the weights come
    used.load_state_dict(other.state_dict())
    fresh.load_state_dict(other.state_dict())
    truth = other(picture)
    stale, right = (float((net(picture) - truth).abs().max()) for net in (used, fresh))
    again = float((used.train().eval()(picture) - truth).abs().max())
print("difference from the loaded network, never used before:", right)
print("the same, used once before loading:                   ", stale)
print("after train() and eval():                             ", again)
assert right == again == 0 and stale > 1e-3, "changed"
PY
