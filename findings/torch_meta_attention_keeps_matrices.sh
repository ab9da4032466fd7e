#!/usr/bin/env bash
# On PyTorch's meta device scaled_dot_product_attention is taken apart: for the backward pass it saves the matrix of all
# queries times all keys, which the fused kernels of CPUs and GPUs never save. Memory that is counted on meta tensors before
# anything is booked is then many times too high for image encoders and memory banks at 1024 px (4096 tokens a frame).
# Where it bites: estimating activations of SAM, SAM 2 or a language model without a GPU. What does count as on a device is the
# fused operation asked for by name (aten::_scaled_dot_product_efficient_attention has a meta kernel and a gradient).
# Source: torch 2.15.0, aten/src/ATen/native/transformers/attention.cpp, _fused_sdp_choice_meta: math for all but CUDA.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from torch.nn import functional

print("torch", torch.__version__)
TOKENS, HEADS, WIDTH = 4096, 1, 64


def saved(device, attend):
    """MiB that autograd keeps for the backward pass, each storage once."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage
        return tensor

    parts = [torch.empty(1, HEADS, TOKENS, WIDTH, device=device).requires_grad_() for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attend(*parts)
    return sum(storage.nbytes() for storage in kept.values()) / 2**20


def by_name(query, key, value):
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]


sdpa = functional.scaled_dot_product_attention
cpu, meta, named = saved("cpu", sdpa), saved("meta", sdpa), saved("meta", by_name)
print(f"kept for the backward pass of {TOKENS} tokens, MiB: CPU {cpu:.1f}, meta {meta:.1f}, meta by name {named:.1f}")
matrix = HEADS * TOKENS**2 * 4 / 2**20
print(f"one matrix of {TOKENS} x {TOKENS}: {matrix:.0f}")
assert cpu < 5 and named < 5 and meta > matrix, "changed"
PY
