"""What people mistype in files and flags: the error shows their words, names the key in full, proposes a name."""

from pathlib import Path

import pytest

from rvos_lightning.run.cli import main


@pytest.fixture
def refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """What a command says that is refused; overlays lie in another folder than the one it runs in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()

    def call(*words: str, overlay: str = "") -> str:
        Path("mine/overlay.yaml").write_text(overlay)
        files = ["-c", str(root / "configs/tiny.yaml"), *(["-c", "mine/overlay.yaml"] if overlay else [])]
        with pytest.raises(SystemExit) as caught:
            main(["fit", *files, *words])
        assert caught.value.code == 2
        said = capfd.readouterr().err
        assert said.count("\n") <= 5 and "Traceback" not in said
        return said

    return call


@pytest.mark.parametrize(
    ("overlay", "lines"),
    [
        ("trainer: {max_steps: [3]}", ["wrong value for trainer.max_steps", "  value     [3]", "  expected  int"]),
        ("data: {difficulty: no}", ["wrong value for data.difficulty", "  value     False"]),
        ("trainer: 3", ["-c mine/overlay.yaml: trainer: holds '3'", "  expected  keys of its own"]),
        ("trainer:\ndata: {size: 64}", ["-c mine/overlay.yaml: trainer: holds nothing"]),
        ("data:\n", ["-c mine/overlay.yaml: data: holds nothing"]),
        ("objectives: []", ["-c mine/overlay.yaml: objectives: holds '[]'"]),
    ],
)
def test_files(refused, overlay: str, lines: list[str]) -> None:
    said = refused(overlay=overlay).removeprefix("error: ").splitlines()
    assert all(found.startswith(line) for found, line in zip(said, lines, strict=False)), said


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("--model.optimizer", "AdanW"), "AdamW, "),
        (("--trainer.logger", "WandbLoger"), "WandbLogger, "),
        (("--data", "MovingShape"), "MovingShapes, "),
        (("--model.scheduler", "Cosine"), "WarmupCosine, "),
        (("--callbacks.bset", "null"), "best, "),
        (("--objectives.masc", "null"), "mask\n"),
    ],
)
def test_names(refused, words: tuple[str, str], nearest: str) -> None:
    assert f"\n  nearest   {nearest}" in refused(*words)


def test_a_number_is_no_class(refused) -> None:
    assert refused("--model.optimizer.lr", "fast").splitlines()[1:] == ["  value     fast", "  expected  float"]


def test_what_a_class_of_others_needs_is_named_in_full(refused) -> None:
    assert "CSVLogger needs save_dir: give --trainer.logger.save_dir" in refused("--trainer.logger", "CSVLogger")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--trainer.accumulate_grad_batches", "0"), "a number from 1"),
        (("--trainer.gradient_clip_val", "-1"), "a number from 0"),
    ],
)
def test_numbers_of_the_trainer(refused, words: tuple[str, str], expected: str) -> None:
    assert refused(*words).splitlines()[2] == f"  expected  {expected}"


def test_training_on_no_batch_is_refused(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["-c", str(root / "configs/tiny.yaml"), "--trainer.default_root_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="limit_train_batches is 0, so that nothing would be trained"):
        main(["fit", *words, "--trainer.limit_train_batches", "0"])
    assert not (tmp_path / "run").exists()
