"""MovingShapes on disk in official layouts, read back by the readers of real data."""

from pathlib import Path

import pytest
import torch

from rvos_lightning import data
from rvos_lightning.data.reader import Reader
from rvos_lightning.data.shapes.export import LAYOUTS, main
from rvos_lightning.data.shapes.shots import ALL_VISIBLE, ANY_TARGET, ONE_TARGET, STILL, Shot, Source
from rvos_lightning.data.sources.mask_pictures import palette

SOURCE = Source(videos=2, size=32, frames=5)


def written(layout: str, folder: Path) -> Path:
    LAYOUTS[layout](folder, SOURCE)
    return folder


def truth(shot: Shot, numbers: tuple[int, ...]) -> torch.Tensor:
    return sum((torch.from_numpy(shot.ids == n) for n in numbers), torch.zeros(shot.ids.shape, dtype=torch.bool))


def check_frames(reader: Reader, shots: dict[str, Shot], stride: int = 1) -> None:
    assert {video.id.split("/")[-1] for video in reader.videos} == set(shots)
    for index, video in enumerate(reader.videos):
        shot = shots[video.id.split("/")[-1]]
        assert video.frames == tuple(f"{stride * i:05d}" for i in range(len(shot.frames)))
        frames = reader.read_frames(index, range(len(video.frames)))
        assert (frames.float() - torch.from_numpy(shot.frames).permute(0, 3, 1, 2).float()).abs().mean() < 6


def check_words(reader: Reader, shots: dict[str, Shot]) -> None:
    for index, item in enumerate(reader.items):
        shot = shots[reader.videos[item.video].id.split("/")[-1]]
        text, numbers = shot.expressions[int(item.id)]
        masks, annotated = reader.read_masks(index, range(len(shot.frames)))
        assert item.expression == text and annotated.all() and torch.equal(masks, truth(shot, numbers))


def shots(split: str, kinds: dict[str, float], first: int = 0, frames: int | None = None) -> dict[str, Shot]:
    return {shot.id: shot for shot in SOURCE.shots(split, kinds, first, frames)}


def test_ref_youtube_vos(tmp_path: Path) -> None:
    module = data.RefYouTubeVOS(written("ref_youtube_vos", tmp_path))
    train, valid = module.reader("train"), module.reader("predict")
    check_frames(train, shots("train", ONE_TARGET), 5)
    check_words(train, shots("train", ONE_TARGET))
    check_frames(valid, shots("val", ONE_TARGET), 5)  # the test videos in its file are left out
    assert valid.items[0].objects is None


def test_mevis(tmp_path: Path) -> None:
    module = data.MeViS(written("mevis", tmp_path))
    for split, ours in (("train", "train"), ("val", "val")):
        reader = module.reader(split)
        check_frames(reader, shots(ours, ANY_TARGET))
        check_words(reader, shots(ours, ANY_TARGET))
    assert module.reader("predict").items[0].objects is None
    batch = next(iter(data.MeViS(tmp_path, size=32, clip_length=3, batch_size=2).train_dataloader()))
    assert batch.clip.frames.shape == (2, 3, 3, 32, 32) and batch.clip.meta[0].source == "mevis"


def test_mevis_v2_is_mevis_under_other_names(tmp_path: Path) -> None:
    written("mevis_v2", tmp_path / "v2")
    reader = data.MeViS(tmp_path / "v2").reader("train")
    assert reader.files[0].name == "meta_expressions_v2.json"
    check_frames(reader, shots("train", ANY_TARGET))
    check_words(reader, shots("train", ANY_TARGET))
    assert data.MeViS(tmp_path / "v2").reader("predict").items[0].objects is None


@pytest.mark.parametrize(("layout", "kind"), [("long_rvos", data.LongRVOS), ("yourvos", data.YoURVOS)])
def test_sentences_about_one_object(tmp_path: Path, layout: str, kind: type) -> None:
    reader = kind(written(layout, tmp_path)).reader("test")
    check_frames(reader, shots("test", ONE_TARGET), 5 if layout == "yourvos" else 1)
    check_words(reader, shots("test", ONE_TARGET))
    if layout == "yourvos":
        for index, item in enumerate(reader.items):
            inside = [p for first, last in item.facts.spans for p in range(first, last + 1)]
            assert inside == reader.visible(index).nonzero()[:, 0].tolist()


def test_ref_sav(tmp_path: Path) -> None:
    module = data.RefSAV(written("ref_sav", tmp_path), captions="short")
    reader, mine = module.reader("train"), shots("train", ONE_TARGET)
    check_frames(reader, mine, 4)
    for index, item in enumerate(reader.items):
        masks, _ = reader.read_masks(index, range(5))
        assert torch.equal(masks, truth(mine[reader.videos[item.video].id], (item.objects[0] + 1,)))
    assert {item.expression for item in reader.items} == {text for s in mine.values() for text, _ in s.expressions}
    check_words(module.reader("val"), shots("val", ANY_TARGET))


@pytest.mark.parametrize(("layout", "kind"), [("lvos", data.LVOS), ("mose_v2", data.MOSE)])
def test_maps_of_objects(tmp_path: Path, layout: str, kind: type) -> None:
    reader = kind(written(layout, tmp_path)).reader("train")
    mine = shots("train", ONE_TARGET if layout == "lvos" else ALL_VISIBLE)
    for index, item in enumerate(reader.items):
        masks, annotated = reader.read_masks(index, range(5))
        expected = truth(mine[reader.videos[item.video].id], (int(item.id),))
        assert torch.equal(masks, expected)
        first = int(expected.any(-1).any(-1).nonzero()[0]) if layout == "lvos" else 0
        assert annotated.tolist() == [t >= first for t in range(5)]
    assert not list(reader.problems(True))


def test_revos(tmp_path: Path) -> None:
    module = data.ReVOS(written("revos", tmp_path))
    check_frames(module.reader("val"), shots("val", ANY_TARGET))
    check_words(module.reader("val"), shots("val", ANY_TARGET))


def test_ref_davis(tmp_path: Path) -> None:
    reader = data.RefDAVIS(written("ref_davis", tmp_path)).reader("val")
    mine = shots("val", ALL_VISIBLE)
    check_frames(reader, mine)
    assert len(reader.items) == 4 * sum(len(shot.things) for shot in mine.values())
    for index, item in enumerate(reader.items):
        masks, _ = reader.read_masks(index, range(5))
        assert torch.equal(masks, truth(mine[reader.videos[item.video].id], tuple(int(o) for o in item.objects)))


@pytest.mark.parametrize("layout", ["davis", "sav", "youtube_vos"])
def test_promptable_layouts(tmp_path: Path, layout: str) -> None:
    written(layout, tmp_path)
    kind = {"davis": data.DAVIS, "sav": data.SAV, "youtube_vos": data.YouTubeVOS}[layout]
    split = "train" if layout == "youtube_vos" else "val"
    reader = kind(tmp_path).reader(split)
    mine = shots(split, ONE_TARGET if layout == "youtube_vos" else ALL_VISIBLE)
    check_frames(reader, mine, 5 if layout == "youtube_vos" else 1)
    assert len(reader.items) >= 6
    for index, item in enumerate(reader.items):
        masks, annotated = reader.read_masks(index, range(5))
        number = int(item.objects[0]) + (layout == "sav")
        expected = truth(mine[reader.videos[item.video].id], (number,))
        assert torch.equal(masks[annotated], expected[annotated])
        assert annotated.tolist() == [layout != "sav" or t % 4 == 0 for t in range(5)]


def test_refcoco(tmp_path: Path) -> None:
    module = data.RefCOCO(written("refcoco", tmp_path))
    reader = module.reader("train")
    mine = list(shots("train", STILL, frames=1).values())
    assert len(reader.videos) == 2 and len(reader.items) == 4
    texts = {}
    for index, item in enumerate(reader.items):
        shot = mine[item.video]
        texts.setdefault(item.video, []).append(item.expression.lower().rstrip("."))
        meant = dict(shot.expressions)[texts[item.video][-1]]
        assert torch.equal(reader.read_masks(index, [0])[0], truth(shot, meant))
    assert texts == {n: [text for text, _ in shot.expressions] for n, shot in enumerate(mine)}


def test_the_palette_is_that_of_voc() -> None:
    colours = palette()
    assert colours[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    assert colours[-3:] == [224, 224, 192]


def test_the_command_line_refuses_a_full_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit):
        main(["--layout", "davis", "--out", str(tmp_path)])
    assert "not empty" in capsys.readouterr().err
    main(["--layout", "davis", "--out", str(tmp_path / "new"), "--videos", "1", "--size", "16", "--frames", "2"])
    assert "wrote davis with 1 videos" in capsys.readouterr().out
