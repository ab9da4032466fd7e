"""Loader speed and memory: our MeViS reader against a straightforward one of the kind official repositories use.

    python -m tests.benchmarks.bench_loader [--videos 6] [--frames 60] [--samples 60] [--workers 2] [--copies 8]

Data are made on the spot: 854x480 JPEG frames of about 100 kB (a real picture, moved), five annotations a video that
change shape, twelve expressions. Both loaders give the same uint8 frames and boolean masks of 8 frames a sample, which
is asserted; collation is left out, resizing has a line of its own. Timings are of one process and thread; the memory is
what a worker holds for itself alone (Private_Dirty) after reading samples, at a mask file of one and of `--copies`
times the size.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as library
from torchvision.transforms.v2 import functional

from rvos_lightning.data.clips.resizing import resize_frames, resize_masks
from rvos_lightning.data.readers.mevis import MeViSReader

LENGTH = 8
PICTURE = Path(__file__).parents[1] / "data" / "samples" / "judo" / "JPEGImages" / "480p" / "judo" / "00005.jpg"


class SlowMeViS:
    """The slow truth: every process parses all JSON, PIL decodes, and every mask of every frame is decoded."""

    def __init__(self, root: Path, split: str) -> None:
        folder = root / split
        videos = json.loads((folder / "meta_expressions.json").read_text())["videos"]
        self.masks = json.loads((folder / "mask_dict.json").read_text())
        self.frames = folder / "JPEGImages"
        self.metas = [
            {"video": video, "frames": sorted(entry["frames"]), **expression}
            for video, entry in videos.items()
            for expression in entry["expressions"].values()
        ]

    def sample(self, index: int, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        meta = self.metas[index]
        frames = []
        for position in positions:
            image = Image.open(self.frames / meta["video"] / f"{meta['frames'][position]}.jpg").convert("RGB")
            frames.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        height, width = frames[0].shape[1:]
        whole = np.zeros((len(meta["frames"]), height, width), np.uint8)
        for key in meta["anno_id"]:
            for position, rle in enumerate(self.masks[str(key)]):
                if rle is not None:
                    whole[position] += library.decode(rle)
        return torch.stack(frames), torch.from_numpy(whole[positions] > 0)


def fast_sample(reader: MeViSReader, index: int, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return reader.read_frames(reader.items[index].video, positions), reader.read_masks(index, positions)[0]


def make(root: Path, videos: int, frames: int, copies: int = 1) -> Path:
    """A split "train"; with `copies` the mask file also holds so many times its annotations, under other ids."""
    random = np.random.default_rng(0)
    picture = np.asarray(Image.open(PICTURE))
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    meta, masks = {}, {}
    for video in range(videos):
        folder = root / "train" / "JPEGImages" / f"v{video}"
        folder.mkdir(parents=True)
        for t in range(frames):
            moved = np.roll(picture, (3 * t + 40 * video, 5 * t), (0, 1))
            Image.fromarray(moved).save(folder / f"{t:05d}.jpg", quality=92)
        for label in range(5):
            y, x, ry, rx = random.uniform((100, 100, 40, 40), (380, 750, 120, 180))
            tracks = []
            for t in range(frames):
                angle = np.arctan2(rows - y, columns - x - 2 * t)
                wave = 1 + 0.2 * np.sin(9 * angle + 0.3 * t) + 0.05 * np.sin(41 * angle)
                inside = ((rows - y) / ry) ** 2 + ((columns - x - 2 * t) / rx) ** 2 < wave
                rle = library.encode(np.asfortranarray(inside.astype(np.uint8)))
                tracks.append({"size": rle["size"], "counts": rle["counts"].decode()} if t % 11 != 10 else None)
            masks[5 * video + label] = tracks
        expressions = {
            str(i): {"exp": f"thing {i}", "obj_id": [], "anno_id": [5 * video + (i + k) % 5 for k in range(1 + i % 3)]}
            for i in range(12)
        }
        meta[f"v{video}"] = {"expressions": expressions, "frames": [f"{t:05d}" for t in range(frames)]}
    more = {len(masks) * copy + key: track for copy in range(copies) for key, track in masks.items()}
    (root / "train" / "meta_expressions.json").write_text(json.dumps({"videos": meta}))
    (root / "train" / "mask_dict.json").write_text(json.dumps(more))
    return root


def plan(samples: int, items: int, frames: int) -> Iterator[tuple[int, list[int]]]:
    """The same items and positions for both loaders."""
    random = np.random.default_rng(1)
    for _ in range(samples):
        start = int(random.integers(0, frames - LENGTH + 1))
        yield int(random.integers(items)), list(range(start, start + LENGTH))


def assert_equal(slow: SlowMeViS, reader: MeViSReader, frames: int, samples: int) -> None:
    """Equal pixels and masks."""
    for index, positions in plan(samples, len(slow.metas), frames):
        for ours, theirs in zip(fast_sample(reader, index, positions), slow.sample(index, positions), strict=True):
            assert torch.equal(ours, theirs), (index, positions)


def rate(loader, samples: int, items: int, frames: int, repeats: int = 3) -> float:
    """Samples a second, the best of some repeats."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        for index, positions in plan(samples, items, frames):
            loader(index, positions)
        best = max(best, samples / (time.perf_counter() - start))
    return best


def shared_rate(reader: MeViSReader, samples: int, frames: int, share: int = 4, repeats: int = 3) -> float:
    """Samples a second when `share` expressions of a video are read with one set of frames, as a batch does."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        for index, positions in plan(samples // share, len(reader.items), frames):
            video = reader.items[index].video
            reader.read_frames(video, positions)
            first = 12 * video
            for item in range(first, first + share):
                reader.read_masks(item, positions)
        best = max(best, samples // share * share / (time.perf_counter() - start))
    return best


def resizing(repeats: int = 10) -> list[tuple[str, float, float]]:
    """Milliseconds to bring 8 frames and 8 masks of 854x480 to 1024x576: plane by plane, and as clips do; equal."""
    frames = torch.randint(0, 256, (LENGTH, 3, 480, 854), dtype=torch.uint8)
    masks = torch.rand(LENGTH, 480, 854) > 0.5
    written = frames.contiguous(memory_format=torch.channels_last)  # as decoders do
    size = (576, 1024)
    ways = {
        "frames": (lambda: functional.resize(frames, size), lambda: resize_frames(written, size)),
        "masks": (
            lambda: functional.resize(masks[:, None].to(torch.uint8) * 255, size)[:, 0] > 127,
            lambda: resize_masks(masks, size),
        ),
    }
    table = []
    for name, both in ways.items():
        assert torch.equal(both[0](), both[1]())
        times = []
        for way in both:
            start = time.process_time()
            for _ in range(repeats):
                way()
            times.append((time.process_time() - start) / repeats * 1e3)
        table.append((name, *times))
    return table


def private_mib() -> float:
    """What this process holds for itself alone."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty")) / 1024


def worker(kind: str, root: Path, samples: int, frames: int, reader, barrier, queue) -> None:
    """One loader worker: reads its samples, reports rate and memory."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    slow = SlowMeViS(root, "train") if kind == "slow" else None
    begun = time.perf_counter() - start
    load = slow.sample if slow else lambda i, p: fast_sample(reader, i, p)
    items = len(slow.metas) if slow else len(reader.items)
    barrier.wait()
    start = time.perf_counter()
    for index, positions in plan(samples, items, frames):
        load(index, positions)
    queue.put((samples / (time.perf_counter() - start), begun, private_mib()))


def in_workers(kind: str, root: Path, samples: int, frames: int, count: int) -> tuple[float, float, float]:
    """Samples a second and worker, seconds until a worker is ready, and MiB a worker, means over forked workers."""
    context = multiprocessing.get_context("fork")
    reader = MeViSReader(root, "train") if kind == "fast" else None
    queue, barrier = context.Queue(), context.Barrier(count)
    made = [
        context.Process(target=worker, args=(kind, root, samples, frames, reader, barrier, queue)) for _ in range(count)
    ]
    for process in made:
        process.start()
    results = [queue.get(timeout=600) for _ in made]
    for process in made:
        process.join()
    return tuple(float(value) for value in np.mean(results, axis=0))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("videos", 6), ("frames", 60), ("samples", 60), ("workers", 2), ("copies", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)
    folder = Path(tempfile.mkdtemp(prefix="bench_loader_"))
    try:
        roots = {copies: make(folder / str(copies), given.videos, given.frames, copies) for copies in (1, given.copies)}
        start = time.perf_counter()
        reader = MeViSReader(roots[1], "train")
        print(f"mask store built once in {time.perf_counter() - start:.2f} s")
        slow = SlowMeViS(roots[1], "train")
        assert_equal(slow, reader, given.frames, 20)
        print("pixels and masks equal on 20 samples")
        for name, slowly, quickly in resizing():
            print(f"8 {name} resized in {slowly:.1f} ms one plane at a time, {quickly:.1f} ms as clips do, equal")
        items = len(slow.metas)
        base = rate(slow.sample, given.samples, items, given.frames)
        ours = rate(lambda i, p: fast_sample(reader, i, p), given.samples, items, given.frames)
        shared = shared_rate(reader, given.samples, given.frames)
        print(f"one process: straightforward {base:.1f} samples/s, ours {ours:.1f} ({ours / base:.1f}x)")
        print(f"  4 expressions of a video on one clip: ours {shared:.1f} samples/s ({shared / base:.1f}x)")
        for root in roots.values():
            size = (root / "train" / "mask_dict.json").stat().st_size / 2**20
            for kind in ("slow", "fast"):
                speed, ready, memory = in_workers(kind, root, given.samples, given.frames, given.workers)
                name = "straightforward" if kind == "slow" else "ours"
                print(
                    f"mask_dict.json {size:6.1f} MiB, {given.workers} workers, {name:15s} {speed:6.1f} samples/s and "
                    f"worker, ready after {ready:5.2f} s, {memory:7.1f} MiB private"
                )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
