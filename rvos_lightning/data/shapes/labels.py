"""Names of attributes instead of sentences: what a classifier of things and their motions is taught with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from rvos_lightning.data.reader import Item
from rvos_lightning.data.shapes.kinds import Preset
from rvos_lightning.data.shapes.moving_shapes import LabelKind, ShapesReader, Story
from rvos_lightning.data.shapes.render import frame_times
from rvos_lightning.data.shapes.scene import SIZES, Thing

OF_THINGS: tuple[LabelKind, ...] = ("shape", "colour", "size", "direction")
PARTS = {"left part": (0, -1), "right part": (0, 1), "upper part": (1, -1), "lower part": (1, 1)}
"""Name of a part of a thing -> axis (x, y) and side of the thing's centre on which its pixels lie."""


def labels_of(preset: Preset, kinds: Sequence[LabelKind] = OF_THINGS) -> tuple[tuple[str, str], ...]:
    """(kind, name) of every attribute of the kinds that things of a preset can have, in the order of the kinds.

    Shapes, colours, sizes and directions are of whole things; `column` and `row` say where in its thing a pixel is.
    """
    names = {
        "shape": preset.shapes,
        "colour": preset.colours,
        "size": tuple(size for size in SIZES if size),
        "direction": preset.directions if preset.moving else (),
        "column": ("left part", "right part"),
        "row": ("upper part", "lower part"),
    }
    return tuple((kind, name) for kind in kinds for name in names[kind])


def has(thing: Thing, kind: str, name: str) -> bool:
    """Whether a label says what the thing is; of motions only steady ones have a direction; everything has parts."""
    if name in PARTS:
        return True
    if kind == "direction":
        return thing.motion.action == "steady" and thing.motion.direction == name
    return getattr(thing, kind) == name


class LabelReader(ShapesReader):
    """The same videos, each with one item for every label of the preset: all things that it is true of, often none.

    Items are in the order of `labels_of`, and in a subset named after the kind. A label of parts means the pixels on
    one side of the centres of all things.

    Args:
        kinds: of labels.
        others: see `ShapesReader`.
    """

    def __init__(self, *others: Any, kinds: Sequence[LabelKind] = OF_THINGS, **named: Any) -> None:
        super().__init__(*others, **named)
        self.label_kinds, self.labels = tuple(kinds), labels_of(self.preset, kinds)
        assert self.expressions == len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"kinds": self.label_kinds}

    def _tell(self, index: int) -> Story:
        scene = super()._tell(index).scene
        meant = [tuple(i for i, thing in enumerate(scene.things) if has(thing, *label)) for label in self.labels]
        names = [name for _, name in self.labels]
        return Story(scene, tuple(zip(names, meant, strict=True)))

    def _item(self, index: int) -> Item:
        kind = self.labels[index % self.expressions][0]
        item = super()._item(index)
        return replace(item, subsets=(kind,), facts=replace(item.facts, kind=kind))

    def read_masks(
        self, item: int, positions: Sequence[int]
    ) -> tuple[Bool[Tensor, "time height width"], Bool[Tensor, "time"]]:
        """Visible pixels that the label means; every frame is annotated."""
        video, number = divmod(item, self.expressions)
        name, things = self.story(video).expressions[number]
        if name not in PARTS:
            return super().read_masks(item, positions)
        axis, side = PARTS[name]
        labels, times = self.read_labels(video, positions), frame_times(self.frames)[list(positions)]
        places = (torch.arange(self.size) + 0.5) / self.size
        places = places[None, None, :] if axis == 0 else places[None, :, None]
        masks = torch.zeros_like(labels, dtype=torch.bool)
        for thing in things:
            centres = torch.from_numpy(self.story(video).scene.things[thing].centres(times)[:, axis])
            masks |= (labels == thing + 1) & ((places - centres[:, None, None]) * side > 0)
        return masks, torch.ones(len(positions), dtype=torch.bool)
