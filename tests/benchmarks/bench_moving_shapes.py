"""MovingShapes clips per second on one core: `python tests/benchmarks/bench_moving_shapes.py`."""

import time

import torch

from rvos_lightning.data import MovingShapes
from rvos_lightning.data.clips.sampler import Draw

REQUIRED = 150  # clips/s on one core at 96 px, 8 frames


def clips_per_second(difficulty: str, clips: int = 200) -> float:
    """Whole way from index to uint8 clip with masks and sentence; CPU seconds, so that a busy machine counts right."""
    data = MovingShapes(difficulty=difficulty, train_clips=clips, expressions_per_video=1).train_clips()
    data[Draw(0, 0)]
    start = time.process_time()
    for index in range(1, clips):
        data[Draw(0, index)]
    return (clips - 1) / (time.process_time() - start)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for level in ("easy", "medium", "hard"):
        best = max(clips_per_second(level) for _ in range(5))
        print(f"{level:8s} {best:6.0f} clips/s (required {REQUIRED})")
