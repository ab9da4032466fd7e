"""Values that cannot be meant are refused by the flag's name, before anything is built."""

from pathlib import Path

import pytest

from rvos_lightning.core.bounds import FromZero, Share
from rvos_lightning.run.bounds import faults, taken
from rvos_lightning.run.cli import main

TINY = ("fit", "-c", "configs/tiny.yaml")
I2V = ("fit", "-c", "configs/sam_i2v.yaml")


@pytest.mark.parametrize(
    ("recipe", "flag", "value", "expected"),
    [
        (TINY, "data.limit", "0", "a number from 1"),
        (TINY, "data.workers", "-1", "a number from 0"),
        (TINY, "data.val_clips", "0", "a number from 1"),
        (TINY, "model.window", "0", "a number from 1"),
        (TINY, "model.optimizer.lr", "-1", "a number from 0"),
        (TINY, "model.optimizer.lr", ".nan", "a finite number"),
        (TINY, "trainer.gradient_clip_val", ".nan", "a finite number"),
        (TINY, "model.scheduler.warmup", "-5", "a number from 0"),
        (TINY, "model.scheduler.final", "11", "equal to 1"),
        (TINY, "objectives.mask.dice", "-3", "a number from 0"),
        (TINY, "callbacks.overlay.opacity", "1.5", "equal to 1"),
        (TINY, "model.network.segmenter.widths", "[-4, 8, 16]", "numbers from 0"),
        (TINY, "data.kinds", "{attributes: -1}", "a number from 0"),
        (I2V, "data.simulate_user.points", "3", "equal to 1"),
        (I2V, "data.simulate_user.corrections", "-2", "equal to 0"),
        (I2V, "model.network.memory.layers", "0", "a number from 1"),
        (TINY, "data.size", "null", "a value"),
        (TINY, "model.optimizer.lr", "null", "a value, such as the usual 0.001"),
        (TINY, "objectives.mask.dice", "null", "a value, such as the usual 1.0"),
        (TINY, "callbacks.film.items", "null", "a value"),
        (TINY, "model.network.segmenter.prompt_dim", "null", "a value"),
        (("check", "-c", "configs/data/clip_with_masks.yaml"), "data.limit", "-3", "a number from 1"),
    ],
)
def test_nonsense_is_refused_by_its_flag(root, monkeypatch, capfd, recipe, flag, value, expected) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as caught:
        main([*recipe, f"--{flag}", value])
    said = capfd.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in said and said.count("\n") <= 6, said
    lines = said.splitlines()
    assert f"error: wrong value for {flag}" in lines, said
    assert any(line.startswith("  expected") and expected in line for line in lines), said


class Made:
    """Takes numbers of every kind."""

    def __init__(
        self,
        count: int = 3,
        none: int | None = None,
        offset: int = 0,
        lowest: float = -1.0,
        weight: float = 2.0,
        off: FromZero = 5,
        share: Share | None = None,
        flag: bool = True,
        sides: tuple[int, ...] = (1, 2),
    ) -> None:
        self.all = (count, none, offset, lowest, weight, off, share, flag, sides)


def test_the_usual_bounds_and_declared_ones(monkeypatch) -> None:
    monkeypatch.setattr("rvos_lightning.run.bounds.OURS", (__name__,))
    taken.cache_clear()

    def keys(**given) -> list[str]:
        return [fault.key for fault in faults("part", given, Made)]

    assert not keys(count=1, none=1, offset=0, lowest=-9.0, weight=0.0, off=0, share=0.5, flag=False, sides=[0, 1])
    wrong = {"count": 0, "none": 0, "offset": -1, "lowest": float("inf"), "weight": -0.1, "off": -1, "share": 1.1}
    for name, value in wrong.items():
        assert keys(**{name: value}) == [f"part.{name}"], name
    assert keys(sides=[1, -1]) == ["part.sides"]
    nested = {"class_path": f"{__name__}.Made", "init_args": {"count": 0}}
    assert [str(f) for f in faults("", {"callbacks": {"a": nested}, "list": [nested]})] == [
        "error: wrong value for callbacks.a.count\n  value     0\n  expected  a number from 1",
        "error: wrong value for list[0].count\n  value     0\n  expected  a number from 1",
    ]


def test_every_shipped_configuration_is_within_bounds(root, monkeypatch) -> None:
    from rvos_lightning.run.config import open_config

    monkeypatch.chdir(root)
    for path in sorted(Path("configs").glob("*.yaml")):
        open_config(["-c", str(path)])


def test_what_a_run_has_saved_is_read_like_a_recipe(root, monkeypatch, tmp_path) -> None:
    """`forecast --run`, which asks no verb's own parser."""
    from rvos_lightning.run.config import open_config

    monkeypatch.chdir(root)
    saved = tmp_path / "config.yaml"
    own = "ckpt_path: null\nweights_only: true\nreturn_predictions: null\nverbose: true\n"
    saved.write_text(Path("configs/tiny.yaml").read_text() + own)
    assert open_config(["-c", str(saved)]).config.data.class_path.endswith("MovingShapes")
