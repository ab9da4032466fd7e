"""Every layout, damaged in every way: the right content, or a clear refusal; nothing else."""

import shutil
from collections import Counter
from pathlib import Path

import mutations
import numpy as np
import pytest


@pytest.mark.parametrize("name", mutations.LAYOUTS)
def test_damaged_data_sets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTATIONS_OUTSIDE", str(tmp_path / "outside"))
    monkeypatch.setenv("RVOS_PICTURE_PIXELS", "6000")
    (tmp_path / "outside").mkdir()
    sound = mutations.make(name, tmp_path / "sound")
    root = tmp_path / "x"
    shutil.copytree(sound, root)
    made = mutations.module(name, root)
    state = mutations.content(made, mutations.LAYOUTS[name].splits), mutations.printed(made, root)
    verdicts: Counter[str] = Counter()
    faults = []
    for number, (file, damage, kind) in enumerate(mutations.plan(sound, np.random.default_rng(0))):
        shutil.rmtree(root)
        shutil.copytree(sound, root)
        damage(root / file, np.random.default_rng(number))
        verdict, said = mutations.judge(name, root, state, kind)
        verdicts[verdict] += 1
        if verdict in ("traceback", "silent"):
            faults.append(f"{file}: {damage.__name__}: {verdict}\n{said[-1500:]}")
        if kind == "same" and verdict != "same":
            faults.append(f"{file}: {damage.__name__} should change nothing: {verdict}\n{said[-600:]}")
    print(f"\n{name}: {sum(verdicts.values())} tried, {dict(verdicts)}")
    assert verdicts.total() >= 18
    assert not faults, "\n\n".join(faults)
