"""Masks to PNG files window by window, and to a checked zip."""

import io
import struct
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from rvos_lightning.core.types import ClipMeta
from rvos_lightning.data.limits import limit
from rvos_lightning.data.whole import whole
from rvos_lightning.metrics.layouts import (
    Layout,
    SubmissionError,
    expected_files,
    files_of,
    label_of,
    layout_of,
    voc_palette,
)
from rvos_lightning.metrics.saved_masks import DAMAGE, decode, opened, refuse

HEADER = struct.Struct(">8s4x4sIIBB")  # PNG signature, IHDR, width, height, depth, colour type
GREY, PALETTE = 0, 3
PNG_END = b"IEND\xaeB`\x82"


class MaskFolder:
    """A folder of predicted masks in a server's layout; written in any order, then zipped and checked.

    In merged layouts objects share a picture, and the lowest number keeps a disputed pixel. Files of an earlier run
    are overwritten, never merged into.

    Args:
        root: the folder; the zip goes beside it.
        layout: see `layouts.LAYOUTS`.
        threads: that compress pictures.
    """

    def __init__(self, root: Path, layout: str | Layout, threads: int = 4) -> None:
        self.root, self.layout = Path(root), layout_of(layout)
        self.pool = ThreadPoolExecutor(threads)
        self._merged: set[str] = set()

    def write(self, meta: ClipMeta, masks: Bool[Tensor, "time height width"]) -> None:
        """Write one item's window; see `write_all`."""
        self.write_all([meta], masks[None])

    def write_all(self, metas: Sequence[ClipMeta], masks: Bool[Tensor, "batch time height width"]) -> None:
        """Write a window of several items at original size.

        Raises:
            SubmissionError: masks of another size or number than the meta says.
            WriteError: the disk is full or cannot be written to.
        """
        pictures: dict[str, UInt8[np.ndarray, "height width"]] = {}
        for meta, own in zip(metas, masks.cpu().numpy(), strict=True):
            wanted = (len(meta.frames), *meta.original_size)
            if own.shape != wanted:
                raise SubmissionError(f"{meta.video}/{meta.item}: masks are {own.shape}, the window needs {wanted}")
            for name, mask in zip(files_of(meta, self.layout), own, strict=True):
                if self.layout.merged:
                    pictures[name] = _paint(self._picture(name, pictures, mask.shape), mask, label_of(meta))
                else:
                    pictures[name] = mask.astype(np.uint8) * np.uint8(self.layout.value)
        saved = [self.pool.submit(self._save, *named) for named in pictures.items()]
        wait(saved)  # one that fails must not leave the others writing after the caller was told
        for future in saved:
            future.result()
        if self.layout.merged:
            self._merged.update(pictures)

    def _picture(
        self, name: str, pictures: dict[str, UInt8[np.ndarray, "height width"]], size: tuple[int, ...]
    ) -> UInt8[np.ndarray, "height width"]:
        if name in pictures:
            return pictures[name]
        if name in self._merged:
            return decode((self.root / name).read_bytes(), name)
        return np.zeros(size, np.uint8)

    def _save(self, name: str, picture: UInt8[np.ndarray, "height width"]) -> None:
        with whole(self.root / name) as path:
            path.write_bytes(_encode(picture, self.layout.merged))

    def finish(self, expected: Iterable[ClipMeta]) -> Path:
        """Zip what was written and check it.

        Raises:
            SubmissionError: files are missing or misshapen; lists them. No zip is left behind.
            WriteError: the disk is full.
        """
        expected = list(expected)
        files = expected_files(expected, self.layout)
        refuse(self.root, [f"missing {name}" for name in files if not (self.root / name).is_file()])
        target = self.root.with_name(self.root.name + ".zip")
        for left in self.root.rglob(".*.partial.png"):  # by a kill, for a frame that this run did not write
            left.unlink(missing_ok=True)
        with whole(target) as partial:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted(files):
                    archive.write(self.root / name, name)
            check_zip(partial, expected, self.layout)
        return target


def check_zip(path: Path, expected: Iterable[ClipMeta], layout: Layout | str) -> None:
    """Make sure a zip holds exactly the expected pictures, each readable and of the right size and kind.

    Raises:
        SubmissionError: lists what is missing, superfluous, damaged or misshapen.
    """
    layout = layout_of(layout)
    files = expected_files(expected, layout)
    with opened(path) as archive:
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        missing = [f"missing {name}" for name in files if name not in infos]
        surplus = [f"superfluous {name}{_hint(name, files)}" for name in infos if name not in files]
        both = sorted(files.keys() & infos.keys())
        bad = [fault for name in both for fault in _misshapen(archive, infos[name], files[name], layout)]
    refuse(path, missing, surplus, bad)


def _misshapen(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: tuple[int, int], layout: Layout) -> list[str]:
    """What is wrong with one picture, from its checksum and its header."""
    try:
        whole = archive.read(info) if info.file_size <= limit("zip_member_bytes") else b""
        start = whole[: HEADER.size]
    except DAMAGE as error:
        return [f"damaged {info.filename}: {error}"]
    if len(start) < HEADER.size or start[:4] != b"\x89PNG":
        return [f"no PNG {info.filename}"]
    _, _, width, height, depth, kind = HEADER.unpack(start)
    if not whole.rstrip(b"\0").endswith(PNG_END):
        return [f"damaged {info.filename}: the picture is cut off"]
    wanted = PALETTE if layout.merged else GREY
    wrong = []
    if (depth, kind) != (8, wanted):
        wrong.append(f"{info.filename} is not an 8-bit {'palette' if layout.merged else 'grey'} PNG")
    if size != (0, 0) and (height, width) != size:
        wrong.append(f"{info.filename} is {height}x{width}, the video {size[0]}x{size[1]} (height x width)")
    return wrong


def _hint(name: str, files: dict[str, tuple[int, int]]) -> str:
    """Why a superfluous file may be there: one folder too many or too few above the videos."""
    if name.partition("/")[2] in files:
        return f" (this server wants no {name.split('/')[0]}/ above the videos)"
    above = [other for other in list(files)[:1] if other.endswith(name)]
    return f" (belongs below {above[0].removesuffix(name)})" if above else ""


def _paint(
    picture: UInt8[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"], label: int
) -> UInt8[np.ndarray, "height width"]:
    """The object's number where nobody, or a higher number, was; and nowhere else."""
    return np.where(mask & ((picture == 0) | (picture > label)), np.uint8(label), picture).astype(np.uint8)


def _encode(picture: UInt8[np.ndarray, "height width"], palette: bool) -> bytes:
    """PNG at the fastest compression: writing masks is what a submission waits for."""
    if not palette:
        import cv2

        return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    from PIL import Image

    image = Image.fromarray(picture)
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
