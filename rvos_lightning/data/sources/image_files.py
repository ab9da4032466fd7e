"""Frames as JPEG or PNG files, and masks as palette or grey PNG files, in a folder or a zip."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from rvos_lightning.data.limits import no_picture, open_picture
from rvos_lightning.data.reader import DataError, Video
from rvos_lightning.data.sources.file_tree import FileTree

SCALED = {b"\x02": 85, b"\x04": 17}  # by bit depth, byte 24 of a PNG
MOST_GREYS = 64  # more different values in one grey mask are no objects
TORCHVISION_RGB = 3  # torchvision.io.ImageReadMode.RGB
Size = tuple[int, int]

if TYPE_CHECKING:
    from PIL import Image


def decode_rgb(data: bytes, place: str) -> UInt8[Tensor, "3 height width"]:
    """RGB of a JPEG or PNG file, in the file's own orientation (masks are drawn on it), grey repeated thrice.

    Torchvision and OpenCV decode to equal pixels. The first is faster because it needs no reordering of axes; the
    second takes over what it refuses, or where it is gone (its removal has been announced; its Python function
    already warns at every call, so the operator beneath is called).

    Raises:
        DataError: not a readable image; names the place.
    """
    with open_picture(data, place):  # the header says how much memory the picture will take
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if data[:2] == b"\xff\xd8":
        try:
            import torchvision  # noqa: F401  registers the operator

            return torch.ops.image.decode_jpeg(buffer, TORCHVISION_RGB, False)
        except (ImportError, AttributeError, RuntimeError):
            pass
    import cv2

    try:
        picture = cv2.imdecode(buffer.numpy(), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        picture = None
    if picture is None:
        raise DataError(f"{place}: {no_picture(data, None)}")
    return torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).contiguous()


def decode_ids(data: bytes, place: str) -> UInt8[np.ndarray, "height width"]:
    """Object numbers of a palette or grey PNG: the stored values, never the colours.

    Raises:
        DataError: unreadable, no PNG, or one whose values are no object numbers (colours, soft edges, above 255).
    """
    with open_picture(data, place) as image:
        if image.format != "PNG" or image.mode not in ("P", "L", "1", "I;16", "I"):
            raise DataError(f"{place}: {_no_numbers(image)}")
        ids = np.asarray(image)
        if image.mode == "L" and data[24:25] in SCALED:  # Pillow spreads 2 and 4 bits over 0 to 255
            ids = ids // SCALED[data[24:25]]
        if image.mode.startswith("I") and ids.max(initial=0) > 255:
            raise DataError(
                f"{place}: 16-bit values up to {int(ids.max())}; object numbers end at 255. Save it with 8 bits."
            )
        greys = np.count_nonzero(np.bincount(ids.ravel())) if image.mode == "L" else 0
        if greys > MOST_GREYS:
            raise DataError(
                f"{place}: {greys} different grey values, {int(ids.min())} to {int(ids.max())}: soft edges or a "
                "photograph, not object numbers. Threshold it, and save 0 and the object's number."
            )
        return ids.astype(np.uint8, copy=False)


def _no_numbers(image: "Image.Image") -> str:
    """Why an image holds no object numbers."""
    if image.format != "PNG":
        return f"a {image.format} file; a mask must be a PNG, as its values are object numbers. Save it as PNG."
    colours = image.convert("RGB").getcolors(64) or []
    named = ", ".join(str(colour) for _, colour in sorted(colours, reverse=True)[:4]) or "more than 64"
    return (
        "a mask must be a palette or grey PNG whose values are object numbers; this one has mode "
        f"{image.mode} with the colours {named}. Give each colour a number (0 background), or take the original file."
    )


def image_size(data: bytes, place: str) -> Size:
    """(height, width) from an image file's header."""
    with open_picture(data, place) as image:
        return image.height, image.width


class FrameSource(ABC):
    """Where frames come from: image files, or a video file."""

    @abstractmethod
    def read(self, video: Video, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """Frames at distinct ascending positions."""

    @abstractmethod
    def size(self, video: Video) -> Size:
        """(height, width) of a video, as its first frame says."""

    @abstractmethod
    def missing(self, video: Video) -> list[str]:
        """Files that frames of a video should be in and that do not exist."""

    @abstractmethod
    def check(self, video: Video, position: int, fast: bool) -> Size:
        """The size of one frame, from its header if `fast`, else after decoding it; DataError if unreadable."""


class ImageFrames(FrameSource):
    """One image file a frame: `<video>/<frame><suffix>`, or `<frame><suffix>` for still images."""

    def __init__(self, tree: FileTree, suffix: str = ".jpg", still: bool = False) -> None:
        """Files of `tree`; `still`: a video is one picture, its frame's name is the file's."""
        self.tree, self.suffix, self.still = tree, suffix, still

    def file(self, video: Video, position: int) -> str:
        """File name, below the tree, of a frame."""
        frame = video.frames[position]
        return f"{frame}{self.suffix}" if self.still else f"{video.id}/{frame}{self.suffix}"

    def read(self, video: Video, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """See `FrameSource.read`."""
        frames: UInt8[Tensor, "time 3 height width"] | None = None
        for index, position in enumerate(positions):
            name = self.file(video, position)
            frame = decode_rgb(self.tree.read(name), f"{self.tree.place}/{name}")
            if len(positions) == 1:
                return frame[None]
            if frames is None:
                frames = frame.new_empty((len(positions), *frame.shape))
            if frame.shape != frames.shape[1:]:
                raise DataError(
                    f"{self.tree.place}/{name}: {frame.shape[1]}x{frame.shape[2]} pixels, but another frame of the "
                    f"video has {frames.shape[2]}x{frames.shape[3]}. All frames of a video must have one size."
                )
            frames[index] = frame
        return torch.empty(0, 3, *self.size(video), dtype=torch.uint8) if frames is None else frames

    def size(self, video: Video) -> Size:
        """See `FrameSource.size`."""
        return self.check(video, 0, fast=True)

    def missing(self, video: Video) -> list[str]:
        """See `FrameSource.missing`."""
        if self.still:
            return [] if self.tree.exists(self.file(video, 0)) else [self.file(video, 0)]
        there = set(self.tree.names(video.id))
        return [f"{video.id}/{f}{self.suffix}" for f in video.frames if f + self.suffix not in there]

    def check(self, video: Video, position: int, fast: bool) -> Size:
        """See `FrameSource.check`."""
        name = self.file(video, position)
        data, place = self.tree.read(name), f"{self.tree.place}/{name}"
        if fast:
            return image_size(data, place)
        with open_picture(data, place) as image:  # PIL notices a file that is cut; the fast decoders fill with grey
            image.load()
            return image.height, image.width
