"""SAM 2 as it is trained before any system builds on it: pointed at once, tracked from there."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rvos_lightning.core.seams import VideoSegmenter
from rvos_lightning.core.types import Clip, Features, Prediction, Prompt, State, UserPrompt
from rvos_lightning.parts.memories.sam2_memory import Sam2Memory
from rvos_lightning.parts.segmenters.sam2 import Sam2

NO_POINT = -1  # label of a place that is no point (sam2's prompt encoder)


class PointedMemory(Sam2Memory):
    """SAM 2's frame loop with a click, a box or a mask of every item on the video's first frame.

    That frame is a conditioning frame and is never forgotten; on all others an item is tracked by memory alone. Give
    the prompter `UserPrompter` with it, and data with a `simulate_user` that prompts one frame (`initial: 1`).
    """

    needs = Sam2

    def __init__(self) -> None:
        super().__init__(conditioning=1, prompted=1)

    def forward(
        self, features: Features, prompt: Prompt, segmenter: VideoSegmenter, state: State | None, clip: Clip
    ) -> Prediction:
        """Segment the window frame by frame; see `seams.Memory`.

        Raises:
            ValueError: the user points at something on a later frame.
        """
        if state is None:
            tokens, dense = first_prompts(clip, segmenter)
            dense = None if dense is None else dense[:, None].expand(-1, clip.time, -1, -1, -1)
            prompt = Prompt(tokens[:, None].expand(-1, clip.time, -1, -1), dense)
        return super().forward(features, prompt, segmenter, state, clip)


def first_prompts(clip: Clip, segmenter: Sam2) -> tuple[Tensor, Tensor | None]:
    """Prompt tokens of every item on the window's first frame, and dense prompts if any item has a mask.

    Raises:
        ValueError: a prompt on another frame.
    """
    given = [list(clip.user.first_prompt(item)) for item in range(len(clip))]
    starts = [meta.positions[0] if meta.positions else 0 for meta in clip.meta]
    for prompts, start in zip(given, starts, strict=True):
        if late := [p.frame for p in prompts if p.frame != start]:
            raise ValueError(
                f"PointedMemory takes prompts on a clip's first frame, and something is pointed at on frame {late[0]}: "
                "give data.kinds of things that are seen from the start, and simulate_user.initial 1"
            )
    tokens = segmenter.embed_points(*padded_points(given, clip), tuple(clip.frames.shape[-2:]))
    masks = [next((p.mask for p in prompts if p.mask is not None), None) for prompts in given]
    if all(mask is None for mask in masks):
        return tokens, None
    shape = tuple(clip.frames.shape[-2:])
    whole = torch.zeros(len(masks), *shape, device=clip.frames.device)
    for row, mask in zip(whole, masks, strict=True):
        if mask is not None:
            row[: mask.shape[0], : mask.shape[1]] = mask
    there = torch.tensor([mask is not None for mask in masks], device=clip.frames.device)
    return tokens, segmenter.dense_prompts(whole, there)


def padded_points(
    given: Sequence[Sequence[UserPrompt]], clip: Clip
) -> tuple[Float[Tensor, "batch points 2"], Int[Tensor, "batch points"]]:
    """Points and labels of all items in pixels of the frame, filled up with places that are no points."""
    pointed = [[p for p in prompts if p.points is not None] for prompts in given]
    longest = max(1, *(sum(len(p.labels) for p in prompts) for prompts in pointed))
    points = torch.zeros(len(given), longest, 2)
    labels = torch.full((len(given), longest), NO_POINT)
    for item, prompts in enumerate(pointed):
        if prompts:
            count = sum(len(p.labels) for p in prompts)
            size = torch.tensor(clip.meta[item].size[::-1])
            points[item, :count] = torch.cat([p.points for p in prompts]).cpu() * size
            labels[item, :count] = torch.cat([p.labels for p in prompts]).cpu()
    return points.to(clip.frames.device), labels.to(clip.frames.device)
