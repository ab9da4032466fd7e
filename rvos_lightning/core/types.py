"""The typed objects that travel between data, networks, objectives and metrics.

Inputs (`Clip`) and targets (`Targets`) are different objects, so a network cannot see its targets.
Axes are always video or batch, time, then the rest. A *video* axis counts distinct videos, a *batch* axis
counts items (an expression or an object of some video); `Clip.video` says which video an item looks at.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from rvos_lightning.core.movable import Device, LazyTensor, Movable


@dataclass(frozen=True)
class Facts:
    """What a data set knows of an item and some protocol or loss asks for; None where it does not say.

    Attributes:
        object: the object's number in the video's id maps; with `annotator` it tells apart who said what of whom.
        annotator: number of the person who wrote the expression (Ref-DAVIS17).
        category: name of the object's category; of several, each name once, joined by ", ".
        seen: whether that category occurs in training (YouTube-VOS: seen or unseen; LV-VIS: base or novel).
        kind: type of expression or sample as the data set calls it ("reasoning", "full_video", "zero", ...).
        frame: position of the frame that the expression was written for, or on which the object is prompted.
        image: the picture's identifier, as the data set's own scorer names it.
        reference: identifier of the referred object that several sentences share (refer API).
        proposal: a mask without an object of its own (DAVIS unsupervised).
        fps: frames a second of the source film.
        spans: first and last position of each stretch in which the object is said to be there (YoURVOS).
        answer: what the item's question is answered with, in words, where the item is a question.
    """

    object: int | None = None
    annotator: int | None = None
    category: str | None = None
    seen: bool | None = None
    kind: str | None = None
    frame: int | None = None
    image: int | str | None = None
    reference: int | None = None
    proposal: bool | None = None
    fps: float | None = None
    spans: tuple[tuple[int, int], ...] | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if self.spans is not None:  # JSON makes lists of tuples
            object.__setattr__(self, "spans", tuple(map(tuple, self.spans)))

    def known(self) -> dict[str, Any]:
        """The facts that are known, by name; `Facts(**facts.known())` is the same again."""
        return {entry.name: value for entry in fields(self) if (value := getattr(self, entry.name)) is not None}


@dataclass(frozen=True)
class ClipMeta:
    """What is known of one item besides pixels.

    Attributes:
        video: identifier of the video.
        item: identifier of the expression or object inside the video.
        frames: frame names (file stems or numbers as text) in clip order; positions in the video if unnamed.
        size: (height, width) in pixels of the picture inside the, possibly padded, `Clip.frames`.
        original_size: (height, width) in pixels of the source video.
        positions: position of each clip frame in the whole video, counted from 0.
        source: name of the data set the item comes from.
        subsets: named subsets the item belongs to, scored apart.
        facts: what protocols ask for besides (annotator, object, category, ...).
        objects: ids of the objects it means; None where hidden.
        no_target: the expression means nothing in this video, and the data set says so; scored apart as "no_target".
    """

    video: str
    item: str
    frames: tuple[str, ...]
    size: tuple[int, int]
    original_size: tuple[int, int]
    positions: tuple[int, ...] = ()
    source: str = ""
    subsets: tuple[str, ...] = ()
    facts: Facts = Facts()
    no_target: bool = False
    objects: tuple[int | str, ...] | None = None


@dataclass(frozen=True)
class UserPrompt(Movable):
    """What a user does on one frame for one item: clicks, a box (labels 2 and 3), or a mask.

    Attributes:
        frame: position of the frame in the video.
        points: x, y in [0, 1] relative to the frame's width and height (of the picture, not of padding).
        labels: 1 positive click, 0 negative click, 2 top-left and 3 bottom-right corner of a box.
        mask: a full mask instead of points.
        alone: the points replace those given before on this frame instead of joining them.
    """

    frame: int
    points: Float[Tensor, "clicks 2"] | None = None
    labels: Int[Tensor, "clicks"] | None = None
    mask: Bool[Tensor, "height width"] | None = None
    alone: bool = False


class User(ABC):
    """Somebody who points at objects and answers a wrong mask; holds targets if simulated, so networks need not.

    Attributes:
        revisits: goes through the whole video again and again, pointing at the worst frame after each pass.
    """

    revisits = False

    @abstractmethod
    def first_prompt(self, item: int) -> Sequence[UserPrompt]:
        """The prompts given before anything was segmented, on one or more frames."""

    @abstractmethod
    def correct(self, item: int, frame: int, mask: Float[Tensor, "height width"]) -> UserPrompt | None:
        """An answer to predicted mask logits on a frame (position in the video); None when content."""

    def said(self, item: int) -> Sequence["UserPrompt"]:
        """What was given so far, for pictures."""
        return ()

    def revisit(self, masks: Float[Tensor, "batch time height width"]) -> dict[int, int]:
        """After a pass over the whole video: item -> frame to correct next; empty when content."""
        return {}


@dataclass(frozen=True)
class Clip(Movable):
    """What a network may look at.

    Attributes:
        frames: RGB in [0, 1] for a network, which normalises for itself; uint8 from a loader, see `floating`. Padded
            right and bottom with zeros; `meta[i].size` gives the picture's size. Lazy only in inference; `window`
            reads it.
        video: index into the video axis of `frames` for every item.
        expressions: one per item; None for promptable-VOS items.
        user: answers with clicks, boxes or masks; None for referring items.
        context: a few frames from the whole video, for networks that look ahead.
        context_positions: positions in its video of every context frame, one tuple a video.
        past: the frames directly before this window, for networks that look back; None at a video's start.
        meta: one per item.
    """

    frames: Float[Tensor, "video time 3 height width"] | UInt8[Tensor, "video time 3 height width"] | LazyTensor
    video: Int[Tensor, "batch"]
    expressions: list[str] | None
    meta: list[ClipMeta]
    user: User | None = None
    context: Float[Tensor, "video few 3 height width"] | UInt8[Tensor, "video few 3 height width"] | None = None
    past: Float[Tensor, "video past 3 height width"] | None = None
    context_positions: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        """Number of items (the batch axis)."""
        return len(self.meta)

    @property
    def time(self) -> int:
        """Number of frames."""
        return self.frames.shape[1]

    def sentences(self) -> list[str]:
        """The expressions, of a network that cannot do without.

        Raises:
            ValueError: there are none.
        """
        if self.expressions is None:
            raise ValueError(
                "this network segments by sentences, and the clips have none: give --data.expressions, or data with "
                "expressions; clicks, boxes and masks are for promptable networks (configs/sam_i2v.yaml)"
            )
        return self.expressions

    def window(self, start: int, stop: int) -> "Clip":
        """The frames `start` to `stop` (exclusive) as an ordinary in-memory clip; context and user stay."""
        meta = [replace(m, frames=m.frames[start:stop], positions=m.positions[start:stop]) for m in self.meta]
        return replace(self, frames=self.frames[:, start:stop], meta=meta)

    def floating(self, dtype: torch.dtype) -> "Clip":
        """The same clip with its pictures in a network's own precision; lazy frames are converted window by window.

        Grey levels (uint8), which loaders hand out, become values in [0, 1] here, on the device.
        """
        pictures = {"frames": self.frames, "context": self.context, "past": self.past}
        changed: dict[str, Any] = {
            name: _in_unit(value).to(dtype) for name, value in pictures.items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


def _in_unit(pictures: Tensor) -> Tensor:
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures


@dataclass(frozen=True)
class Targets(Movable):
    """Ground truth, never shown to a network.

    Attributes:
        masks: True on the referred object(s), at frame size in training and at original size in evaluation.
        annotated: False on padded or unlabelled frames: no loss, no score.
        void: pixels nobody is scored on (255 in DAVIS).
        foreground: all objects of the frame (ReVOS' robustness divides by it).
        multiplicity: how many annotations of the expression cover a pixel (ReVOS' official arithmetic sums them).
        instances: the objects of every item one by one, where the data module separates them (training only).
        instance_item: which item of the batch each of them belongs to.
    """

    masks: Bool[Tensor, "batch time height width"] | LazyTensor
    annotated: Bool[Tensor, "batch time"] | LazyTensor
    void: Bool[Tensor, "batch time height width"] | LazyTensor | None = None
    foreground: Bool[Tensor, "batch time height width"] | LazyTensor | None = None
    multiplicity: UInt8[Tensor, "batch time height width"] | LazyTensor | None = None
    instances: Bool[Tensor, "instances time height width"] | None = None
    instance_item: Int[Tensor, "instances"] | None = None

    def window(self, start: int, stop: int) -> "Targets":
        """The frames `start` to `stop` (exclusive), read into memory, without single objects."""
        every = {e.name: getattr(self, e.name) for e in fields(self) if not e.name.startswith("instance")}
        read: dict[str, Any] = {n: None if value is None else value[:, start:stop] for n, value in every.items()}
        return Targets(**read)


class Batch:
    """One step's data; `targets` is None for hidden test sets.

    No dataclass: Lightning's precision plugins enter those, and refuse frozen ones (`Precision.convert_input`). They
    pass this one by, and `Clip.floating` does their work.
    """

    def __init__(self, clip: Clip, targets: Targets | None = None):
        self._clip, self._targets = clip, targets

    @property
    def clip(self) -> Clip:
        """What a network may look at."""
        return self._clip

    @property
    def targets(self) -> Targets | None:
        """What it may not."""
        return self._targets

    def to(self, device: Device, non_blocking: bool = False) -> "Batch":
        """A copy whose tensors live on `device`."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking)
        return Batch(self.clip.to(device, non_blocking), targets)

    def pin_memory(self) -> "Batch":
        """A copy whose tensors lie in page-locked memory (the data loader calls this)."""
        return Batch(self.clip.pin_memory(), None if self.targets is None else self.targets.pin_memory())


@dataclass
class Features:
    """Adapter -> prompter, memory: image features per item and, if the adapter read the sentence, its states."""

    pyramid: tuple[Float[Tensor, "batch time _c _h _w"], ...]
    words: Float[Tensor, "batch words text"] | None = None
    word_mask: Bool[Tensor, "batch words"] | None = None
    sentence: Float[Tensor, "batch text"] | None = None


@dataclass
class Prompt:
    """Prompter -> memory, in the segmenter's prompt space."""

    tokens: Float[Tensor, "batch time tokens dim"]
    dense: Float[Tensor, "batch time dim h w"] | None = None

    def repeat_time(self, time: int) -> "Prompt":
        """The first frame's prompt for every frame of a window of `time` frames."""
        dense = None if self.dense is None else self.dense[:, :1].expand(-1, time, -1, -1, -1)
        return Prompt(self.tokens[:, :1].expand(-1, time, -1, -1), dense)


class State:
    """What is carried from one window of a video to the next; each memory subclasses it.

    Attributes:
        prompt: the first window's prompt, kept for a prompter that is asked once per video.
        past: the window's last frames, kept for adapters that look back (they come as the next `Clip.past`).
    """

    prompt: Prompt | None = None
    past: Float[Tensor, "video past 3 height width"] | None = None


@dataclass
class Prediction:
    """What every network returns.

    Attributes:
        mask_logits: any resolution, covering the padded frame; the consumer resizes.
        presence_logits: is the object there at all (the SAM family says so).
        iou: the network's own estimate of the mask's quality.
        no_target_logits: above 0 where a head of the network says that the expression means nothing here.
        proposal_logits: several masks an item and frame, where the network ranks them, as `mask_logits`.
        scores: confidence of each proposal, the higher the better.
        prompt: what was asked, for losses on the prompt itself.
        state: carried to the next window of the same video.
        covers: what `mask_logits` cover: the padded frame, or each item's picture inside it.
    """

    mask_logits: Float[Tensor, "batch time h w"]
    presence_logits: Float[Tensor, "batch time"] | None = None
    iou: Float[Tensor, "batch time"] | None = None
    prompt: Prompt | None = None
    state: State | None = None
    no_target_logits: Float[Tensor, "batch"] | None = None
    proposal_logits: Float[Tensor, "batch time proposals h w"] | None = None
    scores: Float[Tensor, "batch time proposals"] | None = None
    covers: Literal["frame", "picture"] = "frame"


@dataclass
class Candidates:
    """What a network could answer for a clip, before it refines the candidates that were chosen; may be subclassed.

    Attributes:
        logits: a score for every query, at each decoder layer (last is final) and frame.
        boxes: centre x, centre y, width and height in [0, 1] of the picture (not of padding).
        mask_logits: coarse masks, covering the padded frame.
    """

    logits: Float[Tensor, "layers batch time queries"]
    boxes: Float[Tensor, "layers batch time queries 4"] | None = None
    mask_logits: Float[Tensor, "layers batch time queries h w"] | None = None


@dataclass
class ChosenPrediction(Prediction):
    """The answer of a network that refined chosen candidates only.

    Attributes:
        candidates: what it could choose from, for losses on every query; None where nobody needs them (evaluation).
        chosen: the query that was refined for each item, at each decoder layer.
        refined: refined mask logits of every layer; the last is `mask_logits`.
    """

    candidates: Candidates | None = None
    chosen: Int[Tensor, "layers batch"] | None = None
    refined: Float[Tensor, "layers batch time h w"] | None = None


@dataclass
class SegmentedWindow:
    """One window of a video after segmentation, as metrics and sinks see it.

    Attributes:
        masks: thresholded at 0 and resized to the targets' (or else the original) size.
        targets: the window's truth, None where hidden.
        meta: one per item, with the window's frames and positions.
        clip: the window's clip, in memory; None where masks come from disk (sinks always get one).
        prediction: the network's answer; None likewise.
        proposals: `Prediction.proposal_logits`, made masks as `masks` are.
        scores: confidence of each proposal.
        logits: makes `Prediction.mask_logits` of the masks' size, too large to keep.
        no_target: what the network's head decided; None where it has none and only an empty mask can say it.
    """

    masks: Bool[Tensor, "batch time height width"]
    targets: Targets | None
    meta: Sequence[ClipMeta]
    clip: Clip | None = None
    prediction: Prediction | None = None
    proposals: Bool[Tensor, "batch time proposals height width"] | None = None
    scores: Float[Tensor, "batch time proposals"] | None = None
    no_target: Bool[Tensor, "batch"] | None = None
    logits: Callable[[], Float[Tensor, "batch time height width"]] | None = None
