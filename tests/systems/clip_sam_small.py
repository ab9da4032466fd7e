"""Small SAM + CLIP networks and recipes for tests."""

from pathlib import Path

import torch
import yaml

from rvos_lightning.core.types import Batch, Clip, ClipMeta, Facts, Targets
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.text.bert import Bert
from rvos_lightning.parts.text.roberta import TextSize
from rvos_lightning.systems.clip_sam.bridge import Sizes
from rvos_lightning.systems.clip_sam.network import ClipSam
from rvos_lightning.systems.clip_sam.towers import ClipTower

CLIP = {
    "embed_dim": 32, "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}  # fmt: skip


def small(**options) -> ClipSam:
    """A network with frozen random encoders."""
    torch.manual_seed(0)
    text = Bert(size=TextSize(0, 32, 2, 4, 64, 40, 0.0))
    sizes = options.pop("sizes", Sizes(queries=8, pixel_layers=1, heads=4, hidden=64))
    return ClipSam(Sam("small", image_size=64), ClipTower(size=CLIP), text, sizes=sizes, **options)


def batch(sentences: list[str], videos: int | None = None, time: int = 1, side: int = 64, **facts) -> Batch:
    """Random frames; sentence i looks at video i modulo `videos` and means one rectangle."""
    videos = videos or len(sentences)
    drawn = torch.Generator().manual_seed(1)
    frames = torch.rand(videos, time, 3, side, side, generator=drawn)
    video = torch.arange(len(sentences)) % videos
    names = tuple(str(t) for t in range(time))
    meta = [
        ClipMeta(f"v{int(v)}", str(i), names, (side, side), (side, side), tuple(range(time)), "made",
                 facts=Facts(**facts), objects=(i,))
        for i, v in enumerate(video)
    ]  # fmt: skip
    masks = torch.zeros(len(sentences), time, side, side, dtype=torch.bool)
    for i in range(len(sentences)):
        masks[i, :, 4 * i : 4 * i + 16, 8:32] = True
    return Batch(Clip(frames, video, sentences, meta), Targets(masks, torch.ones(len(sentences), time).bool()))


def frozen_recipe(folder: Path, **network) -> Path:
    """configs/clip_sam.yaml with frozen random encoders, as the published recipes have."""
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "clip_sam.yaml").read_text())
    options = config["model"]["network"]["init_args"]
    options["tower"] = {"class_path": "rvos_lightning.systems.clip_sam.towers.ClipTower", "init_args": {"size": CLIP}}
    options |= {"train_encoders": False, "categories": None, **network}
    path = folder / "frozen.yaml"
    path.write_text("# frozen encoders\n" + yaml.safe_dump(config))
    return path
