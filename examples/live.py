"""Masks of a camera or a film while it runs, with the time each frame took.

python examples/live.py runs/samwise/fit/0 x.mp4 'the brown horse'
python examples/live.py runs/samwise/fit/0 /dev/video0 'the brown horse'        (a camera under Linux)
"""

import argparse
import time
from collections.abc import Iterator
from itertools import islice

import av
import numpy as np

import rvos_lightning


def pictures(source: str) -> Iterator[np.ndarray]:
    """RGB frames, uint8 [height, width, 3], as they come."""
    with av.open(source, format="v4l2" if source.startswith("/dev/") else None) as opened:
        for frame in opened.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def main() -> None:
    """Print a line a frame, and at the end what most frames took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", help="a run's folder, a pulled name, or a recipe")
    parser.add_argument("source", help="a film, or a camera's device")
    parser.add_argument("sentence", nargs="+")
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model = rvos_lightning.load(options.system, device=options.device)
    stream = model.stream(islice(pictures(options.source), options.frames), options.sentence)
    took, since = [], time.perf_counter()
    for window in stream:  # one frame each: the answer comes before the next is read
        now = time.perf_counter()
        took.append(1000 * (now - since))
        shares = "  ".join(f"{mask.mean():6.1%}" for mask in window.masks)
        print(f"frame {window.positions[0]:5d}   {took[-1]:6.1f} ms   covered {shares}", flush=True)
        since = time.perf_counter()
    half, most = np.percentile(took, [50, 95])
    print(f"latency per frame: median {half:.1f} ms, 95 % within {most:.1f} ms")


if __name__ == "__main__":
    main()
