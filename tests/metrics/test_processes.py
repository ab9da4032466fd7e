"""Two and three gloo processes with uneven shares, one of them without anything, give one process's digits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launch import python
from made_masks import chosen, cut, video

from rvos_lightning import metrics
from rvos_lightning.metrics.torch_metric import TorchMetric

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")  # on ranks and sets with nothing
GROUPS = {
    "annotator": [0, 0, 1, 1],
    "object": [1, 2, 1, 2],
    "kind": ["referring", "reasoning", "reasoning", "no_target"],
    "seen": [True, False, True, True],
}
NAMES = ("JAndF", "RefDAVISA", "DAVISSemi", "SAV", "ReVOS", "RefCOCO", "GRefCOCO", "A2D", "MOSEv2")
VIDEOS = [("a", 4, 7), ("b", 4, 3), ("c", 4, 11), ("d", 4, 5)]


def share(metric, rank, world, split_items):
    """What one rank sees: the last rank of several nothing; windows of one video may repeat on two ranks."""
    workers = max(1, world - 1)
    for number, (name, items, time) in enumerate(VIDEOS):
        part = video(name, items, time, seed=number, **GROUPS)
        repeated = number == 2 and rank < workers
        if rank >= workers or (number % workers != rank and not repeated):
            continue
        for start in range(0, time, 4):
            window = cut(part, start, min(start + 4, time))
            for own in ([3, 0], [1, 2]) if split_items else ([0, 1, 2, 3],):
                metric.update(chosen(window, list(own)))


def scores_of(name, rank=0, world=1):
    metric = TorchMetric(getattr(metrics, name)())
    share(metric, rank, world, split_items=name not in ("RefDAVISA", "DAVISUnsupervised"))
    values = {key: value.item().hex() for key, value in metric.compute().items()}
    table = metric.table()
    metric.reset()
    metric.compute()  # nothing anywhere must not hang or break either
    return values, json.loads(json.dumps(table).replace("NaN", "null"))


def worker(rank, world, file):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    print("RESULT" + json.dumps({name: scores_of(name, rank, world) for name in NAMES}), flush=True)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_agree_with_one(world, tmp_path):
    here = Path(__file__)
    root = here.parents[2]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root), str(here.parent), str(root / "tests" / "drills")]),
    }
    command = [python(), str(here)]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(tmp_path / "meet")],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    expected = json.loads(json.dumps({name: scores_of(name) for name in NAMES}))
    for rank, output in enumerate(outputs):
        got = json.loads(output.split("RESULT")[1].splitlines()[0])
        for name in NAMES:
            assert got[name][0] == expected[name][0], (rank, name)
            assert got[name][1] == expected[name][1], (rank, name)


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
