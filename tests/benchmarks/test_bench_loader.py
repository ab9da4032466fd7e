"""The loader benchmark's two sides give equal pixels and masks."""

import bench_loader
import pytest

from rvos_lightning.data.readers.mevis import MeViSReader


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11
def test_equal_pixels(tmp_path):
    root = bench_loader.make(tmp_path, videos=1, frames=9)
    slow, reader = bench_loader.SlowMeViS(root, "train"), MeViSReader(root, "train")
    bench_loader.assert_equal(slow, reader, frames=9, samples=3)


def test_equal_sizes():
    assert [name for name, *_ in bench_loader.resizing(repeats=1)] == ["frames", "masks"]
