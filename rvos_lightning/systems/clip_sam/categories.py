"""COCO's panoptic category names in their usual order (80 things, 53 stuff classes), and "background"."""

COCO_PANOPTIC: tuple[str, ...] = tuple(
    name.strip()
    for name in """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush, banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel, house,
light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow, stairs,
tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other, tree-merged,
fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged, floor-other-merged, pavement-merged,
mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged, building-other-merged, rock-merged,
wall-other-merged, rug-merged, background
""".replace("\n", " ").split(",")
)
"""134 rows of the category table."""

THINGS = 80

_MERGED: dict[str, tuple[str, ...]] = {
    "tree-merged": ("tree", "bush"),
    "fence-merged": ("fence", "cage"),
    "ceiling-merged": ("ceiling",),
    "sky-other-merged": ("sky", "clouds"),
    "cabinet-merged": ("cabinet", "cupboard"),
    "table-merged": ("table", "desk"),
    "floor-other-merged": ("floor", "carpet"),
    "pavement-merged": ("pavement",),
    "mountain-merged": ("mountain", "hill"),
    "grass-merged": ("grass", "leaves", "moss"),
    "dirt-merged": ("dirt", "mud"),
    "paper-merged": ("paper", "cardboard"),
    "food-other-merged": ("food", "vegetable", "salad"),
    "building-other-merged": ("building", "skyscraper"),
    "rock-merged": ("rock", "stone"),
    "wall-other-merged": ("wall", "concrete wall"),
    "rug-merged": ("rug", "mat"),
}


def spoken(name: str) -> tuple[str, ...]:
    """What is given to CLIP's text tower for a row: the bare name, or the synonyms of a merged class."""
    return _MERGED.get(name, (name.replace("-stuff", "").replace("-other", "").replace("-", " "),))


def row_of(category: str, table: tuple[str, ...]) -> int:
    """The row of a category's name.

    Raises:
        ValueError: no such row; names the table's size and ends.
    """
    if category in table:
        return table.index(category)
    raise ValueError(
        f"category {category!r} is not in the table of {len(table)} names ({table[0]} to {table[-1]}); give network."
        "categories that hold it, or sparse_source: cls, which needs no category"
    )
