"""One's own pictures: files, folders, globs; decoding on the way; clear refusals."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rvos_lightning.data import ClipWithMasks, MovingShapes, VideoFiles
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.sources.frame_names import lost_between
from rvos_lightning.data.sources.video_files import VideoFootage, open_footage

HORSE = Path(__file__).parent / "horsejump"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """An H.264 file with B-frames and one key frame, and the frames that went in."""
    import av

    frames = MovingShapes(size=64, video_length=30, train_clips=1).reader("train").read_frames(0, range(30))
    path = tmp_path_factory.mktemp("film") / "shapes.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25, 2), options={"crf": "4", "g": "250", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
        for picture in frames:
            image = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path, frames


def test_windows_of_a_film_decode_every_frame_once(film: tuple[Path, torch.Tensor]) -> None:
    path, frames = film
    footage = VideoFootage(path)
    assert len(footage.frames) == 30 and footage.size == (64, 64) and footage.rate == 12.5
    before = footage.film.decoded
    got = torch.cat([footage.read(range(start, min(start + 7, 30))) for start in range(0, 30, 7)])
    assert (got.float() - frames.float()).abs().mean() < 4
    assert footage.film.decoded - before <= 30
    assert torch.equal(footage.read([5, 2, 5]), got[[5, 2, 5]])


def test_predicting_on_a_film_reads_lazily(film: tuple[Path, torch.Tensor]) -> None:
    data = VideoFiles(
        str(film[0]), ["the red circle", "the blue square"], size=32, in_memory_pixels=1, context_frames=3
    )
    (batch,) = data.predict_dataloader()
    clip = batch.clip
    assert (
        batch.targets is None and clip.frames.shape == (1, 30, 3, 32, 32) and not isinstance(clip.frames, torch.Tensor)
    )
    assert clip.context.shape == (1, 3, 3, 32, 32) and clip.context_positions == ((0, 14, 29),)
    windows = [clip.window(start, start + 10) for start in (0, 10, 20)]
    whole = clip.frames[:, :]
    assert torch.equal(torch.cat([w.frames for w in windows], 1), whole) and whole.max() <= 1
    assert windows[1].meta[1].positions == tuple(range(10, 20)) and windows[1].meta[0].facts.fps == 12.5
    assert clip.video.tolist() == [0, 0] and clip.meta[1].original_size == (64, 64)


def test_folders_globs_and_images(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Image.fromarray(np.full((6, 8, 3), number * 20, np.uint8)).save(tmp_path / f"{number}.png")
    (folder,) = open_footage(tmp_path)
    assert folder.frames == ("1", "2", "10") and folder.size == (6, 8) and folder.id == tmp_path.name
    (globbed,) = open_footage(f"{tmp_path}/1*.png")
    assert globbed.frames == ("1", "10") and int(globbed.read([1])[0, 0, 0, 0]) == 200
    (image,) = open_footage(tmp_path / "2.png")
    assert image.frames == ("2",)
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(tmp_path / "11.png")
    with pytest.raises(DataError, match=r"11\.png: 9x6 pixels, but 1\.png has 8x6"):
        open_footage(tmp_path)[0].read([3])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mp4", None, "none.mp4: no such file"),
        ("none*.jpg", None, "no file matches"),
        ("bad.mp4", b"not a film at all" * 50, "bad.mp4: not a readable video"),
        ("bad.jpg", b"\xff\xd8nothing", "bad.jpg: not a readable image"),
    ],
)
def test_unreadable_paths_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message.replace("*", r"\*").replace(".", r"\.")):
        VideoFiles(str(tmp_path / name), ["the dog"]).predict_dataloader()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither frames"):
        open_footage(tmp_path / "empty")


@pytest.mark.parametrize("path", ["clips", "clips/*"])
def test_a_folder_of_folders_names_one_to_give(tmp_path: Path, path: str) -> None:
    (tmp_path / "clips" / "a_horse").mkdir(parents=True)
    with pytest.raises(DataError, match=r"neither frames .*holds folders: give one, such as .*a_horse"):
        open_footage(tmp_path / path)


@pytest.mark.parametrize("expressions", [[], [" "], ["the dog", ""]])
def test_empty_expressions_are_refused(expressions: list[str]) -> None:
    with pytest.raises(DataError, match=r"data\.expressions"):
        VideoFiles("x.mp4", expressions).predict_dataloader()


def test_films_are_for_prediction_only(film: tuple[Path, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="no training split"):
        VideoFiles(str(film[0]), ["the dog"]).train_dataloader()


def test_a_real_clip_trains_and_validates() -> None:
    data = ClipWithMasks(HORSE, size=96, clip_length=4, batch_size=2, items_per_video=2, repeats=6)
    loader = data.train_dataloader()
    assert len(loader) == 3
    batch = next(iter(loader))
    assert batch.clip.frames.shape == (2, 4, 3, 54, 96) and batch.targets.masks.shape == (4, 4, 54, 96)
    assert sorted(batch.clip.expressions[:2])[0].startswith("the brown horse")
    (whole,) = data.val_dataloader()
    assert whole.targets.masks.shape == (2, 10, 90, 160) and whole.targets.annotated.all()
    horse, rider = whole.targets.masks.flatten(2).sum(2).float().mean(1)
    assert 500 < horse < 900 and 100 < rider < 250 and not (whole.targets.masks[0] & whole.targets.masks[1]).any()


def copy_of(tmp_path: Path, **changes: object) -> Path:
    root = tmp_path / "clip"
    shutil.copytree(HORSE, root)
    entry = json.loads((root / "expressions.json").read_text())
    entry["expressions"][0] |= changes
    (root / "expressions.json").write_text(json.dumps(entry))
    return root


def test_sparse_masks_leave_frames_unannotated(tmp_path: Path) -> None:
    root = copy_of(tmp_path, masks="masks/00006.png")
    reader = ClipWithMasks(root).reader("val")
    masks, annotated = reader.read_masks(0, range(10))
    assert annotated.tolist() == [False, False, True] + [False] * 7 and masks[2].any() and not masks[3].any()


def test_faults_of_a_clip_are_named(tmp_path: Path) -> None:
    root = copy_of(tmp_path)
    Image.open(root / "masks/00009.png").crop((0, 0, 159, 90)).save(root / "masks/00009.png")
    with pytest.raises(DataError, match=r"00009\.png: mask of 159x90 pixels on a frame of 160x90"):
        ClipWithMasks(root).reader("val").read_masks(0, [3])
    for number, (change, message) in enumerate(
        [
            ({"exp": "  "}, r"expressions\[0\]\.exp must be a sentence"),
            ({"labels": None}, r"expressions\[0\]\.labels must list"),
            ({"masks": "nowhere"}, r"nowhere: missing, but expressions\.json names it"),
            ({"masks": "../../../etc"}, "leaves the folder"),
        ]
    ):
        with pytest.raises(DataError, match=message):
            ClipWithMasks(copy_of(tmp_path / str(number), **change)).reader("val")
    with pytest.raises(DataError, match=r"expressions\.json: missing"):
        ClipWithMasks(tmp_path / "nothing").reader("val")


def still(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(path)
    return path


def test_inputs_that_would_be_passed_over_are_named(tmp_path: Path, film: tuple[Path, torch.Tensor]) -> None:
    still(tmp_path / "both" / "1.jpg")
    shutil.copy(film[0], tmp_path / "both" / "a.mp4")
    with pytest.raises(DataError, match=r"1 pictures and 1 films in one place, e\.g\. 1\.jpg and a\.mp4: .*'\*\.mp4'"):
        open_footage(tmp_path / "both")
    assert [one.id for one in open_footage(tmp_path / "both" / "*.mp4")] == ["a"]
    still(tmp_path / "kinds" / "1.jpg")
    still(tmp_path / "kinds" / "2.tif")
    with pytest.raises(DataError, match=r"2\.tif: pictures of this kind are not read"):
        open_footage(tmp_path / "kinds")


def test_a_gap_between_frames_is_said(tmp_path: Path) -> None:
    for name in ("f8", "f9", "f10", "f12", "f13"):
        still(tmp_path / f"{name}.jpg")
    with pytest.warns(UserWarning, match=r"frame f11 missing between its neighbours"):
        (footage,) = open_footage(tmp_path)
    assert footage.frames == ("f8", "f9", "f10", "f12", "f13")


def test_lost_frames_are_counted_where_numbers_count_frames():
    assert lost_between(["a1", "a2", "a3", "a5", "a6"]) == ["a4"] and lost_between(["1", "3", "5", "9"]) == ["7"]
    assert lost_between(["1", "2", "3", "20240101120000"]) == []  # at once: nobody lists twenty billion names


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_an_animation_is_not_taken_for_its_first_picture(tmp_path, suffix):
    pictures = [Image.fromarray(np.full((12, 16, 3), 60 * n, np.uint8)) for n in range(3)]
    pictures[0].save(tmp_path / f"moving{suffix}", save_all=True, append_images=pictures[1:], lossless=True)
    with pytest.raises(DataError, match=f"moving{suffix}: an animation of 3 pictures.*as a film"):
        open_footage(tmp_path / f"moving{suffix}")
    pictures[0].save(tmp_path / f"still{suffix}")
    assert open_footage(tmp_path / f"still{suffix}")[0].size == (12, 16)


def test_no_path_at_all_is_an_error():
    with pytest.raises(DataError, match="data.path is empty"):
        VideoFiles([], ["a dog"]).predict_dataloader()
