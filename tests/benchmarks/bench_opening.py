"""Opening a data set of MeViS v2's size, and reading its frames from a folder, a zip and a tar.

    python -m tests.benchmarks.bench_opening [--videos 1662] [--sentences 27502] [--workers 2] [--repeat 5]

Opening: the training split in its layout, with tiny pictures in a tar; once cold (mask store and tar index are
made), then warm, each in a process of its own. Memory is what the process holds for itself alone (Private_Dirty)
above the imports. Workers are forked, read samples, and say by how much they have grown.
Reading: 854x480 JPEG frames of about 100 kB, the same samples in turn from each place, best of the repeats, in files
that the system has cached. Bytes and pixels are compared between the places before anything is timed.
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import bench_loader
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as library

from rvos_lightning.data.readers.mevis import MeViSReader
from rvos_lightning.data.sources.file_tree import FileTree, open_tree

WORDS = "the large elephant walking behind two others and then turning left away from the camera".split()
LIMITS = {"seconds": 2.0, "private_mib": 150.0, "tar_to_folder": 0.9}
"""What is promised of a warm opening, and of a tar."""


def make(root: Path, videos: int, sentences: int) -> Path:
    """A split "train" as MeViS v2 comes: six sentences in a hundred mean nothing."""
    random = np.random.default_rng(0)
    folder = root / "train"
    folder.mkdir(parents=True)
    masks = [_box(shift) for shift in range(100)]
    picture = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture, "JPEG")
    meta: dict[str, dict] = {}
    count = 0
    with (folder / "mask_dict.json").open("w") as file, tarfile.open(folder / "JPEGImages.tar", "w") as archive:
        for video in range(videos):
            name, length, objects = f"{video:012x}", int(random.integers(30, 131)), int(random.integers(2, 7))
            for key in range(count, count + objects):
                track = [None if random.random() < 0.1 else masks[(key + t) % len(masks)] for t in range(length)]
                file.write(f'{", " if key else "{"}"{key}": {json.dumps(track)}')
            said = {}
            for number in range(sentences // videos + (video < sentences % videos)):
                meant = random.choice(objects, random.integers(1, 3), replace=False) if random.random() > 0.06 else []
                known = {"obj_id": [int(n) for n in meant], "anno_id": [count + int(n) for n in meant]}
                said[str(number)] = {"exp": " ".join(random.choice(WORDS, 8)), **known}
            count += objects
            meta[name] = {"expressions": said, "frames": [f"{t:05d}" for t in range(length)]}
            for frame in meta[name]["frames"]:
                info = tarfile.TarInfo(f"JPEGImages/{name}/{frame}.jpg")
                info.size = len(picture.getvalue())
                archive.addfile(info, io.BytesIO(picture.getvalue()))
        file.write("}")
    (folder / "meta_expressions_v2.json").write_text(json.dumps({"videos": meta}))
    return root


def _box(shift: int) -> dict:
    mask = np.zeros((16, 16), np.uint8)
    mask[shift % 8 : 9 + shift % 6, shift % 5 : 7 + shift % 9] = 1
    coded = library.encode(np.asfortranarray(mask))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def assert_sound(root: Path) -> None:
    """What the reader holds is what the files say, each parsed whole."""
    reader = MeViSReader(root, "train")
    videos = json.loads((root / "train" / "meta_expressions_v2.json").read_text())["videos"]
    assert [(video.id, list(video.frames)) for video in reader.videos] == [(k, v["frames"]) for k, v in videos.items()]
    told = [(each["exp"], each["anno_id"]) for video in videos.values() for each in video["expressions"].values()]
    assert [(item.expression, list(item.objects)) for item in reader.items] == told
    masks = json.loads((root / "train" / "mask_dict.json").read_text())
    for index in range(0, len(told), max(1, len(told) // 20)):
        length = len(reader.videos[reader.items[index].video].frames)
        tracks = [masks[str(key)] for key in told[index][1]]
        found = reader.read_masks(index, range(length))[0].numpy()
        for t in range(length):
            planes = [library.decode(track[t]) for track in tracks if track[t] is not None]
            assert (found[t] == (np.any(planes, axis=0) if planes else False)).all()


def opened(root: Path, queue: multiprocessing.Queue) -> None:
    """Opens in this process; reports seconds and MiB."""
    before, start = bench_loader.private_mib(), time.perf_counter()
    reader = MeViSReader(root, "train")
    took = time.perf_counter() - start
    queue.put((took, bench_loader.private_mib() - before, len(reader.videos), len(reader.items)))


def opening(root: Path) -> tuple[float, float, int, int]:
    """Seconds, MiB, videos and items of an opening in a fresh process, imports left out."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=opened, args=(root, queue))
    process.start()
    result = queue.get(timeout=600)
    process.join()
    return result


def _work(reader: MeViSReader, samples: int, queue: multiprocessing.Queue) -> None:
    bench_loader.fast_sample(reader, 0, list(range(8)))  # what the first sample imports is no growth
    before = bench_loader.private_mib()
    for index in np.random.default_rng(os.getpid()).integers(len(reader.items), size=samples).tolist():
        bench_loader.fast_sample(reader, index, list(range(8)))
    queue.put(bench_loader.private_mib() - before)


def _forked(root: Path, workers: int, samples: int, results: multiprocessing.Queue) -> None:
    context = multiprocessing.get_context("fork")
    queue, reader = context.Queue(), MeViSReader(root, "train")
    made = [context.Process(target=_work, args=(reader, samples, queue)) for _ in range(workers)]
    for process in made:
        process.start()
    results.put([queue.get(timeout=600) for _ in made])
    for process in made:
        process.join()


def growth(root: Path, workers: int, samples: int) -> list[float]:
    """MiB by which each of some forked workers grows over its samples.

    Their parent is a fresh process: Python's garbage collector writes into all that a fork inherits, so that workers of
    a process which holds more grow by more, whatever they read.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_forked, args=(root, workers, samples, queue))
    process.start()
    results = queue.get(timeout=600)
    process.join()
    return results


def places(root: Path) -> dict[str, Path]:
    """The same split with its frames in a folder, a stored zip and a tar."""
    frames = root / "train" / "JPEGImages"
    for kind in ("zip", "tar"):
        own = root.with_name(f"{root.name}_{kind}") / "train"
        own.mkdir(parents=True)
        for file in (root / "train").glob("*.json"):
            shutil.copy(file, own)
        if kind == "tar":
            with tarfile.open(own / "JPEGImages.tar", "w") as archive:
                archive.add(frames, "JPEGImages")
        else:
            with zipfile.ZipFile(own / "JPEGImages.zip", "w") as archive:
                for file in sorted(frames.rglob("*.jpg")):
                    archive.write(file, f"JPEGImages/{file.relative_to(frames)}")
    return {"folder": root, "zip": root.with_name(f"{root.name}_zip"), "tar": root.with_name(f"{root.name}_tar")}


def assert_equal(roots: dict[str, Path]) -> None:
    """Every file has the same bytes, every sample the same pixels, wherever it lies."""
    trees = {name: open_tree(root, "train/JPEGImages") for name, root in roots.items()}
    readers = {name: MeViSReader(root, "train") for name, root in roots.items()}
    for video in trees["folder"].names():
        for file in trees["folder"].names(video):
            assert len({tree.read(f"{video}/{file}") for tree in trees.values()}) == 1
    for index in range(len(readers["folder"].items)):
        pixels = [bench_loader.fast_sample(reader, index, [0, 3])[0] for reader in readers.values()]
        assert all(torch.equal(pixels[0], other) for other in pixels[1:])


def rates(work: dict[str, Callable[[], int]], repeat: int) -> dict[str, float]:
    """Units a second of each kind of work, best of the repeats, in turn so that a busy moment hits all."""
    best = dict.fromkeys(work, 0.0)
    for _ in range(repeat):
        for name, run in work.items():
            start = time.perf_counter()
            done = run()
            best[name] = max(best[name], done / (time.perf_counter() - start))
    return best


def read_all(tree: FileTree, names: list[str]) -> int:
    """Bytes read of all files."""
    return sum(len(tree.read(name)) for name in names)


def sample_all(reader: MeViSReader, samples: int, frames: int) -> int:
    """Samples of eight frames with their masks."""
    for index, positions in bench_loader.plan(samples, len(reader.items), frames):
        bench_loader.fast_sample(reader, index, positions)
    return samples


def reading(root: Path, videos: int, frames: int, samples: int, repeat: int) -> dict[str, dict[str, float]]:
    """Samples and MiB a second from each place."""
    roots = places(bench_loader.make(root, videos, frames))
    assert_equal(roots)
    readers = {name: MeViSReader(place, "train") for name, place in roots.items()}
    trees = {name: open_tree(place, "train/JPEGImages") for name, place in roots.items()}
    names = [f"{video}/{file}" for video in trees["folder"].names() for file in trees["folder"].names(video)]
    order = [names[i] for i in np.random.default_rng(0).permutation(len(names)).tolist()]
    whole = rates({name: lambda r=reader: sample_all(r, samples, frames) for name, reader in readers.items()}, repeat)
    plain = rates({name: lambda t=tree: read_all(t, order) for name, tree in trees.items()}, repeat)
    return {"samples/s": whole, "MiB/s": {name: rate / 2**20 for name, rate in plain.items()}}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("videos", 1662), ("sentences", 27502), ("workers", 2), ("samples", 200), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="bench_opening_"))
    try:
        root = make(folder / "large", given.videos, given.sentences)
        for how in ("cold", "warm", "warm"):
            seconds, memory, videos, items = opening(root)
            print(f"{how}: {videos} videos, {items} sentences in {seconds:.2f} s, {memory:.0f} MiB private")
        print(f"promised warm: {LIMITS['seconds']} s, {LIMITS['private_mib']:.0f} MiB")
        for samples in (given.samples, 4 * given.samples):
            grown = ", ".join(f"{each:.1f}" for each in growth(root, given.workers, samples))
            print(f"{given.workers} workers after {samples} samples each: {grown} MiB more")
        for unit, found in reading(folder / "small", 4, 60, given.samples, given.repeat).items():
            told = ", ".join(f"{name} {rate:.1f}" for name, rate in found.items())
            print(f"{unit}: {told} (tar / folder {found['tar'] / found['folder']:.2f})")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
