"""Memory of a prediction over a film's length: a curve and a number.

    python tests/benchmarks/bench_long_film.py --frames 10000 --picture docs/pictures/memory_10000_frames.png

Makes a film of so many small frames, predicts it by the command line, with masks, film and sheet, and samples the
resident memory of the process against the masks that are written. Flat means that a film's length costs no memory:
the number is how much more the last tenth holds than the second.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
MIB = 1024


def make_film(path: Path, frames: int, size: tuple[int, int] = (48, 64)) -> None:
    """Noise that drifts, so that no two frames are alike."""
    import av

    draw = np.random.default_rng(0)
    ground = draw.integers(0, 256, (size[0], size[1] * 4, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for number in range(frames):
            picture = np.roll(ground, number, axis=1)[:, : size[1]]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def resident(pid: int) -> int:
    """Resident memory in KiB; 0 where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def curve(film: Path, out: Path, every: float) -> list[tuple[int, int]]:
    """(masks written, KiB) from the first mask to the last."""
    words = [
        "predict", "-c", "configs/tiny.yaml", "--untrained", "--data", "VideoFiles", "--data.path", str(film),
        "--data.expressions", "the square", "--data.size", "64", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(out),
    ]  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-m", "rvos_lightning", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    masks, points = out / "predictions" / film.stem / "masks", []
    while process.poll() is None:
        done = sum(1 for _ in masks.iterdir()) if masks.is_dir() else 0
        if done:
            points.append((done, resident(process.pid)))
        time.sleep(every)
    if process.returncode:
        raise SystemExit(f"predict ended with {process.returncode}")
    return [point for point in points if point[1]]


def growth(points: list[tuple[int, int]]) -> float:
    """MiB by which the median of the last tenth of frames is above that of the second tenth."""
    most = points[-1][0]
    early = [kib for done, kib in points if 0.1 * most <= done < 0.2 * most]
    late = [kib for done, kib in points if done >= 0.9 * most]
    return float(np.median(late) - np.median(early)) / MIB


def draw(points: list[tuple[int, int]], path: Path) -> None:
    """The curve as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([done for done, _ in points], [kib / MIB for _, kib in points], linewidth=1.2)
    axis.set(xlabel="frames predicted", ylabel="resident memory, MiB", xlim=(0, None))
    axis.set_ylim(0, 1.3 * max(kib for _, kib in points) / MIB)
    title = f"predict, tiny, {points[-1][0]:,} frames: {growth(points):+.1f} MiB from the second tenth to the last"
    axis.set_title(title)
    axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Make, predict, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=0.5, help="seconds between samples")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "long.mp4"
        make_film(film, options.frames)
        begun = time.monotonic()
        points = curve(film, Path(folder) / "run", options.every)
        seconds = time.monotonic() - begun
    most = max(kib for _, kib in points) / MIB
    print(f"{options.frames} frames in {seconds:.0f} s: at most {most:.0f} MiB, growth {growth(points):+.1f} MiB")
    if options.picture is not None:
        draw(points, options.picture)
        print(options.picture)


if __name__ == "__main__":
    main()
