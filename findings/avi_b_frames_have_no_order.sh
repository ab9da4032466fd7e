#!/usr/bin/env bash
# H.264 with B-frames in an .avi file: the container holds no presentation times, so PyAV's decoded frames come in the
# right order while their `pts` do not rise (the first of a group jumps ahead of those shown before it). The same film in
# .mp4 has rising times. Numbering frames by sorting `pts` shows some pictures twice and others never.
# Where it bites: video data sets kept as .avi (surveillance, older cameras, older OpenCV writers).
# Source: observed with the version below.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==16.0.1 numpy==2.2.6
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

import av
import numpy as np

print("PyAV", av.__version__)


def film(suffix):
    path = f"{sys.argv[1]}/film{suffix}"
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"bf": "3", "b_strategy": "0", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(12):
            grey = np.full((64, 64, 3), 20 + 16 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    shown = [round((float(f.to_ndarray(format="rgb24").mean()) - 20) / 16) for f in frames]
    return shown, [f.pts for f in frames]


avi, mp4 = film(".avi"), film(".mp4")
print("avi: pictures", avi[0], "pts", avi[1])
print("mp4: pictures", mp4[0], "pts", mp4[1])
assert avi[0] == mp4[0] == list(range(12)), "changed: decoding order"
assert mp4[1] == sorted(mp4[1]) and avi[1] != sorted(p for p in avi[1] if p is not None), "changed: times"
PY
