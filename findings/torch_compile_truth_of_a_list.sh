#!/usr/bin/env bash
# torch.compile: a network that is given sentences and hands them, unread, to an uncompiled tokenizer compiles once. If its
# compiled part asks `if not sentences` before, or hands on `list(sentences)`, the graph holds for these very sentences: Dynamo
# guards the strings, not whether there are any. Every other sentence compiles anew until the limit (8), then nothing is
# compiled any more. `len(sentences) == 0` guards the length alone.
# Where it bites: text-conditioned networks with the usual check for missing text: the benchmark, which repeats one sentence, is
# fast; training, where no two batches have the same, compiles for minutes and then runs uncompiled, with one warning in the log.
# Source: torch 2.15.0, guards as printed by the error of torch.compiler.set_stance("fail_on_recompile").
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cat > "$folder/seen.py" <<'PY'
import logging

import torch
from torch import nn

logging.disable(logging.WARNING)


@torch.compiler.disable
def tokens(sentences):
    return torch.tensor([float(len(sentence)) for sentence in sentences])


class HandsOn(nn.Module):
    def forward(self, x, sentences):
        return (x + 1) * tokens(sentences)


class AsksForLength(nn.Module):
    def forward(self, x, sentences):
        if len(sentences) == 0:
            raise ValueError("no sentences")
        return (x + 1) * tokens(sentences)


class AsksForTruth(nn.Module):
    def forward(self, x, sentences):
        if not sentences:
            raise ValueError("no sentences")
        return (x + 1) * tokens(sentences)


class HandsOnACopy(nn.Module):
    def forward(self, x, sentences):
        return (x + 1) * tokens(list(sentences))


print("torch", torch.__version__)
made = {}
for network in (HandsOn, AsksForLength, AsksForTruth, HandsOnACopy):
    torch.compiler.reset()
    graphs = 0

    def count(graph, inputs):
        global graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(network(), backend=count)
    answers = [compiled(torch.zeros(2), [f"the red circle {n}", f"{n} cats"]) for n in range(10, 30)]
    assert all(torch.equal(answer, torch.tensor([17.0, 7.0])) for answer in answers)
    made[network.__name__] = graphs
    print(f"{network.__name__:14} 20 calls, each with other sentences: {graphs} graphs")
assert made["HandsOn"] == made["AsksForLength"] <= 2, "changed"
assert made["AsksForTruth"] >= 8 and made["HandsOnACopy"] >= 8, "changed"
PY
"$folder/venv/bin/python" -W ignore "$folder/seen.py"
