"""SAMWISE's adapter: RoBERTa (or CLIP) and SAM 2's trunk side by side, mixed after chosen stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from rvos_lightning.core.bounds import Share
from rvos_lightning.core.seams import Adapter, Segmenter, agreed
from rvos_lightning.core.types import Clip, Features
from rvos_lightning.parts.starting import read_weights
from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.parts.weights import load_official, refuse_misfit
from rvos_lightning.systems.samwise.cross_modal_temporal import CrossModalTemporal


class CMTAdapter(Adapter):
    """Cross-Modal Temporal adapters inside a four-stage image encoder.

    Args:
        text: text encoder, run in pieces beside the trunk.
        channels: of the segmenter's stages (its `stage_channels`); None asks it.
        stages: trunk stages followed by an adapter, counted from 0; any subset, none too (SAMWISE's baseline: words
            and pixels meet in the prompt alone).
        text_layers: text layers done when each of the stages is done (official: 1, hard-coded, then
            fusion_stages_txt).
        dim: inner width of the adapters.
        heads: attention heads.
        patches: side of the attention tubes per stage of `stages`, or one for every stage but stage 0, which then
            takes twice the first.
        selective: Hierarchical Selective Attention on (video) or off (RefCOCO pre-training).
        dropout: of that attention.
        parity: `official` lets pixels attend to padding in training batches of uneven sentences, as the official
            training does; in evaluation padding is never attended (the official code asks one sentence at a time).
        weights: of the adapters after a first stage, a file or `small/NAME`; selective attention may be missing in it,
            as a stage on stills has none. None: random.
    """

    licence = "SAMWISE, weights: Apache-2.0"

    def __init__(
        self,
        text: TextEncoder,
        channels: Sequence[int] | None = None,
        stages: Sequence[int] = (1, 2, 3),
        text_layers: Sequence[int] = (1, 4, 8, 12),
        dim: int = 256,
        heads: int = 8,
        patches: Sequence[int] = (8, 4, 2),
        selective: bool = True,
        dropout: Share = 0.1,
        parity: Literal["fixed", "official"] = "fixed",
        weights: Path | str | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.text, self.channels, self.stages, self.parity = text, channels, sorted(stages), parity
        self.text_dim = text.width
        self.boundaries, self.patches, self.selective = (0, *text_layers), tuple(patches), selective
        self.inner = (dim, heads, dropout)
        self._read: tuple[tuple[tuple[str, ...], torch.device], tuple[Tensor, Tensor | None, Tensor]] | None = None
        self.register_load_state_dict_post_hook(_forget)

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "CMTAdapter":
        """An adapter for each chosen stage of the segmenter.

        Raises:
            ValueError: lists that do not fit the segmenter, the text encoder or each other.
        """
        super().fit_to(segmenter)
        channels = agreed("adapter.channels", self.channels, tuple(segmenter.stage_channels), segmenter)
        self._check_lists(len(channels), type(segmenter).__name__)
        dim, heads, dropout = self.inner
        sides = self.tube_sides(len(channels), segmenter.stage_sides) if self.selective else {}
        self.adapters = nn.ModuleDict(
            {
                str(stage): CrossModalTemporal(channels[stage], self.text.width, dim, heads, sides.get(stage), dropout)
                for stage in self.stages
            }
        )
        if self.weights is not None:
            read_weights(self.adapters, self.weights, self.load_weights)
        return self

    def load_weights(self, weights: Path | str) -> None:
        """Read the adapters of a first stage.

        Raises:
            WeightsError: they do not fit.
        """
        state, own = load_official(weights), self.adapters.state_dict()
        refuse_misfit(state, own, lambda key: ".selective." in key, what=str(weights))
        self.adapters.load_state_dict({**own, **state})

    def tube_sides(self, count: int, maps: tuple[int, ...] | None) -> dict[int, int]:
        """Side of the attention tubes at every stage that has an adapter.

        Args:
            count: of the segmenter's stages.
            maps: sides of their maps, if these are fixed.

        Raises:
            ValueError: too few or too many sides, or one that does not divide its map.
        """
        if len(self.patches) == len(self.stages):
            sides = dict(zip(self.stages, self.patches, strict=True))
        elif len(self.patches) == count - 1:
            sides = {0: 2 * self.patches[0], **dict(enumerate(self.patches, start=1))}
        else:
            raise ValueError(
                f"--model.network.adapter.patches {list(self.patches)} has {len(self.patches)} values: give "
                f"{len(self.stages)}, one for each of stages {self.stages}, or {count - 1}, one for each stage but 0"
            )
        for stage in self.stages if maps is not None else ():
            if maps[stage] % sides[stage]:
                raise ValueError(
                    f"--model.network.adapter.patches: {sides[stage]} cells at stage {stage} do not divide the "
                    f"segmenter's {maps[stage]} x {maps[stage]} map; change it or model.network.segmenter.image_size"
                )
        return sides

    def _check_lists(self, count: int, name: str) -> None:
        layers = list(self.boundaries[1:])
        if len(layers) != count or layers[-1] != self.text.depth or layers != sorted(layers):
            raise ValueError(
                f"--model.network.adapter.text_layers {layers}: need {count} rising numbers, one a stage of {name}, "
                f"ending at the text encoder's depth {self.text.depth}"
            )
        if not set(self.stages) <= set(range(count)):
            raise ValueError(
                f"--model.network.adapter.stages {self.stages}: {name} has {count} stages, give some of 0..{count - 1}"
            )

    def forward(self, clip: Clip, segmenter: Segmenter) -> Features:
        """Encode every video up to the first adapter, from there every item; words come out after the last stage."""
        ids, real, words = self.read(clip)
        walk = _Walk(self, clip, real, words)
        frames = blank_padding(clip, segmenter.pixel_mean).flatten(0, 1)
        pyramid = segmenter.encode(frames, walk.after_stage)
        words = self.text.finish(walk.words)
        return Features(
            pyramid=tuple(
                walk.per_item(level, stage).unflatten(0, (len(clip), -1)) for stage, level in enumerate(pyramid)
            ),
            words=words,
            word_mask=torch.ones_like(ids, dtype=torch.bool) if real is None else real,
            sentence=self.text.sentence(words, ids),
        )

    @property
    def first(self) -> int:
        """The stage of the first adapter; without any the last stage."""
        return min(self.stages, default=len(self.boundaries) - 2)

    def read(self, clip: Clip) -> tuple[Tensor, Tensor | None, Tensor]:
        """Ids, which are real, and the words up to the first adapter: what no picture has touched yet.

        In evaluation the windows of a video ask for the same sentences one after the other; the last answer is kept.
        """
        kept = self._recall(clip)
        if kept is not None:
            return kept
        ids, real = self._tokens(clip)
        words = self.text.run(self.text.embed(ids, real), real, 0, self.boundaries[self.first + 1])
        if not self.training and not words.requires_grad:
            self._keep(clip, (ids, real, words))
        return ids, real, words

    # Sentences are met outside the compiler's graphs, which would hold for these very ones only.
    @torch.compiler.disable
    def _tokens(self, clip: Clip) -> tuple[Tensor, Tensor | None]:
        return self.text.tokenize(clip.sentences())

    @torch.compiler.disable
    def _recall(self, clip: Clip) -> tuple[Tensor, Tensor | None, Tensor] | None:
        same = self._read is not None and self._read[0] == _asked(clip)
        return self._read[1] if same and not self.training else None

    @torch.compiler.disable
    def _keep(self, clip: Clip, said: tuple[Tensor, Tensor | None, Tensor]) -> None:
        self._read = (_asked(clip), said)

    def train(self, mode: bool = True) -> "CMTAdapter":
        """Also forgets the kept words, since weights may change in training."""
        self._read = None
        return super().train(mode)


def _asked(clip: Clip) -> tuple[tuple[str, ...], torch.device]:
    """What the kept words go by."""
    return tuple(clip.expressions or ()), clip.frames.device


def _forget(adapter: CMTAdapter, keys: object) -> None:
    """New weights make the kept words stale (not by `train`, which a frozen adapter ignores)."""
    adapter._read = None


class _Walk:
    """One pass through trunk and text: holds the words between two stages."""

    def __init__(self, adapter: CMTAdapter, clip: Clip, real: Tensor | None, words: Tensor) -> None:
        self.adapter, self.clip, self.real, self.words = adapter, clip, real, words
        videos = clip.frames.shape[0]
        self.one_to_one = videos == len(clip) and clip.video.tolist() == list(range(videos))
        # Items part ways at the first adapter; at stage 2 at the latest, since the neck sums stages 2 and 3.
        self.parting = min(adapter.first, 2)

    def after_stage(self, stage: int, pixels: Tensor) -> Tensor:
        """Run the text's segment; after stages with an adapter add what it says to pixels and words."""
        adapter, bounds = self.adapter, self.adapter.boundaries
        if stage > adapter.first:  # what comes earlier has been read
            self.words = adapter.text.run(self.words, self.real, bounds[stage], bounds[stage + 1])
        if stage == self.parting:
            pixels = self.split(pixels)
        if stage not in adapter.stages:
            return pixels
        real = None if adapter.parity == "official" and adapter.training else self.real
        clips = pixels.unflatten(0, (len(self.clip), -1))
        more_pixels, more_words = adapter.adapters[str(stage)](clips, self.words, real)
        self.words = self.words + more_words
        return pixels + more_pixels.flatten(0, 1)

    def split(self, maps: Tensor) -> Tensor:
        """Maps of every video as maps of every item."""
        if self.one_to_one:
            return maps
        return maps.unflatten(0, (self.clip.frames.shape[0], -1))[self.clip.video].flatten(0, 1)

    def per_item(self, level: Tensor, stage: int) -> Tensor:
        """A pyramid level, taken from a trunk stage, as maps of every item."""
        return self.split(level) if stage < self.parting else level


@torch.compiler.disable  # sizes differ from batch to batch, and there is little to compute
def blank_padding(clip: Clip, colour: tuple[float, float, float]) -> Tensor:
    """Frames whose padding holds the segmenter's mean colour, i.e. 0 after normalisation (official code)."""
    frames = clip.frames
    height, width = frames.shape[-2:]
    sizes = {int(video): meta.size for video, meta in zip(clip.video.tolist(), clip.meta, strict=True)}
    if all(size == (height, width) for size in sizes.values()):
        return frames
    frames = frames.clone()
    fill = frames.new_tensor(colour).view(3, 1, 1)
    for video, (bottom, right) in sizes.items():
        frames[video, :, :, bottom:] = fill
        frames[video, :, :, :, right:] = fill
    return frames
