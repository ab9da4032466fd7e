"""SgMg: spectrum-guided multi-granularity referring video segmentation (ICCV 2023, arXiv 2307.13537).

Predicted kernels segment encoded features into coarse patch masks, which raw visual features then refine. Frames meet
in the backbone, in the choice of a query and in the loss; all else treats each frame alone.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rvos_lightning.core.bounds import Share
from rvos_lightning.core.seams import Choose, ChoosingNetwork
from rvos_lightning.core.types import ChosenPrediction, Clip, State
from rvos_lightning.parts.layers.linear import through_onednn
from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.systems.sgmg.deformable import Decoded, DeformableTransformer, split_levels
from rvos_lightning.systems.sgmg.fusion import Language, SpectrumFusion, nearest
from rvos_lightning.systems.sgmg.kernels import PatchKernels
from rvos_lightning.systems.sgmg.outputs import FrameCandidates
from rvos_lightning.systems.sgmg.refiner import Refiner, pixels
from rvos_lightning.systems.sgmg.spectral import Kind
from rvos_lightning.systems.sgmg.video_swin import VideoSwin

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
EMPTY = -100.0  # logit of masks that nobody asked for


@dataclass
class Seen:
    """All that a video tells without words; every sentence about it starts from here.

    Attributes:
        levels: projected and mixed maps, frames of all videos in one axis.
        soft: the Gaussian of each level.
        padding: True on each level's padding.
        details: what the backbone's first two taps contribute to refinement; None without a refiner.
        pictures: (height, width) of each video's picture.
        time: frames segmented.
        size: (height, width) of the frames with the network's own padding.
    """

    levels: list[Float[Tensor, "images dim _h _w"]]
    soft: list[Float[Tensor, "_h _w"]]
    padding: list[Bool[Tensor, "video _h _w"]]
    details: tuple[Tensor, Tensor] | None
    pictures: Int[Tensor, "video 2"]
    time: int
    size: tuple[int, int]

    def of_items(self, video: Int[Tensor, "batch"]) -> "Seen":
        """The same with a row for every item instead of every video."""
        if video.tolist() == list(range(len(self.pictures))):
            return self

        def pick(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, self.time))[video].flatten(0, 1)

        return replace(
            self,
            levels=[pick(x) for x in self.levels],
            padding=[x[video] for x in self.padding],
            details=None if self.details is None else tuple(pick(x) for x in self.details),
            pictures=self.pictures[video],
        )


class SgMg(ChoosingNetwork):
    """Video Swin, RoBERTa, spectral fusion, deformable transformer, conditional patch kernels, mask refiner.

    Args:
        backbone: Video Swin.
        text: reads the sentences; published is RoBERTa-base with its pooler.
        dim: width of everything behind the encoders.
        heads: attention heads.
        hidden: channels inside the transformer's feed-forward blocks.
        encoder_layers, decoder_layers: depths of the transformer.
        points: places that a head looks at in each map.
        queries: candidates a frame; one query follows one object through the clip.
        dropout: in the transformer and on projected words.
        fusion: blocks before and after the words: spectral, or an ablation (spatial, linear, none).
        sigma: of the Gaussian over the spectrum, in frequency bins.
        conditional_patches: a query's kernels give sub-pixels; False: one logit a cell (ablation).
        refine: refine the patch mask with raw visual features; False: only enlarge it (ablation).
        train_multiple, eval_multiple: frames are padded right and bottom to multiples of this many pixels in training
            and in evaluation. Published: 32, and 16 for whole videos (Ref-YouTube-VOS, Ref-DAVIS).
        frames: `all`, or `middle`: the backbone sees the whole clip, only its middle frame is segmented (A2D, JHMDB)
            and the masks of the others are empty.
        proposals: also answer with every query's mask and score (A2D, JHMDB: mAP over five candidates).
        longest: most frames of a clip; longer ones are refused before they fill the memory.
        activation_checkpointing: recompute the transformer's layers in the backward pass.
    """

    licence = "SgMg, released weights: CC BY-NC 4.0 (this code is written from the paper)"

    def __init__(
        self,
        backbone: VideoSwin,
        text: TextEncoder,
        dim: int = 256,
        heads: int = 8,
        hidden: int = 2048,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        points: int = 4,
        queries: int = 5,
        dropout: Share = 0.1,
        fusion: Kind = "spectral",
        sigma: float = 7.0,
        conditional_patches: bool = True,
        refine: bool = True,
        train_multiple: int = 32,
        eval_multiple: int = 16,
        frames: Literal["all", "middle"] = "all",
        proposals: bool = False,
        longest: int = 200,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.multiples, self.frames, self.longest = (train_multiple, eval_multiple), frames, longest
        self.proposals = proposals
        self.backbone, self.language = backbone, Language(text, dim, dropout)
        self.fusion = SpectrumFusion(backbone.channels[1:], dim, heads, fusion, sigma)
        self.transformer = DeformableTransformer(
            dim, heads, hidden, encoder_layers, decoder_layers, 4, points, queries, dropout, activation_checkpointing
        )
        self.scores = nn.ModuleList(nn.Linear(dim, 1) for _ in range(decoder_layers))
        for score in self.scores:
            nn.init.constant_(score.bias, -math.log(99))  # at first one candidate in a hundred is taken
        self.patch = backbone.size.patch
        self.kernels = PatchKernels(dim, backbone.strides[1], self.patch, conditional_patches=conditional_patches)
        self.refiner = Refiner(backbone.channels[:2], self.patch) if refine else None
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)
        through_onednn(self)

    def forward(self, clip: Clip, state: State | None = None, choose: Choose | None = None) -> ChosenPrediction:
        """Segment every item; `choose` picks, per decoder layer, the query that is refined (see `seams`)."""
        return self.segment(clip, self.see(clip), choose)

    def see(self, clip: Clip) -> Seen:
        """Everything that needs no words, once a video.

        Raises:
            ValueError: the clip is too long or its frames are too small.
        """
        frames, padding, pictures = self.prepare(clip)
        taps = self.backbone(frames)
        time = clip.time
        if self.frames == "middle":
            taps = tuple(x.unflatten(0, (-1, time))[:, time // 2] for x in taps)
            time = 1
        levels, soft = self.fusion.see(taps[1:])
        details = None if self.refiner is None else self.refiner.see(*taps[:2])
        masks = [nearest(padding, tuple(x.shape[-2:])) for x in levels]
        return Seen(levels, soft, masks, details, pictures, time, tuple(padding.shape[-2:]))

    @torch.compiler.disable  # sizes differ from batch to batch, and there is little to compute
    def prepare(self, clip: Clip) -> tuple[Tensor, Bool[Tensor, "video height width"], Int[Tensor, "video 2"]]:
        """Frames normalised, zero on padding and of sides that are the wanted multiples; what is padding; pictures."""
        frames = clip.frames
        multiple = self.multiples[0 if self.training else 1]
        size = tuple(-(-side // multiple) * multiple for side in frames.shape[-2:])
        self.check(clip, size)
        pictures = torch.zeros(len(frames), 2, dtype=torch.long)
        for video, meta in zip(clip.video.tolist(), clip.meta, strict=True):
            pictures[video] = torch.tensor(meta.size)
        pictures = pictures.to(frames.device)
        rows, columns = (torch.arange(side, device=frames.device) for side in size)
        padding = (rows[:, None] >= pictures[:, 0, None, None]) | (columns >= pictures[:, 1, None, None])
        height, width = frames.shape[-2:]
        frames = F.pad((frames - self.mean) / self.deviation, (0, size[1] - width, 0, size[0] - height))
        return frames.masked_fill(padding[:, None, None], 0.0), padding, pictures

    def check(self, clip: Clip, size: tuple[int, int]) -> None:
        """Refuse what cannot be segmented.

        Raises:
            ValueError: names the limit and the flag.
        """
        if clip.time > self.longest:
            raise ValueError(
                f"a clip of {clip.time} frames of video {clip.meta[0].video!r}, model.network.longest is "
                f"{self.longest}: give fewer frames a window (--model.window), or raise it if memory allows"
            )
        # the coarsest level halves the last tap and must hold the 3 x 3 window of the spectral gate
        smallest = 4 * self.backbone.strides[3] + 1
        if min(size) < smallest:
            multiple = self.multiples[0 if self.training else 1]
            raise ValueError(
                f"frames of {size[1]}x{size[0]} (width x height, padded to multiples of {multiple}) are too small: "
                f"SgMg needs sides of at least {-(-smallest // multiple) * multiple}; give a larger data.size or "
                "data.eval_size, or a smaller model.network.backbone.size.patch"
            )

    def segment(self, clip: Clip, seen: Seen, choose: Choose | None = None) -> ChosenPrediction:
        """Answer all sentences about videos that were seen before."""
        seen = seen.of_items(clip.video)
        decoded, features, candidates = self.answer(clip, seen)
        if choose is None:
            chosen = candidates.logits[-1].sigmoid().mean(1).argmax(1)[None]
            if self.proposals:
                return self.ranked(decoded, features, candidates, chosen, seen, clip)
            coarse = self.coarse(last(decoded, chosen, seen.time), features, seen)[:, :, 0]
        else:
            every = self.coarse(decoded, features, seen)
            halves = pixels(every, self.patch).unflatten(1, (len(clip), seen.time))
            candidates = replace(candidates, mask_logits=halves)
            chosen = choose(candidates)
            coarse = take(every, chosen.repeat_interleave(seen.time, 1))
        refined = self.refined(coarse, seen).unflatten(1, (len(clip), seen.time))
        masks = self.on_frames(refined[-1], clip)
        return ChosenPrediction(masks, candidates=candidates, chosen=chosen, refined=refined)

    def ranked(
        self,
        decoded: Decoded,
        features: Tensor,
        candidates: FrameCandidates,
        chosen: Int[Tensor, "one batch"],
        seen: Seen,
        clip: Clip,
    ) -> ChosenPrediction:
        """The best query's masks, and beside them every query's masks and scores."""
        decoded = replace(decoded, states=decoded.states[-1:], boxes=decoded.boxes[-1:])
        every = self.refined(self.coarse(decoded, features, seen)[0].transpose(0, 1), seen)
        every = every.unflatten(1, (len(clip), seen.time)).permute(1, 2, 0, 3, 4)
        best = every[torch.arange(len(clip), device=every.device), :, chosen[0]]
        scores = candidates.logits[-1].sigmoid()
        if seen.time < clip.time:
            scores = F.pad(scores, (0, 0, clip.time // 2, clip.time - clip.time // 2 - 1))
        return ChosenPrediction(
            self.on_frames(best, clip),
            candidates=candidates,
            chosen=chosen,
            refined=best[None],
            proposal_logits=self.on_frames(every, clip),
            scores=scores,
        )

    def answer(self, clip: Clip, seen: Seen) -> tuple[Decoded, Tensor, FrameCandidates]:
        """Queries' states and boxes, the features that kernels segment, and what there is to choose from."""
        words, real, sentence = self.language(clip.sentences())
        levels = self.fusion.read(seen.levels, seen.soft, words, real)
        memory = self.transformer.encode(self.transformer.levels(levels, seen.padding))
        decoded = self.transformer.decode(memory, sentence.repeat_interleave(seen.time, 0))
        finest, *coarser = split_levels(memory)[:3]
        features = finest
        for level in coarser:
            features = features + F.interpolate(level, size=finest.shape[-2:], mode="bicubic")
        logits = torch.stack([score(x) for score, x in zip(self.scores, decoded.states, strict=True)])
        shape = (len(clip), seen.time)
        candidates = FrameCandidates(
            logits.squeeze(-1).unflatten(1, shape),
            decoded.boxes.unflatten(1, shape),
            answered=(clip.time // 2,) if seen.time < clip.time else None,
        )
        return decoded, features, candidates

    def coarse(
        self, decoded: Decoded, features: Tensor, seen: Seen
    ) -> Float[Tensor, "layers images queries channels h w"]:
        """Patch masks of all layers and queries of `decoded`."""
        pictures = seen.pictures.flip(-1).repeat_interleave(seen.time, 0)[:, None]
        return self.kernels(features, decoded.states, decoded.boxes[..., :2].detach() * pictures)

    def refined(
        self, coarse: Float[Tensor, "layers images channels h w"], seen: Seen
    ) -> Float[Tensor, "layers images height width"]:
        """Patch masks at the padded frame's full size."""
        layers = len(coarse)
        if self.refiner is None:
            return F.interpolate(pixels(coarse, self.patch), size=seen.size, mode="bilinear")
        details = tuple(x.repeat(layers, 1, 1, 1) for x in seen.details)
        return pixels(self.refiner(coarse.flatten(0, 1), details), self.patch).unflatten(0, (layers, -1))

    def on_frames(
        self, masks: Float[Tensor, "batch some *queries h w"], clip: Clip
    ) -> Float[Tensor, "batch time *queries height width"]:
        """Without the network's own padding; frames that were not asked for are empty."""
        height, width = clip.frames.shape[-2:]
        masks = masks[..., :height, :width]
        if masks.shape[1] == clip.time:
            return masks
        middle = clip.time // 2
        others = (0, 0) * (masks.ndim - 2)
        return F.pad(masks, (*others, middle, clip.time - middle - 1), value=EMPTY)


def last(decoded: Decoded, chosen: Int[Tensor, "one batch"], time: int) -> Decoded:
    """The chosen query after the last layer."""
    index = chosen.repeat_interleave(time, 1)
    return replace(
        decoded,
        states=take(decoded.states[-1:], index)[:, :, None],
        boxes=take(decoded.boxes[-1:], index)[:, :, None],
    )


def take(values: Float[Tensor, "layers rows queries *rest"], index: Int[Tensor, "layers rows"]) -> Tensor:
    """One query of every layer and row."""
    layers, rows = index.shape
    at = torch.arange(layers, device=index.device)[:, None], torch.arange(rows, device=index.device)[None]
    return values[at[0], at[1], index]
