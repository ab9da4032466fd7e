"""The long film's benchmark says what it is given, and a prediction's memory does not grow with the film."""

from pathlib import Path

import bench_long_film
import pytest


def test_growth_is_that_of_the_last_tenth_over_the_second(tmp_path: Path) -> None:
    flat = [(n, 1000 * bench_long_film.MIB) for n in range(1, 101)]
    leaking = [(n, (1000 + n) * bench_long_film.MIB) for n in range(1, 101)]
    assert bench_long_film.growth(flat) == 0 and bench_long_film.growth(leaking) == pytest.approx(80.5)
    bench_long_film.draw(leaking, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


@pytest.mark.slow
def test_memory_is_flat_over_a_short_film(tmp_path: Path) -> None:
    film = tmp_path / "long.mp4"
    bench_long_film.make_film(film, 400)
    points = bench_long_film.curve(film, tmp_path / "run", 0.1)
    assert points[-1][0] > 300 and bench_long_film.growth(points) < 40
