"""Sa2VA and Sa2VA-i (arXiv 2501.04001, 2509.19082): a language model's [SEG] state prompts a segmenter."""

from dataclasses import replace
from typing import Literal

import torch

from rvos_lightning.core.seams import Network, Prompter, Segmenter
from rvos_lightning.core.types import Clip, Features, Prediction, State
from rvos_lightning.parts.adapters.image_features import ImageFeatures
from rvos_lightning.parts.layers.linear import through_onednn
from rvos_lightning.parts.memories.frame_by_frame import FrameByFrame
from rvos_lightning.parts.memories.sam2_memory import ABSENT
from rvos_lightning.systems.sa2va.language_memory import LanguageMemory
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt
from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2

Inference = Literal["sa2va", "sa2va_i", "frames"]


class Sa2VA(Network):
    """Asks the language model once a video, then decodes and tracks what it meant; without [SEG] masks are empty.

    Args:
        segmenter: published: `TwoDecoderSam2`. Any other one decodes every frame from the language's prompt.
        prompter: the language model.
        inference: `sa2va` makes the frames that the language model saw SAM 2's conditioning frames and tracks with the
            finetuned decoder, never gating masks by the object score (arXiv 2501.04001); `sa2va_i` gives their binary
            masks as prompts to the original SAM 2, which gates (arXiv 2509.19082, section 3); `frames` tracks nothing.
            None: the most that the segmenter can, sa2va_i with two decoders.
        prompts: give SAM 2 all of these frames, or the first only.
        track_in_training: also track, in training, one item of each video from two frames' own masks, with the original
            decoder, so that a tracker can be learnt from nothing (published training decodes frame by frame); None:
            where the segmenter trains its tracker.

    Raises:
        ValueError: the segmenter cannot do what `inference` or `track_in_training` asks.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        prompter: Prompter,
        inference: Inference | None = None,
        prompts: Literal["all", "first"] = "all",
        track_in_training: bool | None = None,
    ) -> None:
        super().__init__()
        self.segmenter, self.prompter = segmenter, prompter
        self.says_presence = segmenter.says_presence
        prompter.fit_to(segmenter)
        self.inference = inference or best_inference(segmenter)
        check(segmenter, self.inference, bool(track_in_training))
        if self.inference == "frames":
            self.adapter, self.memory = ImageFeatures().fit_to(segmenter), FrameByFrame().fit_to(segmenter)
        else:
            if track_in_training is None:
                track_in_training = any(p.requires_grad for p in segmenter.memory_attention.parameters())
            self.adapter = None
            self.memory = LanguageMemory(self.inference, prompts, track_in_training).fit_to(segmenter)
        through_onednn(self)

    def forward(self, clip: Clip, state: State | None = None) -> Prediction:
        """Segment one window; see `seams.Network`."""
        if state is None or state.prompt is None:
            prompt = self.prompter(clip, Features(()))
        else:
            prompt = state.prompt.repeat_time(clip.time)
        features = Features(()) if self.adapter is None else self.adapter(clip, self.segmenter)
        prediction = self.memory(features, prompt, self.segmenter, state, clip)
        if not self.training and isinstance(prompt, SpokenPrompt) and prompt.spoken is not None:
            silent = ~prompt.spoken.view(-1, 1, 1, 1)
            prediction = replace(prediction, mask_logits=torch.where(silent, ABSENT, prediction.mask_logits))
        if prediction.state is not None:
            prediction.state.prompt = prompt
        return replace(prediction, prompt=prompt)


def best_inference(segmenter: Segmenter) -> Inference:
    """The most that a segmenter can."""
    if not isinstance(segmenter, TwoDecoderSam2):
        return "frames"
    return "sa2va" if segmenter.original_decoder is None else "sa2va_i"


def check(segmenter: Segmenter, inference: Inference, track: bool) -> None:
    """Refuse what the segmenter cannot do.

    Raises:
        ValueError: names both sides and the flag.
    """
    best, name = best_inference(segmenter), type(segmenter).__name__
    if best == "frames" and inference != "frames":
        raise ValueError(
            f"--model.network.inference {inference} tracks with SAM 2's memory, {name} has none that Sa2VA knows: "
            "leave it out (every frame is then decoded from the prompt), or take segmenter TwoDecoderSam2"
        )
    if best == "sa2va" and inference == "sa2va_i":
        raise ValueError(
            "--model.network.inference sa2va_i needs the original mask decoder, this segmenter has one decoder only: "
            "convert the checkpoint with `rvos convert sa2va_i`, or use --model.network.inference sa2va"
        )
    if track and (inference == "frames" or best != "sa2va_i"):
        raise ValueError(
            f"--model.network.track_in_training true needs the original decoder of a TwoDecoderSam2 and an inference "
            f"that tracks; segmenter is {name}, inference {inference}: leave it out"
        )
