"""Somebody's own pictures: a video file, a folder or glob of frames, or one image, with sentences or prompts."""

import glob
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.core.types import Facts
from rvos_lightning.data.clips.given_prompts import GivenPrompts
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.sources.film import Film, film_size, open_film
from rvos_lightning.data.sources.frame_names import FILMS, lost_between, natural
from rvos_lightning.data.sources.image_files import decode_rgb
from rvos_lightning.data.sources.upright import of_photo, turned
from rvos_lightning.data.video_data import Split, VideoData

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
NOT_READ = {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".exr", ".dng"}
VIDEOS = set(FILMS)


SUFFIXES = (*IMAGES, ".tif", ".tiff")
"""What a frame's name may end in that is no part of it."""


class Footage(ABC):
    """Frames of one video in order.

    Attributes:
        id: file or folder name without suffix.
        frames: frame names.
        size: (height, width) in pixels.
        rate: frames a second; None for still images.
    """

    id: str
    frames: tuple[str, ...]
    size: tuple[int, int]
    rate: float | None = None

    @abstractmethod
    def read(self, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """RGB frames at positions."""


class ImageFootage(Footage):
    """Image files as frames, in natural order of their names ("2.jpg" before "10.jpg").

    Args:
        paths: the files.
        id: name of the video they make up.
        upright: turn photos as their EXIF note asks, as viewers do; off where masks lie on the stored pixels.

    Raises:
        DataError: a file is unreadable or of another size than the first; names it.
    """

    def __init__(self, paths: Sequence[Path], id: str, upright: bool = True) -> None:
        self.paths = sorted(paths, key=_natural)
        self.upright = upright
        self.id = id
        stems = [path.stem for path in self.paths]
        self.frames = tuple(stems if len(set(stems)) == len(stems) else (path.name for path in self.paths))
        if gone := lost_between(stems):
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            where = self.paths[0].parent
            warnings.warn(f"{where}: frame {gone[0]}{more} missing between its neighbours; read without", stacklevel=2)
        self.size = tuple(self._decoded(self.paths[0]).shape[1:])

    def read(self, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `Footage.read`."""
        return torch.stack([self._one(self.paths[p]) for p in positions])

    def _decoded(self, path: Path) -> UInt8[Tensor, "3 height width"]:
        data = _bytes(path)
        picture = decode_rgb(data, str(path))
        return turned(picture, of_photo(data)) if self.upright else picture

    def _one(self, path: Path) -> UInt8[Tensor, "3 height width"]:
        frame = self._decoded(path)
        if tuple(frame.shape[1:]) != self.size:
            raise DataError(
                f"{path}: {frame.shape[2]}x{frame.shape[1]} pixels, but {self.paths[0].name} has "
                f"{self.size[1]}x{self.size[0]}: frames of one video must be of one size; resize or move it away"
            )
        return frame


class VideoFootage(Footage):
    """A video file, decoded on the way: reading window after window decodes every frame once.

    Args:
        path: the file.

    Raises:
        DataError: missing or unreadable; names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.id = path, path.stem
        self.film = Film(str(path))
        self.frames = tuple(f"{i:05d}" for i in range(len(self.film)))
        with open_film(str(path)) as container:
            rate = container.streams.video[0].average_rate
            self.rate = None if rate is None else float(rate)
        self.size = film_size(str(path))

    def read(self, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `Footage.read`."""
        found = self.film.read(positions)
        odd = next((number for number, frame in found.items() if tuple(frame.shape[1:]) != self.size), None)
        if odd is not None:
            height, width = found[odd].shape[1:]
            raise DataError(
                f"{self.path}: frame {odd} has {width}x{height} pixels, the first {self.size[1]}x{self.size[0]}: "
                f"the size changes. Give it one: ffmpeg -i IN -vf scale={self.size[1]}:{self.size[0]} OUT.mp4"
            )
        return torch.stack([found[p] for p in positions])


def _natural(path: Path) -> list[int | str]:
    return natural(path.name)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from error


def open_footage(path: str | Path, upright: bool = True) -> list[Footage]:
    """What a path means: a video, an image, a folder of frames or of videos, or a glob of either.

    Args:
        path: what somebody typed.
        upright: see `ImageFootage`.

    Raises:
        DataError: nothing there, or nothing readable in it; names the path.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _collection(sorted(path.iterdir(), key=_natural), path.name, str(path), upright)
    if path.is_file():
        if path.suffix.lower() in IMAGES:
            return [ImageFootage([path], path.stem, upright)]
        return [VideoFootage(path)]
    found = [Path(name) for name in glob.glob(str(path))]
    if not found:
        what = "no file matches" if glob.has_magic(str(path)) else "no such file or folder"
        raise DataError(f"{path}: {what} (data.path may be a video, an image, a folder of frames, or a quoted glob)")
    return _collection(sorted(found, key=_natural), found[0].parent.resolve().name, str(path), upright)


def _collection(paths: Sequence[Path], id: str, place: str, upright: bool) -> list[Footage]:
    paths = [path for path in paths if not path.name.startswith("._")]  # left beside files by macOS
    images = [path for path in paths if path.suffix.lower() in IMAGES]
    videos = [path for path in paths if path.suffix.lower() in VIDEOS]
    if strange := next((path for path in paths if path.suffix.lower() in NOT_READ), None):
        raise DataError(f"{strange}: pictures of this kind are not read; save it as PNG or JPEG, or move it away")
    if images and videos:
        raise DataError(
            f"{place}: {len(images)} pictures and {len(videos)} films in one place, e.g. {images[0].name} and "
            f"{videos[0].name}: name one kind by a quoted glob, such as '*{videos[0].suffix}'"
        )
    if images:
        return [ImageFootage(images, id, upright)]
    if not videos:
        inside = next((path for path in paths if path.is_dir()), None)
        hint = "" if inside is None else f"; it holds folders: give one, such as {inside}"
        raise DataError(f"{place}: neither frames ({', '.join(sorted(IMAGES))}) nor videos in it{hint}")
    return [VideoFootage(path) for path in videos]


def file_names(frames: Sequence[str]) -> list[str]:
    """A PNG's name for each frame: without a picture's suffix where the names still differ without it."""
    plain = [name.replace("/", "_") for name in frames]
    short = [name.rpartition(".")[0] if name.lower().endswith(SUFFIXES) else name for name in plain]
    names = short if len(set(short)) == len(short) else plain
    if len(set(names)) < len(names):
        names = [f"{number:05d}_{name}" for number, name in enumerate(names)]
    return [f"{name}.png" for name in names]


def distinct(footage: Sequence[Footage]) -> list[Footage]:
    """The same, named apart: `judo_images` and `bike_images`, `clip_mp4` and `clip_mov`.

    Raises:
        DataError: one file or folder is given twice.
    """
    places = [_place(one).resolve() for one in footage]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise DataError(f"data.path: {twice} is given twice; give each video once")
    homes = [(place.parent, one.id) for place, one in zip(places, footage, strict=True)]
    short = [
        place.name.replace(".", "_") if homes.count(home) > 1 else home[1]
        for place, home in zip(places, homes, strict=True)
    ]
    names, depth = short, [0] * len(short)
    while len(set(names)) < len(names):
        depth = [d + (names.count(name) > 1) for d, name in zip(depth, names, strict=True)]
        names = [_name(one, place, d, n) for n, (one, place, d) in enumerate(zip(short, places, depth, strict=True))]
    for one, name in zip(footage, names, strict=True):
        one.id = name
    return list(footage)


def _place(one: Footage) -> Path:
    """The film, the picture, or the folder of frames."""
    if isinstance(one, ImageFootage):
        return one.paths[0] if len(one.paths) == 1 else one.paths[0].parent
    return one.path  # type: ignore[attr-defined]


def _name(name: str, place: Path, depth: int, number: int) -> str:
    """A video's name after so many of the folders above it, and its number where not even all of them tell."""
    above = place.parent.parts[1:]
    shown = above[max(0, len(above) - depth) :]
    return "_".join([*shown, name, *([str(number)] if depth > len(above) else [])])


class FootageReader(Reader):
    """Every sentence for every video, or what a user points at; truth unknown."""

    name, split = "video_files", "predict"

    def __init__(
        self, footage: Sequence[Footage], expressions: Sequence[str], given: GivenPrompts | None = None
    ) -> None:
        self.footage, self.given = list(footage), given
        self.videos = [Video(one.id, one.frames, one.size) for one in footage]
        said: list[tuple[str, str | None]] = [(str(number), text) for number, text in enumerate(expressions)]
        self.items = [
            Item(v, name, text, None, (), Facts(fps=one.rate))
            for v, one in enumerate(footage)
            for name, text in (said if given is None else [(name, None) for name in given.objects(one.id)])
        ]

    def described(self, video: int) -> dict[str, Any]:
        """Where a video comes from, and what was pointed at in it."""
        place = _place(self.footage[video])
        prompts = [] if self.given is None else [dict(entry) for _, entry in self.given.of(self.videos[video].id)]
        return {"source": str(place), "modified": place.stat().st_mtime_ns, "prompts": prompts}

    def read_frames(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `Reader.read_frames`."""
        return self.footage[video].read(positions)

    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]] | None:
        """Nobody knows."""
        return None


class VideoFiles(VideoData):
    """Your own pictures, for `predict`; decoded on the way, so that length costs no memory.

    Args:
        path: a video, an image, a folder of frames (or of videos), a quoted glob; or several of these.
        expressions: what to look for, in words; each is looked for in every video.
        prompts: instead of words clicks, boxes or masks, for promptable systems: a JSON file or its content, see
            `GivenPrompts`.
        kwargs: see `VideoData`; `size` should be the size the network was trained at.
    """

    def __init__(
        self,
        path: str | list[str],
        expressions: list[str] | str | None = None,
        prompts: str | list[dict] | None = None,  # no kinds inside: the parser would make the name "01" the number 1
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.paths = [path] if isinstance(path, str) else list(path)
        self.expressions = [expressions] if isinstance(expressions, str) else expressions or []
        self.prompts = prompts

    def check(self) -> None:
        """Also refuses missing videos and missing and empty expressions."""
        super().check()
        if not self.paths:
            raise DataError("data.path is empty: give a video, an image, or a folder of frames")
        if self.prompts is not None:
            if self.expressions:
                raise DataError("data.expressions and data.prompts are both given: look for words or point, not both")
            return
        if not self.expressions or not all(text.strip() for text in self.expressions):
            what = "one is empty" if self.expressions else "none given"
            raise DataError(f"data.expressions: {what}; say what to look for, e.g. '[\"the dog that jumps\"]'")

    def reader(self, split: Split) -> FootageReader | None:
        """Prediction only."""
        if split != "predict":
            return None
        footage = distinct([one for path in self.paths for one in open_footage(path)])
        given = None
        if self.prompts is not None:
            given = self.simulate_user = GivenPrompts(self.prompts)
            given.check({one.id: (len(one.frames), one.size) for one in footage})
        return FootageReader(footage, self.expressions, given)
