"""Speed of SAM + CLIP on this machine: query module, training step with the feature cache, evaluation by image.

    python tests/benchmarks/bench_clip_sam.py queries     the query module against one sample after the other
    python tests/benchmarks/bench_clip_sam.py cache       a training step with cached features against online encoders
    python tests/benchmarks/bench_clip_sam.py grouped     a picture's sentences together against one by one

`queries`: 8 sentences at the published sizes, forward and training step, outputs compared. The slow truth is the same
module asked sample by sample, each with its own image, as the released code loops; ours computes what follows from the
image once per image. RefCOCO has 7.1 sentences an image; both ends, one image and eight images, are printed.
`cache`: encoders of the published sizes; ours reads the same features from a cache.
`grouped`: masks of a picture's sentences, encoders of the published sizes; then the same without asking the queries.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rvos_lightning.core.types import Batch, Clip, ClipMeta, Targets
from rvos_lightning.parts.segmenters.sam import Sam
from rvos_lightning.parts.text.bert import Bert
from rvos_lightning.parts.text.roberta import TextSize
from rvos_lightning.systems.clip_sam.network import ClipSam
from rvos_lightning.systems.clip_sam.queries import Dfam, Names
from rvos_lightning.systems.clip_sam.towers import ClipTower


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Least time of a call after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def queries(batch: int, repeats: int, small: bool) -> dict[str, float]:
    """Ratios of times, after checking that outputs are equal."""
    torch.manual_seed(0)
    grid, width = (16, 64) if small else (64, 256)
    dfam = Dfam(width=width, text=width, queries=20 if small else 100, hidden=4 * width, no_target=True).eval()
    clip = [torch.randn(batch, width, grid // s, grid // s) for s in ((8, 4, 2) if small else (5, 3, 2))]
    names = Names(torch.randn(batch + 134, width), torch.randn(batch, width))
    ratios = {}
    for images in (1, batch):
        sam = torch.randn(images, width, grid, grid)
        levels = [torch.nn.functional.avg_pool2d(sam, s) for s in (4, 2, 1)]
        image = torch.zeros(batch, dtype=torch.long) if images == 1 else torch.arange(batch)

        def ours(sam=sam, levels=levels, image=image):
            return dfam(sam, levels, clip, names, image)

        def slow(sam=sam, levels=levels, image=image):
            found = []
            for b, i in enumerate(image.tolist()):
                one = [level[i : i + 1] for level in levels]
                found.append(dfam(sam[i : i + 1], one, [c[b : b + 1] for c in clip], names, torch.zeros(1).long()))
            return found

        compare(ours(), slow())
        with torch.no_grad():
            forward = seconds(slow, repeats) / seconds(ours, repeats)
        step = seconds(lambda: backward(dfam, slow()), repeats) / seconds(lambda: backward(dfam, [ours()]), repeats)
        what = f"{batch} sentences, {'one image' if images == 1 else f'{images} images'}"
        ratios |= {f"{what}: forward": forward, f"{what}: training step": step}
    return ratios


def compare(ours: tuple, slow: list[tuple]) -> None:
    """Outputs equal up to rounding."""
    outputs, absent = ours
    for k, output in enumerate(outputs):
        masks = torch.cat([one[0][k].masks for one in slow])
        assert torch.allclose(output.masks[output.image], masks, atol=1e-3), "masks"
        logits = torch.cat([one[0][k].clip_logits for one in slow])
        assert torch.allclose(output.clip_logits, logits, atol=1e-3), "logits"
    assert torch.allclose(absent, torch.cat([one[1] for one in slow]), atol=1e-3), "no target"


def backward(dfam: Dfam, found: list[tuple]) -> None:
    """Gradients of a loss on everything."""
    dfam.zero_grad()
    loss = sum(
        o.masks.square().mean() + o.clip_logits.mean() + o.sentence_logits.mean() for one in found for o in one[0]
    )
    (loss + sum(one[1].mean() for one in found)).backward()


def data(batch: int, side: int) -> Batch:
    """Random pictures with a rectangle each."""
    frames = torch.rand(batch, 1, 3, side, side)
    meta = [ClipMeta(f"v{i}", "0", ("0",), (side, side), (side, side), (0,), "made") for i in range(batch)]
    masks = torch.zeros(batch, 1, side, side, dtype=torch.bool)
    masks[..., side // 4 : side // 2, side // 4 : side // 2] = True
    clip = Clip(frames, torch.arange(batch), ["the red circle"] * batch, meta)
    return Batch(clip, Targets(masks, torch.ones(batch, 1, dtype=torch.bool)))


def build(small: bool, **options: object) -> ClipSam:
    """The network with seeded weights; `small`: 256 px and a CLIP of width 256."""
    torch.manual_seed(0)
    clip = {"embed_dim": 64, "quick_gelu": True,
            "vision_cfg": {"image_size": 112, "layers": 24, "width": 256, "head_width": 64, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}}  # fmt: skip
    tower = ClipTower(size=clip) if small else ClipTower()
    sam, text = Sam("sam_b", image_size=256 if small else 1024), Bert(size=TextSize(0, 768, 12, 12, 3072, 64))
    return ClipSam(sam, tower, text, **options)  # type: ignore[arg-type]


def cache(batch: int, repeats: int, small: bool) -> dict[str, float]:
    """How many times faster a training step is, and what the frozen encoders weighed."""
    from callbacks.bridge import DecoderMasks, QueryMatching

    drawn = data(batch, 256 if small else 1024)
    losses = [DecoderMasks(), QueryMatching(points=1024 if small else 12544)]

    def step(network: ClipSam) -> None:
        prediction = network(drawn.clip)
        terms = [t for loss in losses for t in loss.terms(drawn, prediction).values()]
        torch.stack(terms).sum().backward()

    online = build(small).train()
    slow = seconds(lambda: step(online), repeats)
    with tempfile.TemporaryDirectory() as folder:
        writer = online.feature_writer(Path(folder), 256)
        online.keep(writer, drawn.clip)
        writer.flush()
        offline = build(small, features=Path(folder)).train()
        fast = seconds(lambda: step(offline), repeats)
    weights = [sum(p.numel() for p in network.parameters()) * 4 / 2**20 for network in (online, offline)]
    return {"training step, cached": slow / fast, "MiB of weights, online": weights[0], "MiB, cached": weights[1]}


@torch.no_grad()
def grouped(batch: int, repeats: int, small: bool) -> dict[str, float]:
    """Ratios of times, after checking that masks are equal."""
    network = build(small, no_target=True).eval()
    frames, side = data(1, 256 if small else 1024).clip.frames, 256 if small else 1024
    said = [f"the {word} thing" for word in ("red", "blue", "left", "right", "big", "small", "first", "last")[:batch]]

    def ask(sentences: list[str]) -> torch.Tensor:
        meta = [ClipMeta("v", str(i), ("0",), (side, side), (side, side), (0,), "made") for i in range(len(sentences))]
        return network(Clip(frames, torch.zeros(len(sentences), dtype=torch.long), sentences, meta)).mask_logits

    assert torch.allclose(ask(said), torch.cat([ask([each]) for each in said]), atol=1e-3), "masks"
    together = seconds(lambda: ask(said), repeats)
    alone = seconds(lambda: [ask([each]) for each in said], repeats)
    images = seconds(lambda: network.encode_images(Clip(frames, torch.zeros(1, dtype=torch.long), said[:1],
                     [ClipMeta("v", "0", ("0",), (side, side), (side, side), (0,), "made")])), repeats)  # fmt: skip
    asked = ask(said)
    network.answers = False
    assert torch.equal(ask(said), asked), "masks without queries"
    skipped = seconds(lambda: ask(said), repeats)
    return {
        f"{batch} sentences of a picture, together": alone / together,
        "without queries, all": together / skipped,
        "without queries, encoders left out": (together - images) / (skipped - images),
    }


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("queries", "cache", "grouped"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="small sizes")
    options = parser.parse_args()
    measured = {"queries": queries, "cache": cache, "grouped": grouped}[options.what](
        options.batch, options.repeats, options.small
    )
    for name, value in measured.items():
        print(f"{name:44s} {value:8.2f}")


if __name__ == "__main__":
    main()
