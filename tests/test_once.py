"""What a session shares is what each test would have drawn; what is slow is all but one."""

from pathlib import Path

import pytest
import torch
from once import once_a_session, one_full_size, seeded, sharp_first


def test_weights_are_drawn_by_the_rule_and_once():
    asked = []

    def rule(key, shape):
        asked.append(key)
        return torch.full(tuple(shape), float(len(key)))

    shapes = {"a": (2, 3), "bcd": ()}
    first, second = (seeded("test_once", shapes, rule) for _ in range(2))
    assert asked == ["a", "bcd"] and first.keys() == second.keys() == shapes.keys()
    for name, shape in shapes.items():
        assert torch.equal(first[name], rule(name, shape)) and torch.equal(second[name], first[name])
    first["a"].zero_()
    assert torch.equal(seeded("test_once", shapes, rule)["a"], second["a"])  # nobody's changes reach the others
    assert asked == ["a", "bcd"] * 2
    assert seeded("test_once", {"a": (3, 2)}, rule)["a"].shape == (3, 2)


def test_a_failed_draw_leaves_nothing():
    with pytest.raises(ZeroDivisionError):
        once_a_session("fails", lambda: {"a": torch.zeros(1 // 0)})
    assert once_a_session("fails", lambda: {"a": torch.ones(1)})["a"] == 1


def slow(params):
    return [param.id for param in params if pytest.mark.slow in param.marks]


def test_marks():
    paths = [Path(name) for name in ("c.npz", "a.npz", "b.npz", "b_sharp.npz")]
    assert slow(one_full_size(paths)) == ["b", "b_sharp", "c"] and slow(one_full_size([])) == []
    assert slow(one_full_size(paths, chosen=lambda path: path.stem != "c")) == ["a", "b", "b_sharp"]
    assert slow(sharp_first(paths)) == ["b"] and len(sharp_first(paths)) == 4
