"""SAM + CLIP for referring image segmentation (Ito 2025, "Feature Design for Bridging SAM and CLIP ...", WACV)."""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Clip, State
from rvos_lightning.parts.feature_cache import FeatureCache, FeatureWriter
from rvos_lightning.parts.layers.linear import through_onednn
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.segmenters.sam2 import Sam2
from rvos_lightning.parts.text.encoder import TextEncoder
from rvos_lightning.parts.weights import freeze, mark_reproducible
from rvos_lightning.systems.clip_sam import cached
from rvos_lightning.systems.clip_sam.bridge import Bridge, ImageFeatures, Sizes, TextFeatures
from rvos_lightning.systems.clip_sam.categories import COCO_PANOPTIC, THINGS, row_of, spoken
from rvos_lightning.systems.clip_sam.gathering import from_all_processes
from rvos_lightning.systems.clip_sam.outputs import BridgePrediction
from rvos_lightning.systems.clip_sam.presets import PRESETS, PresetName, SparseSource
from rvos_lightning.systems.clip_sam.queries import Names
from rvos_lightning.systems.clip_sam.towers import VisionLanguage


class ClipSam(Network):
    """Frozen SAM and CLIP, a trained bridge, SAM's trained decoder; an image is a video of one frame.

    On a video every frame is segmented by itself.

    Args:
        sam: any image SAM; the published one is ViT-B.
        tower: CLIP; the published one is ViT-L/14 at 336 px.
        text: the text encoder that is trained; the published one is BERT-base.
        preset: `default`, or `released` for the released code's behaviour, to compare numbers.
        sizes: of the bridge.
        sparse_source: what the sparse token starts from: the sentence's own vector (`cls`), a category guessed from the
            sentence (`category_pred`), or the annotated one (`category_gt`, an oracle). None: `cls`, and in the
            released preset `category_gt` without no-target head.
        allow_oracle: `category_gt` may be used; every report then says so, and prediction refuses.
        no_target: with the head that says that there is no such thing (gRefCOCO).
        answer_no_target: False skips head and queries in evaluation.
        pool: how the no-target head looks over the queries: `max` (released) or `lse_margin`.
        language_feedback: what the queries read in CLIP's maps flows on to the next layer.
        categories: names of the category table, the last one "background"; None: COCO's 133 panoptic names.
        temperature: of the softmax over categories in `category_pred`.
        words: most tokens of a sentence, longer ones are cut; None: the preset's (40; released 35).
        train_encoders: SAM's image encoder is trained, too (a small one from scratch).
        features: a feature cache made by `python -m rvos_lightning cache`; the image encoders are then dropped.

    Raises:
        ValueError: an oracle that nobody allowed, or parts that do not fit.
    """

    def __init__(
        self,
        sam: Sam | Sam2,
        tower: VisionLanguage,
        text: TextEncoder,
        preset: PresetName = "default",
        sizes: Sizes = Sizes(),  # noqa: B008
        sparse_source: SparseSource | None = None,
        allow_oracle: bool = False,
        no_target: bool = False,
        answer_no_target: bool = True,
        pool: Literal["max", "lse_margin"] = "max",
        language_feedback: bool = False,
        categories: list[str] | None = None,
        temperature: float = 0.07,
        words: int | None = None,
        train_encoders: bool = False,
        features: Path | None = None,
    ) -> None:
        super().__init__()
        self.preset, width = PRESETS[preset], sam.prompt_dim
        self.sam, self.tower, self.text = sam, tower, text
        usual: SparseSource = "category_gt" if preset == "released" and not no_target else "cls"
        self.sparse_source: SparseSource = sparse_source or usual
        self.oracle = "oracle category" if self.sparse_source == "category_gt" else ""
        if self.oracle and not allow_oracle:
            raise ValueError(
                "network.sparse_source category_gt feeds the annotated category of the answer into the network, which "
                "no user has: set network.allow_oracle true (reports will say 'oracle category'), or sparse_source cls"
            )
        self.answers, self.says_presence = answer_no_target, no_target
        self.categories = tuple(categories or COCO_PANOPTIC)
        self.temperature, self.most_words = temperature, words or self.preset.words
        self.word_projection = nn.Linear(text.width, width)
        uses_category = self.sparse_source != "cls" or preset == "released"
        self.category_projection = nn.Linear(tower.text_width, width) if uses_category else None
        self.bridge = Bridge(
            width, tower.width, tower.text_width, sizes, self.preset, no_target, pool, language_feedback
        )
        self._freeze(train_encoders)
        self.register_buffer("category_table", torch.zeros(len(self.categories), tower.text_width))
        self.cache = None if features is None else self._open(features)
        through_onednn(self)

    def _freeze(self, train_encoders: bool) -> None:
        """What nothing reaches: SAM's prompt encoder, the IoU head and (released: trainable) unused mask heads.

        Raises:
            ValueError: SAM 2 is in an image SAM's place.
        """
        if isinstance(self.sam, Sam2):
            raise ValueError("network.sam is SAM 2, which segments films: take the network clip_sam.video.ClipSam2")
        decoder = self.sam.mask_decoder
        self.sam.prompt_encoder.requires_grad_(False)
        decoder.iou_prediction_head.requires_grad_(False)
        if not self.preset.trains_all_masks:
            decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
        if self.preset.gate is None:
            self.sam.prompt_encoder.no_mask_embed.requires_grad_(False)
        if self.category_projection is not None and self.sparse_source == "cls":
            self.category_projection.requires_grad_(False)
        if not train_encoders:
            freeze(self.sam.encoder)
            if self.sam.weights is not None:
                mark_reproducible(self.sam.encoder, str(self.sam.weights))

    def _open(self, features: Path) -> FeatureCache:
        """Find the cache, then drop both image encoders."""
        cache = FeatureCache(features, cached.recipe(self.sam, self.tower, self.preset))
        self.sam.encoder = nn.Identity()
        self.tower.forget_images()
        return cache

    def feature_writer(self, root: Path, images: int) -> FeatureWriter:
        """What `python -m rvos_lightning cache` fills, `images` a shard.

        Raises:
            ValueError: an image encoder is trained.
        """
        return FeatureWriter(root, cached.recipe(self.sam, self.tower, self.preset), images)

    def lacks(self, writer: FeatureWriter, clip: Clip) -> bool:
        """Whether a cache misses a frame of the clip."""
        return any(name not in writer for name, _, _ in cached.frames(clip))

    def keep(self, writer: FeatureWriter, clip: Clip) -> int:
        """Compute the clip's features and add those that are missing; how many frames."""
        return cached.write(writer, clip, self.encode_images(clip))

    def forward(self, clip: Clip, state: State | None = None) -> BridgePrediction:
        """Segment every item on every frame; see `seams.Network`.

        Raises:
            ValueError: no expressions, or an oracle without categories.
        """
        image, text = self.pairs(clip)
        images = self.encode_images(clip)
        texts = self.encode_texts(clip.sentences(), self._rows(clip))
        said = self.segment(images, texts, image, text)
        said.mask_logits = said.mask_logits[:, 0].unflatten(0, (len(clip), clip.time))
        return self.with_answer(said, len(clip), clip.time)

    @staticmethod
    @torch.compiler.disable  # a graph that looks at sentences holds for these only
    def pairs(clip: Clip) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
        """Image and sentence of every pair: items of the batch, frame by frame."""
        image = (clip.video[:, None] * clip.time + torch.arange(clip.time, device=clip.video.device)).flatten()
        return image, torch.arange(len(clip), device=image.device).repeat_interleave(clip.time)

    @staticmethod
    def with_answer(said: BridgePrediction, items: int, time: int) -> BridgePrediction:
        """The head's logits as presence of every frame and as one answer of every item: no target on any frame."""
        if said.target_logits is not None:
            margin = (said.target_logits[:, 0] - said.target_logits[:, 1]).view(items, time)
            said.presence_logits, said.no_target_logits = margin, -margin.amax(1)
        return said

    def segment(
        self, images: ImageFeatures, texts: TextFeatures, image: Int[Tensor, "pairs"], text: Int[Tensor, "pairs"]
    ) -> BridgePrediction:
        """Pairs of images and sentences, each encoded once; masks `[pairs, 1, h, w]` at four times SAM's grid.

        In evaluation the queries are asked only where a no-target answer is wanted.
        """
        names, offset = self.names(texts) if self.asks_queries() else (None, 0)
        said = self.bridge(images, texts, image, text, names)
        dense = self.bridge.prompt(said.dense, (self.sam.grid,) * 2, self.sam.no_mask(1)[0, :, 0, 0])
        masks = self.sam.decode_masks(images.sam[image], said.sparse, dense).mask_logits[:, :1]
        return BridgePrediction(
            mask_logits=masks,
            covers="picture",
            outputs=said.outputs,
            column=text + offset,
            target_logits=said.target_logits,
        )

    def asks_queries(self) -> bool:
        """Whether the query module is needed: in training, and where a no-target answer is wanted."""
        return self.training or (self.bridge.queries.no_target is not None and self.answers)

    def names(self, texts: TextFeatures) -> tuple[Names, int]:
        """The sentences (in training of all processes) and the category table; where the own sentences begin."""
        clip, sentences, offset = texts.clip, texts.words[:, 0], 0
        if self.training:
            clip, offset = from_all_processes(clip)
            sentences, _ = from_all_processes(sentences)
        return Names(torch.cat((clip, self.table().to(clip.dtype))), sentences), offset

    def encode_images(self, clip: Clip) -> ImageFeatures:
        """Both frozen encoders' features of every frame of every video."""
        if self.cache is not None:
            return cached.read(self.cache, clip)
        frames = pictures(clip)
        square = torch.cat([resized(f, self.sam.image_size, "bilinear") for f in frames])
        if self.preset.clip_from_square:
            side = self.tower.image_size
            small = functional.interpolate(square, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
        else:
            small = torch.cat([resized(f, self.tower.image_size, "bicubic") for f in frames])
        return ImageFeatures(self.sam.encode(square)[-1], self.tower.look(small))

    def encode_texts(self, expressions: list[str], rows: Int[Tensor, "texts"] | None = None) -> TextFeatures:
        """Words, CLIP vector and sparse query of every sentence; `rows`: annotated categories, for the oracle."""
        ids, real = self.tokens(expressions)
        words = self.text.finish(self.text.run(self.text.embed(ids, real), real, 0, self.text.depth))
        words = self.word_projection(words)
        clip = self.tower.read(expressions, self.preset.start_token)
        return self.query(words, real, clip, rows)

    def query(
        self,
        words: Float[Tensor, "texts words c"],
        real: Bool[Tensor, "texts words"],
        clip: Float[Tensor, "texts text"],
        rows: Int[Tensor, "texts"] | None,
    ) -> TextFeatures:
        """Completes text features with what the sparse token starts from."""
        if self.sparse_source == "cls":
            return TextFeatures(words, real, clip, words[:, 0])
        table = self.table()
        if self.sparse_source == "category_gt":
            return TextFeatures(words, real, clip, self.category_projection(table[rows]))
        things = table[: THINGS if self.categories == COCO_PANOPTIC else -1]
        guess = functional.normalize(clip, dim=-1) @ functional.normalize(things, dim=-1).T / self.temperature
        return TextFeatures(words, real, clip, guess.softmax(-1) @ self.category_projection(things))

    def tokens(self, expressions: list[str]) -> tuple[Int[Tensor, "texts words"], Bool[Tensor, "texts words"]]:
        """Token ids, cut to `words` with the end token kept, and which are real."""
        ids, real = self.text.tokenize(expressions)
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        most = self.most_words
        if ids.shape[1] > most:
            end = ids.gather(1, real.sum(1, keepdim=True) - 1)
            long = real[:, most : most + 1]
            ids, real = ids[:, :most].clone(), real[:, :most]
            ids[:, -1:] = torch.where(long, end, ids[:, -1:])
        if self.preset.pads and ids.shape[1] < most:
            missing = (0, most - ids.shape[1])
            ids = functional.pad(ids, missing, value=self.text.tokenizer.pad)
            real = functional.pad(real, missing, value=False)
        return ids, real

    def table(self) -> Float[Tensor, "categories text"]:
        """CLIP's vector of every category name, read once from a frozen tower."""
        if self.tower.frozen and bool(self.category_table.any()):
            return self.category_table
        said = [spoken(name) for name in self.categories]
        vectors = self.tower.read([word for words in said for word in words])
        rows = [part.mean(0) for part in vectors.split([len(words) for words in said])]
        table = functional.normalize(torch.stack(rows), dim=-1)
        if self.tower.frozen:
            self.category_table = table
        return table

    def _rows(self, clip: Clip) -> Int[Tensor, "texts"] | None:
        """Rows of the annotated categories.

        Raises:
            ValueError: an item has none; names it.
        """
        if not self.oracle:
            return None
        rows = []
        for meta in clip.meta:
            if meta.facts.category is None:
                raise ValueError(
                    f"{meta.source or 'data'}: item {meta.item!r} of {meta.video!r} has no annotated category, which "
                    "network.sparse_source category_gt feeds into the network; set sparse_source cls"
                )
            rows.append(row_of(meta.facts.category.split(", ")[0], self.categories))
        return torch.tensor(rows, device=clip.video.device)


@torch.compiler.disable  # sizes differ from batch to batch, and there is nothing to compute
def pictures(clip: Clip) -> list[Float[Tensor, "time 3 _h _w"]]:
    """Every video's frames without the padding that a batch of several sizes has."""
    sizes = {int(video): meta.size for video, meta in zip(clip.video, clip.meta, strict=True)}
    whole = tuple(clip.frames.shape[-2:])
    cut = [sizes.get(video, whole) for video in range(len(clip.frames))]
    return [frames[..., :h, :w] for frames, (h, w) in zip(clip.frames, cut, strict=True)]


def resized(images: Float[Tensor, "n 3 _h _w"], side: int, mode: str) -> Float[Tensor, "n 3 side side"]:
    """Squashed to a square, antialiased."""
    if images.shape[-2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode=mode, align_corners=False, antialias=True).clamp(0, 1)
