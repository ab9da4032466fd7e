"""MovingShapes, the embedded data set: every clip is drawn from (seed, split, index) alone, no files.

A sentence such as "the red circle that moves left and then stops" needs words and time: every distractor differs
from the target in exactly one of shape, colour, size and motion. Train, validation and test never share a scene:
a hash of the scene decides which split it may occur in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from rvos_lightning.core.bounds import FromZero
from rvos_lightning.core.types import Facts
from rvos_lightning.data.reader import DataError, Item, Reader, Video
from rvos_lightning.data.shapes.grammar import VOCABULARY, Query, resolve, word
from rvos_lightning.data.shapes.kinds import MAKERS, PRESETS, STILL, Preset
from rvos_lightning.data.shapes.render import render
from rvos_lightning.data.shapes.scene import Scene
from rvos_lightning.data.video_data import Split, VideoData

__all__ = ["VOCABULARY", "MovingShapes", "ShapesReader"]

LabelKind = Literal["shape", "colour", "size", "direction", "column", "row"]
Difficulty = Literal["easy", "medium", "hard"]
_BUCKETS = {"train": (0, 1, 2, 3), "val": (4, 5), "test": (6, 7)}
_NAMED = ("tracking_bias", "occlusion", "multi", "no_target")
_TRIES = 200


@dataclass(frozen=True)
class Story:
    """A scene and what is said about it: (sentence, indices of the things meant) per expression."""

    scene: Scene
    expressions: tuple[tuple[str, tuple[int, ...]], ...]


def split_of(scene: Scene) -> str:
    """The only split a scene may occur in, by a hash of everything visible but the background."""
    bucket = crc32(scene.signature().encode()) % 8
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def has_double(scene: Scene, index: int) -> bool:
    """Whether another thing looks just like this one, so that the sentence's direction alone tells them apart."""
    looks = [(thing.shape, thing.colour, thing.size) for thing in scene.things]
    return looks.count(looks[index]) > 1


class _Lazy(Sequence):
    """A sequence whose elements are made when asked for."""

    def __init__(self, length: int, make: Any) -> None:
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return self.make(index % self.length)

    def __iter__(self) -> Iterator[Any]:
        return (self.make(index) for index in range(self.length))


class ShapesReader(Reader):
    """Draws the clips of one split.

    Args:
        split: decides, with `seed`, what is drawn.
        clips: number of videos.
        expressions: sentences a video.
        preset: what scenes are made of.
        size: side of the square frames, in pixels.
        frames: frames a video.
        seed: of the data set.
    """

    name = "moving_shapes"

    def __init__(
        self, split: str, clips: int, expressions: int, preset: Preset, size: int, frames: int, seed: int
    ) -> None:
        self.split, self.clips, self.expressions, self.preset = split, clips, expressions, preset
        self.size, self.frames, self.seed = size, frames, seed
        names = tuple(f"{i:05d}" for i in range(frames))
        self.videos = _Lazy(clips, lambda i: Video(f"{split}_{i:06d}", names, (size, size)))
        self.items = _Lazy(clips * expressions, self._item)
        kinds = {kind: weight for kind, weight in preset.kinds.items() if weight > 0}
        self.kinds = tuple(kinds)
        self.chances = np.cumsum([kinds[kind] for kind in self.kinds]) / sum(kinds.values())
        self._forget()

    def _forget(self) -> None:
        self.story = lru_cache(maxsize=64)(self._tell)
        self.picture = lru_cache(maxsize=2)(self._draw)

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: getattr(self, key) for key in ("split", "clips", "expressions", "preset", "size", "frames", "seed")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def _random(self, index: int, *more: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, sorted(_BUCKETS).index(self.split), index, *more))

    def _tell(self, index: int) -> Story:
        """The first story of this index whose scene belongs to this split and which can be told without doubt."""
        random = self._random(index)
        kind = self.kinds[int(np.searchsorted(self.chances, random.random(), side="right"))]
        for _ in range(_TRIES):
            scene, queries = MAKERS[kind](self.preset, random)
            if split_of(scene) == self.split and (told := self._told(scene, queries, random)):
                return Story(scene, told)
        raise RuntimeError(f"no scene of kind {kind!r} in {_TRIES} tries: the preset is too narrow for it")

    def _told(
        self, scene: Scene, queries: list[Query], random: np.random.Generator
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """`expressions` sentences: the main one, others of other things, then paraphrases; () if the main one fails."""
        meant = [(query, resolve(scene, query)) for query in queries]
        main = meant[0][1]
        expected = () if scene.kind == "no_target" else main if scene.target < 0 else (scene.target,)
        if scene.kind in ("speed", "relation") and main is not None and len(main) == 1:
            expected = main
        if main is None or main != expected or (scene.kind == "multi" and len(main) < 2):
            return ()
        others = [pair for pair in meant[1:] if pair[1]]
        random.shuffle(others)
        chosen = [(queries[0], main), *others][: self.expressions]
        while len(chosen) < self.expressions:
            chosen.append(chosen[len(chosen) % (1 + len(others))])
        return tuple((word(query, random), things) for query, things in chosen)

    def _item(self, index: int) -> Item:
        video, number = divmod(index, self.expressions)
        story = self.story(video)
        sentence, things = story.expressions[number]
        kind = story.scene.kind
        if kind in ("no_target", "multi") and (len(things) == 1):
            kind = "attributes"  # a further sentence about one thing of that scene
        shapes = ", ".join(dict.fromkeys(story.scene.things[t].shape for t in things)) or None
        facts = Facts(kind=kind, category=shapes)
        subsets = (kind,)
        if kind == "attributes" and self.preset.moving and len(things) == 1:
            subsets += ("direction" if has_double(story.scene, things[0]) else "looks",)
        return Item(video, str(number), sentence, tuple(t + 1 for t in things), subsets, facts)

    def _draw(self, video: int) -> tuple[Tensor, Tensor]:
        frames, labels = render(
            self.story(video).scene,
            self.size,
            self.frames,
            self._random(video, 1),
            self.preset.strength,
            self.preset.drift,
        )
        return torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def read_frames(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time 3 height width"]:
        """Frames of a video; drawn anew unless it was the last or last but one."""
        return self.picture(video)[0][list(positions)].contiguous()

    def read_labels(self, video: int, positions: Sequence[int]) -> UInt8[Tensor, "time height width"]:
        """Per pixel 1 + index of the thing seen there, 0 for ground: what an annotator's palette PNG would hold."""
        return self.picture(video)[1][list(positions)]

    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]]:
        """Visible pixels of the things the sentence means; every frame is annotated."""
        video, number = divmod(item, self.expressions)
        labels = self.read_labels(video, positions)
        masks = torch.zeros_like(labels, dtype=torch.bool)
        for thing in self.story(video).expressions[number][1]:
            masks |= labels == thing + 1
        return masks, torch.ones(len(positions), dtype=torch.bool)

    def read_instances(self, item: int, positions: Sequence[int]) -> Bool[Tensor, "objects time height width"]:
        """See `Reader.read_instances`."""
        video, number = divmod(item, self.expressions)
        labels, things = self.read_labels(video, positions), self.story(video).expressions[number][1]
        return torch.stack([labels == thing + 1 for thing in things]) if things else labels[None, :].bool()[:0]

    def item_videos(self) -> Int[np.ndarray, "items"]:
        """Video of every item, without drawing any."""
        return np.repeat(np.arange(self.clips), self.expressions)


class MovingShapes(VideoData):
    """The embedded data set, drawn as it is needed.

    Args:
        difficulty: easy (shape, colour and direction only; learnable from scratch in minutes), medium and hard
            (every kind of expression; more shapes, colours and directions; busier backgrounds).
        kinds: kind of expression -> weight, instead of the preset's. Kinds: attributes, size, turn, stop, start, speed,
            relation, late, tracking_bias, occlusion, multi, no_target; each is also a named subset in the scores.
            Those of attributes are scored once more as `direction`, where another thing looks alike, or `looks`.
        stills: pictures of things that do not move: kinds attributes, size, relation, multi and no_target, without a
            word on motion, so that one frame tells all.
        size: side of the square frames, in pixels.
        clip_length: frames in a clip.
        video_length: frames in a video; None: as in a clip.
        train_clips, val_clips, test_clips: videos in each split.
        expressions_per_video: sentences about each video.
        labels: names of attributes instead of sentences: an item a video for every name of these kinds, meaning all
            things that have it, or none; true means shape, colour, size and direction; `column` and `row` are the
            parts of things left and right of, above and below their centres. Give `items_per_video` as many. For
            classifiers.
        questions: questions with answers in words (`Facts.answer`) instead of sentences: is there such a thing, where,
            which way, what colour, shape or size, how many, what is there, which mean no pixels, and sentences to point
            by; kind -> how often it is asked instead of true, the rest are captions (`questions.KINDS`).
        distractors: things that differ from the target in one respect, instead of the preset's number.
        data_seed: decides what is drawn; `seed` decides the order in training.
        kwargs: see `VideoData`.
    """

    licence = "MovingShapes, drawn by this package: Apache-2.0"

    def __init__(
        self,
        difficulty: Difficulty = "easy",
        kinds: dict[str, float] | None = None,
        stills: bool = False,
        size: int = 96,
        clip_length: int = 8,
        video_length: int | None = None,
        train_clips: int = 4096,
        val_clips: int = 64,
        test_clips: int = 256,
        expressions_per_video: int = 2,
        labels: bool | list[LabelKind] = False,
        questions: bool | dict[str, float] = False,
        distractors: FromZero | None = None,
        data_seed: int = 0,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            size=size, clip_length=clip_length, batch_size=batch_size, eval_batch_size=eval_batch_size, **kwargs
        )
        preset = PRESETS[difficulty]
        if stills:
            preset = replace(preset, moving=False, kinds=STILL)
        if kinds is not None:
            preset = replace(preset, kinds=dict(kinds))
        self.preset = preset if distractors is None else replace(preset, distractors=distractors)
        self.clips = {"train": train_clips, "val": val_clips, "test": test_clips}
        self.side, self.video_length = size, video_length or clip_length
        self.expressions_per_video, self.data_seed, self.labels = expressions_per_video, data_seed, labels
        self.questions = questions

    def check(self) -> None:
        """Also refuses kinds of expression that do not exist or have no weight."""
        from rvos_lightning.data.shapes.questions import MAKERS as ASKED

        super().check()
        unknown = sorted(set(self.preset.kinds) - set(MAKERS))
        moving = sorted(set(self.preset.kinds) - set(STILL)) if not self.preset.moving else []
        if moving:
            raise DataError(f"data.kinds: {moving[0]!r} needs motion; with data.stills give some of {', '.join(STILL)}")
        if unknown or not sum(self.preset.kinds.values()) > 0:
            what = f"unknown {unknown[0]!r}" if unknown else "no positive weight"
            raise DataError(f"data.kinds: {what}; give weights for some of {', '.join(MAKERS)}")
        if isinstance(self.questions, dict) and (unknown := sorted(set(self.questions) - set(ASKED))):
            raise DataError(f"data.questions: unknown {unknown[0]!r}; give shares of some of {', '.join(ASKED)}")

    def reader(self, split: Split) -> ShapesReader:
        """The reader of a split; prediction runs on the test split."""
        from rvos_lightning.data.shapes.labels import OF_THINGS, LabelReader, labels_of
        from rvos_lightning.data.shapes.questions import KINDS, QuestionReader

        split = "test" if split == "predict" else split
        rest = (self.preset, self.side, self.video_length, self.data_seed)
        if self.questions:
            shares = KINDS if self.questions is True else self.questions
            return QuestionReader(split, self.clips[split], self.expressions_per_video, *rest, shares=shares)
        if not self.labels:
            return ShapesReader(split, self.clips[split], self.expressions_per_video, *rest)
        kinds = OF_THINGS if self.labels is True else self.labels
        return LabelReader(split, self.clips[split], len(labels_of(self.preset, kinds)), *rest, kinds=kinds)
