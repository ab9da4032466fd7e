#!/usr/bin/env bash
# torch.load does not compare the checksums that torch.save has written: one flipped bit in a file's middle becomes
# another number, without an error or a warning, with weights_only=True as well. Python's zipfile finds it.
# Where it bites: a checkpoint that was damaged on disk or on the way is trained on from, or evaluated, as if it were whole.
# Source: torch.serialization.set_crc32_options documents that torch.save computes checksums; nothing is said of loading,
# and nothing is compared.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
import zipfile

import torch

print("torch", torch.__version__)
path = f"{sys.argv[1]}/weights.pth"
torch.save({"a": torch.arange(5000.0)}, path)
data = bytearray(open(path, "rb").read())
data[len(data) // 2] ^= 4
open(path, "wb").write(data)
loaded = torch.load(path, weights_only=True)["a"]
wrong = (loaded != torch.arange(5000.0)).nonzero().flatten().tolist()
print("torch.load: no error; other numbers at", wrong, "->", loaded[wrong].tolist())
part = zipfile.ZipFile(path).testzip()
print("zipfile.testzip:", part)
assert len(wrong) == 1 and part is not None and part.endswith("data/0"), "changed"
PY
