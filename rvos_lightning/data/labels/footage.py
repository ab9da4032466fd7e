"""Where the frames of an annotated video lie: a folder of pictures, or a film."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rvos_lightning.data.errors import DataError
from rvos_lightning.data.labels.video import FILMS, PICTURES
from rvos_lightning.data.limits import open_picture, within
from rvos_lightning.data.readers.annotation_files import safe_path
from rvos_lightning.data.sources.file_tree import left_by_desktops
from rvos_lightning.data.sources.frame_names import natural
from rvos_lightning.data.sources.mask_pictures import Size

GENERIC = {"masks", "mask", "annotations", "annotation", "labels", "label", "gt", "images", "image", "imgs", "frames",
           "jpegimages", "video", "videos", "json", "data"}  # fmt: skip
"""Names of folders and files that say what is in them, but not of what video."""


class Footage(NamedTuple):
    """Frames of one video.

    Attributes:
        frames: names; of pictures their stems, of a film five-digit numbers.
        size: (height, width) of the first frame.
        pictures: the files, or
        film: the film.
    """

    frames: tuple[str, ...]
    size: Size
    pictures: tuple[Path, ...] = ()
    film: Path | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the pictures below their video's folder."""
        return tuple(path.name for path in self.pictures)


def find(root: Path, video: str) -> Footage:
    """The frames of a video: `root/<video>` (pictures), `root/<video>.mp4`, or `root` itself where that holds pictures.

    Raises:
        DataError: nothing there, or two things; says what was looked for.
    """
    name = safe_path(video, "the annotation file")
    folder = root / name
    if folder.is_dir() and (paths := pictures_in(folder)):
        return of_pictures(paths)
    films = [
        path for end in FILMS for path in (root / f"{name}{end}", root / f"{Path(name).stem}{end}") if path.is_file()
    ]
    films = sorted(set(films)) or ([root] if root.is_file() and root.name.lower().endswith(FILMS) else [])
    if len(films) == 1:
        return of_film(films[0])
    if not films and root.is_dir() and (paths := pictures_in(root)):
        return of_pictures(paths)
    what = f"both {films[0].name} and {films[1].name}" if films else f"neither {video}/ with pictures nor {video}.mp4"
    raise DataError(f"{root}: {what} for video {video}. Point --frames to the folder that holds its frames.")


def name_of(source: Path, frames: Path) -> str:
    """What to call the one video of a folder of annotations: the first name around it that says something."""
    places = [source.resolve(), frames.resolve()]
    names = [place.stem if place.is_file() else place.name for place in places] + [
        place.parent.name for place in places
    ]
    return next((name for name in names if name and name.lower() not in GENERIC), names[0])


def pictures_in(folder: Path) -> list[Path]:
    """Picture files directly in a folder, in natural order ("2" before "10")."""
    return sorted(
        (path for path in folder.iterdir() if path.name.endswith(PICTURES) and not left_by_desktops(path.name)),
        key=lambda path: natural(path.name),
    )


def of_pictures(paths: Sequence[Path]) -> Footage:
    """Pictures as the frames of one video, in the given order.

    Raises:
        DataError: two of one name, or of different sizes.
    """
    stems = [path.stem for path in paths]
    within("video_frames", len(stems), str(paths[0].parent))
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None) if len(set(stems)) < len(stems) else None:
        raise DataError(f"{paths[0].parent}: two pictures are called {twice}; a frame is one picture.")
    size = picture_size(paths[0])
    for path in paths[1:]:
        if (other := picture_size(path)) != size:
            raise DataError(
                f"{path}: {other[1]}x{other[0]} pixels, but {paths[0].name} has {size[1]}x{size[0]}. "
                "All frames of a video must have one size."
            )
    return Footage(tuple(stems), size, tuple(paths))


def of_film(path: Path) -> Footage:
    """The frames of a film that a player shows."""
    from rvos_lightning.data.sources.film import Film, film_size

    frames = tuple(f"{number:05d}" for number in range(len(Film(str(path), keep=False))))
    return Footage(frames, film_size(str(path)), (), path)


def picture_size(path: Path) -> Size:
    """(height, width) from a picture's header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}). Check the path and its permissions.") from error
    with open_picture(data, str(path)) as image:
        return image.height, image.width


def picture_below(root: Path, name: str, place: str) -> Path:
    """A picture that an annotation file names, below `root`.

    Raises:
        DataError: the name, or a link, leaves `root`, or there is no such file.
    """
    path = root / safe_path(name, place)
    if not path.is_file():
        raise DataError(
            f"{place}: the picture {name!r} is not below {root}. Point --frames to the folder it starts at."
        )
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{place}: the picture {name!r} is a link that leads out of {root}. Copy the file there.")
    return path
