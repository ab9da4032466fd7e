"""The five abstract modules a network is composed of.

Abstract classes, not protocols: the command line then refuses a part of the wrong kind by name. A part, or a data
module, that stands on other people's code, weights or data names their terms in a class attribute `licence`, which the
start table shows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import Self

from rvos_lightning.core.types import Candidates, Clip, Features, Prediction, Prompt, State

Pyramid = tuple[Float[Tensor, "_images _c _h _w"], ...]
"""Feature maps of one image batch, fine to coarse; levels of stages before a hook that adds images hold fewer."""

StageHook = Callable[[int, Float[Tensor, "images c h w"]], Float[Tensor, "_images c h w"]]
"""Called after encoder stage i with its output; what it returns goes on to the next stage and to the neck. It may
return more images than it got, e.g. one per expression where there was one per video."""

Choose = Callable[[Candidates], Int[Tensor, "layers batch"]]
"""Answers a network's candidates with the query that it should refine for each item, at each decoder layer."""


@dataclass
class Decoded:
    """One frame's decoder output, for every item of the batch.

    Attributes:
        mask_logits: the chosen mask, at the decoder's own resolution.
        presence_logits: is the object there; None where the decoder does not say.
        iou: estimated IoU of the chosen mask.
        token: the decoder's token of the chosen mask, from which object pointers are made.
    """

    mask_logits: Float[Tensor, "batch h w"]
    presence_logits: Float[Tensor, "batch"] | None = None
    iou: Float[Tensor, "batch"] | None = None
    token: Float[Tensor, "batch dim"] | None = None


class Network(nn.Module, ABC):
    """Anything `RVOSModule` can train: a clip in, a prediction out, targets never seen.

    Attributes:
        says_presence: predictions have `presence_logits`.
        oracle: what it is told of the answer, which no user knows; every report says so, and prediction refuses.
    """

    says_presence: bool = True
    oracle = ""

    @abstractmethod
    def forward(self, clip: Clip, state: State | None = None) -> Prediction:
        """Segment every item of the clip; `state` is the previous window's of the same video."""


class ChoosingNetwork(Network):
    """A network that refines only some of its candidates: in training those that match the targets best.

    It never sees the targets: inside `forward` it shows its candidates to `choose` and gets indices back. So all its
    parameters are used within one call, as sharded strategies need, and nothing is refined in vain.
    """

    @abstractmethod
    def forward(self, clip: Clip, state: State | None = None, choose: Choose | None = None) -> Prediction:
        """Segment every item; without `choose` (in evaluation) the network chooses by its own scores."""


class ImageEncoder(nn.Module, ABC):
    """The half of a segmenter that looks at pictures.

    Attributes:
        channels: channels of each pyramid level `encode` returns, fine to coarse.
        stage_channels: channels of each encoder stage that `after_stage` is called with.
        stage_sides: side in cells of each of these stages' maps; None where it follows the frames' size.
        stride: pixels of a prepared picture per cell of the coarsest level that `decode` reads.
        pixel_mean: colour that becomes 0 after `prepare`; what padding should hold.
    """

    channels: tuple[int, ...]
    stage_channels: tuple[int, ...]
    stage_sides: tuple[int, ...] | None = None
    stride: int
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @abstractmethod
    def prepare(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images 3 _h _w"]:
        """RGB in [0, 1] as the encoder sees it: resized or padded, and normalised."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "images 3 height width"], after_stage: StageHook | None = None) -> Pyramid:
        """Prepare and encode RGB in [0, 1]; language and time may be mixed in after any stage."""


class MaskDecoder(nn.Module, ABC):
    """The half of a segmenter that answers a prompt with a mask.

    Attributes:
        prompt_dim: width of prompt tokens.
        says_presence: `decode` says whether the object is there.
    """

    prompt_dim: int
    says_presence: bool = True

    @abstractmethod
    def decode(
        self,
        features: Pyramid,
        tokens: Float[Tensor, "batch tokens dim"],
        dense: Float[Tensor, "batch dim h w"] | None = None,
    ) -> Decoded:
        """Decode one frame's features, one row an item, under that item's prompt."""


class Segmenter(ImageEncoder, MaskDecoder):
    """SAM, SAM 2 and variants: an image encoder and the mask decoder that reads its features."""

    def no_memory(self, pixels: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Coarsest features of a frame that looks at no memory: as they are, where a segmenter knows of no memory."""
        return pixels

    def cover(
        self, mask_logits: Float[Tensor, "batch h w"], frame_size: tuple[int, int]
    ) -> Float[Tensor, "batch _h _w"]:
        """Decoder logits made to cover a frame of that (height, width): as they are, where frames are squashed."""
        return mask_logits


class VideoSegmenter(Segmenter):
    """A segmenter with a video memory of its own, as SAM 2 has: what a frame loop needs of it.

    Attributes:
        memory_width: channels of a spatial memory.
    """

    memory_width: int

    @abstractmethod
    def attend(
        self,
        pixels: Float[Tensor, "batch dim h w"],
        memories: Sequence[Float[Tensor, "batch width h w"]],
        slots: Sequence[int],
        pointers: Sequence[Float[Tensor, "batch dim"]],
        distances: Sequence[int],
    ) -> Float[Tensor, "batch dim h w"]:
        """Coarsest features after looking at memories (each with its time slot) and pointers (so many frames ago)."""

    @abstractmethod
    def remember(
        self,
        pixels: Float[Tensor, "batch dim h w"],
        full: Float[Tensor, "batch side side"],
        presence_logits: Float[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch width h w"]:
        """Spatial memory of a frame from its raw coarsest features and full-resolution mask logits."""

    @abstractmethod
    def pointer(self, decoded: Decoded) -> Float[Tensor, "batch dim"]:
        """Object pointer of a decoded mask."""

    @abstractmethod
    def upscale(self, mask_logits: Float[Tensor, "batch h w"]) -> Float[Tensor, "batch side side"]:
        """Decoder logits at full resolution."""

    @abstractmethod
    def on_frame(
        self, full: Float[Tensor, "batch side side"], frame_size: tuple[int, int]
    ) -> Float[Tensor, "batch _h _w"]:
        """The part of full-resolution logits that covers a frame of that (height, width)."""

    def cover(
        self, mask_logits: Float[Tensor, "batch h w"], frame_size: tuple[int, int]
    ) -> Float[Tensor, "batch _h _w"]:
        """See `Segmenter`."""
        return self.on_frame(self.upscale(mask_logits), frame_size)


class Part(nn.Module, ABC):
    """A neighbour of the segmenter: it may leave widths open (None) that the segmenter knows.

    Attributes:
        needs: the capability it needs of the segmenter.
    """

    needs: type[Segmenter] = Segmenter  # type: ignore[type-abstract]

    def fit_to(self, segmenter: Segmenter, adapter: "Adapter | None" = None) -> Self:
        """Build the layers whose widths the segmenter decides, and return the part; refuse what cannot fit.

        The network's constructor calls this once, adapter first: all parameters exist before anything sees them.

        Args:
            segmenter: asked for widths.
            adapter: the network's, already fitted; None for an adapter.

        Raises:
            ValueError: names both sides and the flag.
        """
        if not isinstance(segmenter, self.needs):
            raise ValueError(
                f"{type(self).__name__} needs a {self.needs.__name__}, which {type(segmenter).__name__} is not "
                f"({str(self.needs.__doc__).splitlines()[0].rstrip('.')}): change model.network.segmenter or this part"
            )
        return self


class Adapter(Part):
    """How language and time enter the features.

    Attributes:
        text_dim: width of `Features.sentence`, known once fitted; None where no sentence is read.
        looks_back: how many frames before the window it reads (they come as `Clip.past`).
    """

    text_dim: int | None = None
    looks_back: int = 0

    @abstractmethod
    def forward(self, clip: Clip, segmenter: Segmenter) -> Features:
        """Encode the clip with the segmenter's encoder; features come out per item."""


class Prompter(Part):
    """How an expression becomes a prompt.

    Attributes:
        once_per_video: asked in the first window only, looking at `clip.context`; the prompt is then reused.
    """

    once_per_video = False

    @abstractmethod
    def forward(self, clip: Clip, features: Features) -> Prompt:
        """The prompt of every item and frame, in the segmenter's prompt space."""


class Memory(Part):
    """How masks travel in time; owns the frame loop and is where training and inference may differ."""

    @abstractmethod
    def forward(
        self, features: Features, prompt: Prompt, segmenter: Segmenter, state: State | None, clip: Clip
    ) -> Prediction:
        """Segment the window's frames in order, going on from `state`."""


Width = TypeVar("Width", int, tuple[int, ...])


def agreed(flag: str, given: Width | Sequence[int] | None, found: Width | None, owner: nn.Module | None) -> Width:
    """A width that a neighbour knows: `found`, unless another one was `given`.

    Args:
        flag: the argument's name below `model.network`, e.g. `prompter.prompt_dim`.
        given: what the user wrote; None asks the neighbour.
        found: the neighbour's.
        owner: the neighbour.

    Raises:
        ValueError: the two differ, or the neighbour does not know.
    """
    wanted = tuple(given) if isinstance(given, Sequence) else given
    name = "no neighbour" if owner is None else type(owner).__name__
    if found is None:
        if wanted is None:
            raise ValueError(f"--model.network.{flag} is null, and {name} does not know it: give a number")
        return wanted  # type: ignore[return-value]
    if wanted not in (None, found):
        raise ValueError(
            f"--model.network.{flag} is {wanted}, {name} has {found}: leave it out (null asks {name}) or change either"
        )
    return found
