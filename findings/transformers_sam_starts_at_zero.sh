#!/usr/bin/env bash
# transformers builds SAM's image encoder from a configuration with weights drawn at a deviation of 1e-10 (BERT's or ViT's:
# 0.02), so that a new encoder gives the same embedding, nearly zero, for every picture, and its first layer has next to no
# gradient. SamConfig's own initializer_range, 0.02, does not reach it. No error, no warning; loaded checkpoints hide it.
# Where it bites: a small SAM made from SamVisionConfig and trained from nothing, a changed part of a loaded one.
# Source: transformers 5.23.0, models/sam/configuration_sam.py, SamVisionConfig: initializer_range defaults to 1e-10.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.23.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
import transformers
from transformers import SamConfig, SamModel, SamVisionConfig

print("torch", torch.__version__, "transformers", transformers.__version__)
sizes = dict(hidden_size=96, mlp_dim=384, num_hidden_layers=4, num_attention_heads=3, global_attn_indexes=[1], image_size=64)


def learns(vision, whole=None):
    torch.manual_seed(0)
    encoder = SamModel(SamConfig(vision_config=vision, **(whole or {}))).vision_encoder
    first, second = (encoder(torch.randn(1, 3, 64, 64)).last_hidden_state for _ in range(2))
    (first - torch.randn_like(first)).square().mean().backward()
    gradient = encoder.patch_embed.projection.weight.grad.norm()
    return float((first - second).abs().max()), float(gradient)


plain = learns(SamVisionConfig(**sizes))
outer = learns(SamVisionConfig(**sizes), {"initializer_range": 0.02})
inner = learns(SamVisionConfig(**sizes, initializer_range=0.02))
rows = [("SamVisionConfig()", plain), ("SamConfig(initializer_range=0.02)", outer)]
for name, found in [*rows, ("SamVisionConfig(initializer_range=0.02)", inner)]:
    print(f"{name:42} two pictures' embeddings differ by {found[0]:.1e}; gradient of the first layer {found[1]:.1e}")
assert plain[0] < 1e-6 and plain[1] < 1e-9 and plain == outer and inner[0] > 0.1 and inner[1] > 1e-6, "changed"
PY
