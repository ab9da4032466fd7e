#!/usr/bin/env bash
# peft's LoRA on the linear layers of torch's nn.TransformerEncoderLayer trains, but is not used in evaluation: the
# layer's fast path hands its weights to one fused operator and never calls the wrapped layers. No error, no warning;
# the tuned network answers exactly like the untuned one.
# Where it bites: a validation score that does not move while the training loss falls (DETR-like pixel decoders, text
# encoders built from torch's own layers).
# Source: torch.nn.TransformerEncoderLayer documents the fast path and its conditions (eval, no gradients needed);
# hooks and subclasses of its linear layers are not among them. peft 0.21 documents nothing of it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 peft==0.21.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import peft
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x)


print("torch", torch.__version__, "peft", peft.__version__)
torch.manual_seed(0)
config = peft.LoraConfig(r=4, target_modules=["linear1", "linear2"], init_lora_weights=False)
net, x = peft.get_peft_model(Net(), config), torch.randn(1, 5, 16)
trained = net.train()(x).detach()
with torch.no_grad():
    evaluated = net.eval()(x)
    with net.disable_adapter():
        untuned = net(x)
print("train() against eval():  ", float((trained - evaluated).abs().max()))
print("eval() against no LoRA:  ", float((evaluated - untuned).abs().max()))
assert (trained - evaluated).abs().max() > 0.1 and torch.equal(evaluated, untuned), "changed"
PY
