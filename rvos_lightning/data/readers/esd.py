"""ESD, event-based segmentation: RGB frames of moving desks, one mask colour an object."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int32

from rvos_lightning.core.types import Facts
from rvos_lightning.data.disk_data import DiskData
from rvos_lightning.data.problems import Problem, Refused, blocks_of, refuse_if
from rvos_lightning.data.reader import DataError, Item, Video
from rvos_lightning.data.readers.file_reader import FileReader, Masks, MaskSource, misfit
from rvos_lightning.data.readers.layout import frame_problems, missing
from rvos_lightning.data.sources.file_tree import Folder
from rvos_lightning.data.sources.image_files import ImageFrames, Size, decode_rgb
from rvos_lightning.data.sources.rle_store import cache_path
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
        top = next((root / name for name in FOLDERS[split] if (root / name).is_dir()), root)
        places = sorted(
            p.parent for p in top.rglob("images") if p.parent.name == "RGB" and (p.parent / "masks").is_dir()
        )
        if not places:
            raise Refused([missing(top / "<condition>" / "RGB" / "images", f"the sequences of split {split}", split)])
        tree = Folder(top)
        videos, items, mask_names, refused = [], [], [], []
        for index, place in enumerate(places):
            name = place.relative_to(top).as_posix()
            images, masks = _numbered(tree, f"{name}/images"), _numbered(tree, f"{name}/masks")
            alone = sorted(masks.keys() - images.keys())
            if alone:
                what = f"{len(alone)} masks without an image, the first: {masks[alone[0]]}"
                refused.append(Problem(f"{top}/{name}", what, "Unpack the images again.", blocks_of(split)))
            stems = [f"{n:06d}" for n in sorted(images)]
            refused += frame_problems(f"{name}/images", stems, [], split, str(top))
            videos.append(Video(f"{name}/images", tuple(Path(images[n]).stem for n in sorted(images))))
            mask_names.append([masks.get(number) for number in sorted(images)])
            colours = _colours(tree, f"{name}/masks", [masks[n] for n in sorted(masks)], cache)
            for position, colour in enumerate(colours, 1):
                items.append(Item(index, str(position), None, (colour,), (), Facts(position)))
        refuse_if(refused)
        suffix = Path(tree.names(videos[0].id)[0]).suffix
        super().__init__("esd", split, videos, items, ImageFrames(tree, suffix), ColourMasks(tree, mask_names), [])


class ColourMasks(MaskSource):
    """Colour pictures beside the images; an item's objects are colours, red in the highest byte."""

    def __init__(self, tree: Folder, names: Sequence[Sequence[str | None]]) -> None:
        """`names`: mask file of every frame of every video; None where a frame has none."""
        self.tree = tree
        self.ends = np.cumsum([0] + [len(own) for own in names])
        self.names = np.array([(name or "").encode() for own in names for name in own], np.bytes_)

    def read(self, video: Video, item: Item, positions: Sequence[int], size: Size) -> Masks:
        """See `MaskSource.read`."""
        masks = np.zeros((len(positions), *size), bool)
        annotated = np.zeros(len(positions), bool)
        folder = video.id.removesuffix("images") + "masks"
        for index, position in enumerate(positions):
            file = self.names[self.ends[item.video] + position].decode()
            if not file:
                continue
            colours = colour_map(self.tree.read(f"{folder}/{file}"), f"{self.tree.place}/{folder}/{file}")
            if colours.shape != tuple(size):
                raise DataError(misfit(f"{self.tree.place}/{folder}/{file}", colours.shape, size))
            masks[index] = np.isin(colours, np.array(item.objects or (), np.int32))
            annotated[index] = True
        return torch.from_numpy(masks), torch.from_numpy(annotated)


def colour_map(data: bytes, place: str) -> Int32[np.ndarray, "height width"]:
    """Each pixel's colour as one number, red in the highest of three bytes; black, the background, is 0."""
    red, green, blue = decode_rgb(data, place).numpy().astype(np.int32)
    return (red << 16) | (green << 8) | blue


def _numbered(tree: Folder, folder: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for name in tree.names(folder):
        match = NUMBER.search(Path(name).stem)
        if not name.lower().endswith(PICTURES) or match is None:
            continue
        if int(match[1]) in found:
            raise DataError(f"{tree.place}/{folder}: {found[int(match[1])]} and {name} have the same number.")
        found[int(match[1])] = name
    return found


def _colours(tree: Folder, folder: str, names: list[str], cache: Path | None) -> list[int]:
    path = cache_path([tree.place / folder], ".colours.npy", cache, tag=folder.replace("/", "_"))
    if path.is_file():
        return np.load(path, allow_pickle=False).tolist()
    found: set[int] = set()
    for name in names:
        found.update(np.unique(colour_map(tree.read(f"{folder}/{name}"), f"{tree.place}/{folder}/{name}")).tolist())
    colours = sorted(found - {0})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    np.save(partial, np.array(colours, np.int32))
    os.replace(partial, path)
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
        kwargs: see `VideoDataModule`.
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
