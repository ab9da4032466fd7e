"""The pictures a player shows, in its order: in prediction and in the readers of data sets alike."""

import gc
import multiprocessing
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from films import damage, hide_first, numbers, picture, set_matrix, write_film
from PIL import Image

from rvos_lightning.data.reader import DataError, Video
from rvos_lightning.data.sources.film import Film, FilmFrames, decoded
from rvos_lightning.data.sources.upright import EXIF, turned
from rvos_lightning.data.sources.video_files import VideoFootage, open_footage


def both(path: Path) -> list[int]:
    """Numbers of all pictures, the same from prediction and from a data set's reader, and from the back."""
    footage = VideoFootage(path)
    shown = numbers(footage.read(range(len(footage.frames))))
    assert len(footage.frames) == sum(1 for _ in decoded(str(path)))
    source = FilmFrames(path.parent, f"{{video}}{path.suffix}")
    video = Video(path.stem, footage.frames)
    singles = [numbers(source.read(video, [p]))[0] for p in reversed(range(len(footage.frames)))]
    assert singles[::-1] == shown and source.size(video) == footage.size
    assert [numbers(footage.read([p]))[0] for p in (len(shown) - 1, 0, 3)] == [shown[-1], shown[0], shown[3]]
    return shown


@pytest.mark.parametrize("bf", [0, 2])
@pytest.mark.parametrize("hidden", [1, 5])
def test_hidden_frames_of_a_trimmed_film(tmp_path: Path, bf: int, hidden: int) -> None:
    path = write_film(tmp_path / "trimmed.mp4", range(16), bf=bf)
    hide_first(path, hidden)
    assert both(path) == list(range(hidden, 16))


@pytest.mark.parametrize("name", ["b.avi", "b.mp4", "b.mkv", "b.ts", "b.mov", "raw.h264"])
def test_b_frames_in_every_container(tmp_path: Path, name: str) -> None:
    assert both(write_film(tmp_path / name, range(16), bf=3)) == list(range(16))


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.gif", "gif")])
def test_other_codecs(tmp_path: Path, name: str, codec: str) -> None:
    kind = "rgb8" if codec == "gif" else "yuv420p"
    path = tmp_path / name
    if codec == "gif":
        pictures = [Image.fromarray(picture(n)) for n in range(8)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    else:
        write_film(path, range(8), codec=codec, pix_fmt=kind)
    assert both(path) == list(range(8))


def test_joined_transport_streams(tmp_path: Path) -> None:
    parts = [write_film(tmp_path / f"{n}.ts", range(n, n + 8), bf=2).read_bytes() for n in (0, 8)]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    assert both(tmp_path / "joined.ts") == list(range(16))


def test_a_size_that_changes_is_named(tmp_path: Path) -> None:
    parts = [write_film(tmp_path / f"{h}.h264", range(4), (h, 64), format="h264").read_bytes() for h in (48, 64)]
    path = tmp_path / "two.h264"
    path.write_bytes(b"".join(parts))
    with pytest.raises(DataError, match=r"two\.h264: frame 0 has 64x48 pixels, frame 4 64x64: the size.*scale"):
        VideoFootage(path).read(range(8))
    with pytest.raises(DataError, match=r"two\.h264: frame 4 has 64x64 pixels, the first 64x48: the size.*scale"):
        VideoFootage(path).read([4, 5])
    with pytest.raises(DataError, match=r"the size changes"):
        FilmFrames(tmp_path, "{video}.h264").read(Video("two", tuple("01234567")), range(8))


@pytest.mark.parametrize("name", ["d.mp4", "d.avi", "d.ts", "d.mkv"])
def test_a_damaged_middle_is_named_or_concealed(tmp_path: Path, name: str) -> None:
    """Never a picture of another frame: where decoding goes on, numbers stay; else the film is named."""
    path = write_film(tmp_path / name, range(16), gop=4)
    damage(path)
    for open_it in (VideoFootage, lambda path: Film(str(path))):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                film = open_it(path)
                shown = film.read(range(16))
            except DataError as error:
                assert str(path) in str(error) and str(error).count("\n") < 5
                continue
        found = numbers(torch.stack(list(shown.values())) if isinstance(shown, dict) else shown)
        exact = [number for number, other in zip(found, range(16), strict=True) if number == other]
        assert exact or any(str(path) in str(each.message) for each in said), found
        assert found[:4] == [0, 1, 2, 3] and all(abs(number - n) <= 4 for n, number in enumerate(found)), found


@pytest.mark.parametrize("name", ["cut.mkv", "cut.avi", "cut.mp4", "cut.mov"])
def test_a_film_that_is_cut_off_is_named(tmp_path: Path, name: str) -> None:
    path = write_film(tmp_path / name, range(60), (120, 160), gop=10, faststart=True)
    whole = path.read_bytes()
    assert len(VideoFootage(path).frames) == 60  # without a word
    path.write_bytes(whole[: int(len(whole) * 0.6)])
    if path.suffix in (".mp4", ".mov"):
        with pytest.raises(DataError, match=rf"{name}: its frames end at .* its header says 2\.4 s: cut off"):
            VideoFootage(path)
    else:
        with pytest.warns(UserWarning, match=rf"{name}: its frames end at [01]\.\d s, its header says"):
            assert 5 < len(VideoFootage(path).frames) < 55


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile other.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\n{folder}/other.ts\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_playlist_that_names_other_films_is_refused(tmp_path: Path, name: str, text: str) -> None:
    write_film(tmp_path / "other.mp4", range(4))
    write_film(tmp_path / "other.ts", range(4))
    (tmp_path / name).write_text(text.format(folder=tmp_path))
    with pytest.raises(DataError, match=f"{name}: a playlist"):
        Film(str(tmp_path / name))


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DataError, match=r"pipe\.mp4: no ordinary file"):
        open_footage(tmp_path)


MATRICES = {
    "quarter": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "back": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "half": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "mirror": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_turned_and_mirrored_films(tmp_path: Path, name: str) -> None:
    matrix, expected = MATRICES[name]
    path = write_film(tmp_path / "turned.mp4", range(3))
    set_matrix(path, matrix)
    footage = VideoFootage(path)
    wanted = np.ascontiguousarray(expected(picture(1)))
    got = footage.read([1])[0].permute(1, 2, 0).numpy().astype(int)
    assert got.shape == wanted.shape and footage.size == wanted.shape[:2]
    assert np.abs(got - wanted).mean() < 6
    assert FilmFrames(tmp_path).size(Video("turned", ("0",))) == footage.size


@pytest.mark.parametrize("orientation", sorted(EXIF))
def test_photos_lie_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    note = Image.Exif()
    note[0x0112] = orientation
    Image.fromarray(picture(3)).save(tmp_path / "photo.jpg", exif=note, quality=95)
    with Image.open(tmp_path / "photo.jpg") as photo:
        expected = np.asarray(ImageOps.exif_transpose(photo).convert("RGB"))
        stored = np.asarray(photo.convert("RGB"))
    (mine,) = open_footage(tmp_path / "photo.jpg")
    assert mine.size == expected.shape[:2]
    assert np.abs(mine.read([0])[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2
    (masked,) = open_footage(tmp_path / "photo.jpg", upright=False)  # masks lie on the stored pixels
    assert masked.size == stored.shape[:2]
    plain = torch.from_numpy(stored.copy()).permute(2, 0, 1)
    assert torch.equal(turned(turned(plain, EXIF[3]), EXIF[3]), plain)


def _read_in_child(film: Film, queue: "multiprocessing.Queue") -> None:
    queue.put(numbers(torch.stack(list(film.read([1, 2]).values()))))


def test_no_decoder_is_inherited(tmp_path: Path) -> None:
    """A forked process opens the film anew; a decoder's threads do not live on in it, so using them would hang."""
    film = Film(str(write_film(tmp_path / "film.mp4", range(6), bf=2)))
    film.read([0])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(film, queue), daemon=True)
    child.start()
    assert queue.get(timeout=30) == [1, 2]
    child.join(30)
    assert child.exitcode == 0


def _collect_in_child(queue: "multiprocessing.Queue") -> None:
    gc.collect()
    queue.put("collected")


def test_decoders_left_to_the_collector_are_left_to_the_parents(tmp_path: Path) -> None:
    """Freeing one in a forked process would wait for its threads, which are in the parent."""
    path = str(write_film(tmp_path / "film.mp4", range(6), bf=2))
    gc.disable()
    try:
        for _ in range(3):
            Film(path).read([0])
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_collect_in_child, args=(queue,), daemon=True)
        child.start()
    finally:
        gc.enable()
    try:
        assert queue.get(timeout=30) == "collected"
    finally:
        child.kill()
    assert gc.get_freeze_count() == 0
