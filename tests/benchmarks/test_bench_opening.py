"""The opening benchmark's sides agree, and a small data set opens well within what is promised of the large one."""

import bench_loader
import bench_opening
import pytest

from rvos_lightning.data.readers.mevis import MeViSReader

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11


def test_what_is_opened_is_what_the_files_say(tmp_path):
    root = bench_opening.make(tmp_path / "x", videos=12, sentences=100)
    bench_opening.assert_sound(root)
    seconds, memory, videos, items = bench_opening.opening(root)
    assert (videos, items) == (12, 100)
    assert seconds < bench_opening.LIMITS["seconds"] and memory < bench_opening.LIMITS["private_mib"]


def test_every_place_gives_the_same(tmp_path):
    roots = bench_opening.places(bench_loader.make(tmp_path / "x", videos=2, frames=9))
    bench_opening.assert_equal(roots)
    assert type(MeViSReader(roots["tar"], "train").frames.tree).__name__ == "Tar"


def test_workers_do_not_grow_with_what_they_read(tmp_path):
    root = bench_opening.make(tmp_path / "x", videos=40, sentences=600)
    few, many = (max(bench_opening.growth(root, 2, samples)) for samples in (30, 300))
    assert many < few + 4
