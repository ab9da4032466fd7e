"""The frame loop of Sa2VA and Sa2VA-i: frames decoded from language alone, the others tracked from them."""

import random
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rvos_lightning.core.seams import Decoded, Memory
from rvos_lightning.core.types import Clip, Features, Prediction, Prompt, State
from rvos_lightning.parts.memories.sam2_memory import ABSENT
from rvos_lightning.systems.sa2va.bank import Bank, Entry, PromptedFrame, remember
from rvos_lightning.systems.sa2va.frames import pictures
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt, TrackedPrediction, Tracks
from rvos_lightning.systems.sa2va.two_decoders import FrameMaps, TwoDecoderSam2

Inference = Literal["sa2va", "sa2va_i"]
Fine = list[Tensor]


class LanguageMemory(Memory):
    """Decodes the frames the language model saw without memory, then follows the object through the video.

    Args:
        inference: `sa2va` makes those frames SAM 2's conditioning frames and tracks with the finetuned decoder,
            never gating masks by the object score (arXiv 2501.04001); `sa2va_i` gives their binary masks as
            prompts to the original SAM 2, which gates (arXiv 2509.19082, section 3).
        prompts: give SAM 2 all of these frames, or the first only.
        track_in_training: also track, in training, one item of each video from two frames' own masks, with the
            original decoder, so that a tracker can be learnt from nothing; published training decodes frame by frame.
    """

    needs = TwoDecoderSam2

    def __init__(
        self,
        inference: Inference = "sa2va_i",
        prompts: Literal["all", "first"] = "all",
        track_in_training: bool = False,
    ) -> None:
        super().__init__()
        self.inference, self.prompts, self.track_in_training = inference, prompts, track_in_training

    def forward(
        self, features: Features, prompt: Prompt, segmenter: TwoDecoderSam2, state: State | None, clip: Clip
    ) -> Prediction:
        """Segment a window (inference) or a training clip; see `seams.Memory`."""
        if self.training:
            return self._train(prompt, segmenter, clip)
        bank = state if isinstance(state, Bank) else self.begin(prompt, segmenter, clip)
        frames = [self.next_frame(bank, clip, time, segmenter) for time in range(clip.time)]
        logits = torch.stack([segmenter.upscale(frame.mask_logits) for frame in frames], 1)
        presence = torch.stack([frame.presence_logits for frame in frames], 1)
        return Prediction(logits, presence, state=bank)

    # Inference

    def begin(self, prompt: Prompt, segmenter: TwoDecoderSam2, clip: Clip) -> Bank:
        """Decode the shown frames from language alone and remember them as conditioning frames."""
        positions = prompt.positions if isinstance(prompt, SpokenPrompt) and prompt.positions else (0,)
        if self.prompts == "first":
            shown, positions = pictures(clip, positions)[:, :1], positions[:1]
        else:
            shown = pictures(clip, positions)
        bank, tokens = Bank(), prompt.tokens[:, 0]
        for i, position in enumerate(positions):
            maps = segmenter.maps(shown[:, i])
            decoded = self.decode_frame(maps, clip.video, tokens, segmenter)
            if self.inference == "sa2va":
                frame, entry = self.condition_on_language(maps, clip.video, decoded, segmenter)
            else:
                sizes = [meta.original_size for meta in clip.meta]
                masks = prompt_masks(decoded.mask_logits, sizes, segmenter.image_size)
                frame, entry = self.condition_on_masks(maps, clip.video, masks, segmenter)
            bank.prompted[position], bank.conditioning[position] = frame, entry
        return bank

    def decode_frame(
        self,
        maps: FrameMaps,
        video: Int[Tensor, "batch"],
        tokens: Float[Tensor, "batch tokens dim"],
        segmenter: TwoDecoderSam2,
    ) -> Decoded:
        """Every item's mask on its video's frame, from language alone, with the finetuned decoder."""
        fine = [level[video] for level in segmenter.fine(maps, "finetuned")]
        return segmenter.decode_language(segmenter.no_memory(maps.coarse)[video], fine, tokens)

    def condition_on_language(
        self, maps: FrameMaps, video: Int[Tensor, "batch"], decoded: Decoded, segmenter: TwoDecoderSam2
    ) -> tuple[PromptedFrame, Entry]:
        """Sa2VA: the language mask itself, ungated, is the frame's output and memory."""
        entry = remember(maps.coarse[video], decoded.mask_logits, segmenter.pointer(decoded), segmenter)
        return PromptedFrame(decoded.mask_logits, decoded.presence_logits, decoded.iou), entry

    def condition_on_masks(
        self,
        maps: FrameMaps,
        video: Int[Tensor, "batch"],
        masks: Float[Tensor, "batch side side"],
        segmenter: TwoDecoderSam2,
        exact: bool = False,
    ) -> tuple[PromptedFrame, Entry]:
        """Sa2VA-i: a binary mask becomes logits of +-10 at the decoder's resolution, memory and pointer."""
        coarse, fine = maps.coarse[video], [level[video] for level in segmenter.fine(maps, "original")]
        pointer = segmenter.pointer_of_mask(coarse, fine, masks)
        side = 4 * segmenter.grid
        low = F.interpolate(masks[:, None] * 20 - 10, (side, side), mode="bilinear", antialias=True)[:, 0]
        entry = remember(coarse, low, pointer, segmenter, exact)
        presence = masks.flatten(1).any(1).float() * 20 - 10
        return PromptedFrame(low, presence, None), entry

    def next_frame(self, bank: Bank, clip: Clip, time: int, segmenter: TwoDecoderSam2) -> PromptedFrame:
        """The output of the bank's next frame, which is frame `time` of the window."""
        position = bank.next
        bank.next += 1
        if position in bank.prompted:
            return bank.prompted[position]
        maps = segmenter.maps(clip.frames[:, time])
        frame, entry = self.track(bank, position, maps, clip.video, segmenter)
        bank.add(position, entry)
        return frame

    def track(
        self,
        bank: Bank,
        position: int,
        maps: FrameMaps,
        video: Int[Tensor, "batch"],
        segmenter: TwoDecoderSam2,
        exact: bool = False,
    ) -> tuple[PromptedFrame, Entry]:
        """Decode an unprompted frame from memory alone."""
        role = "finetuned" if self.inference == "sa2va" and not exact else "original"
        coarse = maps.coarse[video]
        fine = [level[video] for level in segmenter.fine(maps, role)]
        decoded = segmenter.decode_language(bank.look_back(position, coarse, segmenter), fine, None, role)
        if role == "original" and not exact:
            present = decoded.presence_logits[:, None, None] > 0
            decoded = replace(decoded, mask_logits=torch.where(present, decoded.mask_logits, ABSENT))
        entry = remember(coarse, decoded.mask_logits, segmenter.pointer(decoded), segmenter, exact)
        return PromptedFrame(decoded.mask_logits, decoded.presence_logits, decoded.iou), entry

    # Training

    def _train(self, prompt: Prompt, segmenter: TwoDecoderSam2, clip: Clip) -> Prediction:
        time = clip.frames.shape[1]
        maps = segmenter.maps(clip.frames[:, :].flatten(0, 1))
        index = clip.video[:, None] * time + torch.arange(time, device=clip.video.device)
        tokens = prompt.tokens[:, :time].flatten(0, 1)
        decoded = self.decode_frame(maps, index.flatten(), tokens, segmenter)
        batch = (len(clip.video), time)
        logits, presence, iou = (
            value.unflatten(0, batch) for value in (decoded.mask_logits, decoded.presence_logits, decoded.iou)
        )
        if not self.track_in_training:
            return Prediction(logits, presence, iou)
        items = one_of_each(clip.video)
        tracks = self._track_clip(maps, clip.video[items], items, logits[items], segmenter)
        return TrackedPrediction(logits, presence, iou, tracks=tracks)

    def _track_clip(
        self,
        maps: FrameMaps,
        video: Int[Tensor, "items"],
        items: Int[Tensor, "items"],
        logits: Float[Tensor, "items time h w"],
        segmenter: TwoDecoderSam2,
    ) -> Tracks:
        """Track a training clip from its first and one other frame's language masks (no gradient into these)."""
        time = logits.shape[1]
        chosen = {0, random.randrange(time)}  # not torch's: one frame or two, but the same on all ranks
        bank, frames = Bank(), []
        at = [maps.select(slice(t, None, time)) for t in range(time)]
        for t in sorted(chosen):
            masks = (segmenter.upscale(logits[:, t].detach()) > 0).float()
            pair = self.condition_on_masks(at[t], video, masks, segmenter, exact=True)
            bank.prompted[t], bank.conditioning[t] = pair
        for t in range(time):
            if t in chosen:
                frames.append(bank.prompted[t])
                continue
            frame, entry = self.track(bank, t, at[t], video, segmenter, exact=True)
            bank.add(t, entry)
            frames.append(frame)
        return Tracks(
            torch.stack([frame.mask_logits for frame in frames], 1),
            torch.stack([frame.presence_logits for frame in frames], 1),
            items=items,
            tracked=torch.tensor([t not in chosen for t in range(time)], device=logits.device),
        )


def one_of_each(video: Int[Tensor, "batch"]) -> Int[Tensor, "videos"]:
    """An item of every video, drawn at random: tracking needs no language, so few items teach it."""
    drawn = {int(video[i]): i for i in torch.randperm(len(video)).tolist()}
    return torch.tensor([drawn[v] for v in sorted(drawn)], device=video.device)


def prompt_masks(
    mask_logits: Float[Tensor, "batch h w"], sizes: list[tuple[int, int]], side: int
) -> Float[Tensor, "batch side side"]:
    """Sa2VA-i's way from language masks to SAM 2's mask prompts.

    Args:
        mask_logits: at the decoder's resolution.
        sizes: every item's original (height, width): there the mask is made binary.
        side: of SAM 2's square; reached with antialiasing and a threshold of one half.
    """
    result = mask_logits.new_zeros(len(mask_logits), side, side)
    for size in set(sizes):
        rows = torch.tensor([own == size for own in sizes], device=mask_logits.device)
        binary = (F.interpolate(mask_logits[rows, None], size, mode="bilinear") > 0).float()
        if size != (side, side):
            binary = (F.interpolate(binary, (side, side), mode="bilinear", antialias=True) >= 0.5).float()
        result[rows] = binary[:, 0]
    return result
