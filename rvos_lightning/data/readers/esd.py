"""ESD, event-based segmentation: RGB frames of moving desks, one mask colour an object."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.limits import open_picture
from rvos_lightning.data.problems import Problem, Refused, blocks_of, refuse_if
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.file_reader import FileReader, misfit
from rvos_lightning.data.readers.layout import frame_problems, missing
from rvos_lightning.data.sources.file_tree import FileTree, Folder, open_tree
from rvos_lightning.data.sources.image_files import ImageFrames, Size, decode_rgb
from rvos_lightning.data.sources.png_masks import IdMaps
from rvos_lightning.data.sources.table_file import cache_path, write_whole
from rvos_lightning.metrics.layouts import LAYOUTS
from rvos_lightning.metrics.objects import SAV

Split = Literal["train", "test"]

FOLDERS = {"train": ("ESD-1", "ESD1", "train"), "test": ("ESD-2", "ESD2", "test")}
NUMBER = re.compile(r"(\d+)\D*$")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


class ESDReader(FileReader):
    """`<root>/ESD-1/<condition>/RGB/{images,masks}`; ESD-2 is the test set with unknown objects.

    A colour means the same object in all frames of a sequence, so objects are numbered over the whole sequence.
    A mask belongs to the image with the same last number in its name.
    """

    protocol, layout, licence = SAV, LAYOUTS["sav"], "ESD: terms not stated by its authors"

    def __init__(self, root: Path | str, split: str, cache: Path | None = None) -> None:
        """Finds sequences; the first time reads all masks for their colours."""
        root = Path(root)
        found = (open_tree(root, name) for name in FOLDERS[split])
        tree = next((each for each in found if each is not None), None) or Folder(root)
        top, places = tree.place, sorted(_sequences(tree))
        if not places:
            raise Refused([missing(top / "<condition>" / "RGB" / "images", f"the sequences of split {split}", split)])
        videos, items, refused = [], [], []
        mask_names: dict[str, list[str | None]] = {}
        for index, name in enumerate(places):
            images, masks = _numbered(tree, f"{name}/images"), _numbered(tree, f"{name}/masks")
            alone = sorted(masks.keys() - images.keys())
            if alone:
                what = f"{len(alone)} masks without an image, the first: {masks[alone[0]]}"
                refused.append(Problem(f"{top}/{name}", what, "Unpack the images again.", blocks_of(split)))
            stems = [f"{n:06d}" for n in sorted(images)]
            refused += frame_problems(f"{name}/images", stems, [], split, str(top))
            videos.append(Video(f"{name}/images", tuple(Path(images[n]).stem for n in sorted(images))))
            mask_names[videos[-1].id] = [masks.get(number) for number in sorted(images)]
            colours = _colours(tree, f"{name}/masks", [masks[n] for n in sorted(masks)], cache)
            for position, colour in enumerate(colours, 1):
                items.append(Item(index, str(position), None, (colour,), (), Facts(position)))
        refuse_if(refused)
        suffix = Path(tree.names(videos[0].id)[0]).suffix
        super().__init__("esd", split, videos, items, ImageFrames(tree, suffix), ColourMasks(tree, mask_names), [])


class ColourMasks(IdMaps):
    """Colour pictures beside the images; an item's objects are colours, red in the highest byte."""

    def __init__(self, tree: FileTree, names: Mapping[str, Sequence[str | None]]) -> None:
        """`names`: mask file of every frame by video; None where a frame has none."""
        super().__init__(tree, "present")
        own = {video: np.array([(name or "").encode() for name in files], np.bytes_) for video, files in names.items()}
        self.names = own

    def ids(self, video: Video, position: int, size: Size) -> Int32[np.ndarray, "height width"] | None:
        """See `IdMaps.ids`."""
        file, folder = self.names[video.id][position].decode(), video.id.removesuffix("images") + "masks"
        if not file:
            return None
        place = f"{self.tree.place}/{folder}/{file}"
        colours = colour_map(self.tree.read(f"{folder}/{file}"), place)
        if colours.shape != tuple(size):
            raise DataError(misfit(place, colours.shape, size))
        return colours

    def counted(self, video: Video) -> int | None:
        """See `MaskSource.counted`."""
        return len(_numbered(self.tree, video.id.removesuffix("images") + "masks"))


def colour_map(data: bytes, place: str) -> Int32[np.ndarray, "height width"]:
    """Each pixel's colour as one number, red in the highest of three bytes; black, the background, is 0.

    Raises:
        DataError: unreadable, or stored in a way that changes colours.
    """
    with open_picture(data, place) as image:
        if image.format == "JPEG" or image.mode.startswith("I"):
            how = "a JPEG" if image.format == "JPEG" else "a 16-bit picture"
            raise DataError(f"{place}: {how}, which changes the colours that tell objects apart. Get the original PNG.")
    red, green, blue = decode_rgb(data, place).numpy().astype(np.int32)
    return (red << 16) | (green << 8) | blue


def _sequences(tree: FileTree, folder: str = "") -> Iterator[str]:
    """Folders called RGB that hold images and masks, packed ones included."""
    inside = f"{folder}/" if folder else ""
    names = tree.names(folder)
    for name in ["RGB"] if "RGB" in names else names:
        if name == "RGB" and {"images", "masks"} <= set(tree.names(f"{inside}RGB")):
            yield f"{inside}RGB"
        elif name != "RGB":
            yield from _sequences(tree, f"{inside}{name}")


def _numbered(tree: FileTree, folder: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in tree.names(folder):
        match = NUMBER.search(Path(name).stem)
        if not name.lower().endswith(PICTURES) or match is None:
            continue
        if int(match[1]) in found:
            raise DataError(f"{tree.place}/{folder}: {found[int(match[1])]} and {name} have the same number.")
        found[int(match[1])] = name
    return found


def _colours(tree: FileTree, folder: str, names: list[str], cache: Path | None) -> list[int]:
    path = cache_path([tree.source(folder)], ".colours.npy", cache, tag=folder.replace("/", "_"))
    if path.is_file():
        return np.load(path, allow_pickle=False).tolist()
    found: set[int] = set()
    for name in names:
        found.update(np.unique(colour_map(tree.read(f"{folder}/{name}"), f"{tree.place}/{folder}/{name}")).tolist())
    colours = sorted(found - {0})
    write_whole(path, lambda file: np.save(file, np.array(colours, np.int32)))
    return colours


class ESD(DiskData):
    """ESD.

    Args:
        root: folder that holds ESD-1 and ESD-2.
        train_split: "train" (ESD-1), "test" (ESD-2), or None for none (likewise below).
        val_split: likewise.
        test_split: likewise.
        predict_split: likewise.
        cache: where the colours of sequences are kept; None: beside the masks.
        kwargs: see `VideoData`.
    """

    opens = ESDReader

    def __init__(
        self,
        root: Path | str,
        train_split: Split | None = "train",
        val_split: Split | None = "test",
        test_split: Split | None = "test",
        predict_split: Split | None = "test",
        cache: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, (train_split, val_split, test_split, predict_split), {"cache": cache}, **kwargs)
