#!/usr/bin/env bash
# Pillow stretches 2- and 4-bit grey PNGs to 8 bits when it reads them: object numbers 1, 2, 3 become 85, 170, 255
# (2 bits) or 17, 34, 51 (4 bits). A palette PNG of the same bit depth keeps its numbers, so the same mask reads
# differently by how it was saved. pypng, which does not stretch, shows what the file holds.
# Where it bites: masks whose grey values are object numbers, as some annotation tools write them to save space; every
# object is then silently absent for code that looks for 1, 2, 3.
# Source: PIL/PngImagePlugin.py reads grey of 2 and 4 bits in mode "L" with the raw modes "L;2" and "L;4", which unpack to
# the whole range.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.0.0 numpy==2.2.6 pypng==0.20220715.0
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

import numpy as np
import PIL
import png
from PIL import Image

print("Pillow", PIL.__version__, "numpy", np.__version__, "pypng", png.__version__)
seen = {}
for bits in (1, 2, 4, 8):
    numbers = [[0, 1]] if bits == 1 else [[0, 1, 2, 3]]
    path = f"{sys.argv[1]}/grey{bits}.png"
    with open(path, "wb") as file:
        png.Writer(len(numbers[0]), 1, greyscale=True, bitdepth=bits).write(file, numbers)
    picture = Image.open(path)
    seen[bits] = (picture.mode, np.array(picture).astype(int)[0].tolist())
    print(f"grey, {bits} bits: holds {list(next(png.Reader(path).read()[2]))}, Pillow gives {seen[bits]}")
path = f"{sys.argv[1]}/palette2.png"
colours = [(0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)]
with open(path, "wb") as file:
    png.Writer(4, 1, palette=colours, bitdepth=2).write(file, [[0, 1, 2, 3]])
palette = np.array(Image.open(path))[0].tolist()
print(f"palette, 2 bits: Pillow gives {palette}")
assert seen[2] == ("L", [0, 85, 170, 255]), "changed: 2-bit grey"
assert seen[4] == ("L", [0, 17, 34, 51]), "changed: 4-bit grey"
assert seen[8] == ("L", [0, 1, 2, 3]) and palette == [0, 1, 2, 3], "changed: what was kept"
PY
