"""Frames as JPEG or PNG files, and masks as palette or grey PNG files, in a folder or a zip."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from rvos_lightning.data.limits import no_picture, open_picture
from rvos_lightning.data.reader import DataError, Video
from rvos_lightning.data.sources.file_tree import FileTree
from rvos_lightning.data.sources.mask_pictures import Size as Size
from rvos_lightning.data.sources.mask_pictures import decode_ids as decode_ids
from rvos_lightning.data.sources.mask_pictures import image_size

TORCHVISION_RGB = 3  # torchvision.io.ImageReadMode.RGB


def decode_rgb(data: bytes, place: str) -> UInt8[Tensor, "3 height width"]:
    """RGB of a JPEG or PNG file, in the file's own orientation (masks are drawn on it), grey repeated thrice.

    Torchvision and OpenCV decode to equal pixels. The first is faster because it needs no reordering of axes; the
    second takes over what it refuses, or where it is gone (its removal has been announced; its Python function
    already warns at every call, so the operator beneath is called).

    Raises:
        DataError: not a readable image, or several in one file; names the place.
    """
    with open_picture(data, place) as image:  # the header says how much memory the picture will take
        if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
            what = f"an animation of {image.n_frames} pictures, where one is a frame"
            raise DataError(f"{place}: {what}. Save them one by one, or as a film (.gif, .mp4).")
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
    return torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)


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
                shape = (len(positions), *frame.shape)
                # as decoders write them, and as they are copied and resized in a third of the time
                frames = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
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
