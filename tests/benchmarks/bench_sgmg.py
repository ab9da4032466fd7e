"""SgMg: the published arithmetic step by step (the slow truth) against ours, on the very same modules and weights.

    python tests/benchmarks/bench_sgmg.py                                   # 160 x 192, two frames
    python tests/benchmarks/bench_sgmg.py --size 360 640 --frames 5         # as published

The slow truth is written from the paper's formulas: whole complex spectra, a real 3 x 3 convolution in every gate,
kernels of all decoder layers and queries on features with coordinates beside them, mask and features concatenated for
every mask that is refined, torchvision's windows, transformers' sampling, PyTorch's linear layers, and every sentence
alone with its video encoded anew. Times are processor time, so that
a busy machine changes ratios little. Outputs must agree.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from callbacks.matching import SetMatching  # noqa: E402
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Targets  # noqa: E402
from rvos_lightning.parts.layers.linear import OneDnnLinear  # noqa: E402
from rvos_lightning.parts.text.roberta import Roberta, TextSize  # noqa: E402
from rvos_lightning.systems.sgmg.kernels import PatchKernels  # noqa: E402
from rvos_lightning.systems.sgmg.network import SgMg, take  # noqa: E402
from rvos_lightning.systems.sgmg.refiner import Refiner  # noqa: E402
from rvos_lightning.systems.sgmg.sampling import BagAttention  # noqa: E402
from rvos_lightning.systems.sgmg.spectral import SpectralBlock  # noqa: E402
from rvos_lightning.systems.sgmg.video_swin import VideoSwin  # noqa: E402
from rvos_lightning.systems.sgmg.windows import WindowAttention  # noqa: E402

WORDS = ("the dog that runs to the left", "a bird", "the second car from the right turning", "person in red")


def build(variant: str) -> SgMg:
    """The published widths; a short text encoder, which both sides share."""
    torch.manual_seed(0)
    net = SgMg(VideoSwin(variant), Roberta(size=TextSize(1000, layers=2, dropout=0.0), pooler=True), dropout=0.0)
    for block in net.backbone.modules():
        if hasattr(block, "p") and type(block).__name__ == "StochasticDepth":
            block.p = 0.0
    return net


def spectral(self: SpectralBlock, x: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """By the definition."""
    share = self.gate(self.local(x).mean((2, 3)))
    spectrum = torch.fft.fft2(x) * (1 - share[:, :, None, None] * soft)
    mixed = self.mix_out(torch.relu(self.mix_in(torch.cat([spectrum.real, spectrum.imag], 1))))
    return x + torch.fft.ifft2(torch.complex(*mixed.chunk(2, 1))).real


def kernels(self: PatchKernels, parameters: torch.Tensor, features: torch.Tensor, centres: torch.Tensor):
    """Coordinates relative to every query beside a copy of the features."""
    weight1, weight2, bias1, bias2 = parameters.split(self.splits, -1)
    relative = centres[..., None] - self.cells(features).flatten(2)[None, :, None]
    seen = torch.cat([features.flatten(2)[None, :, None].expand(*relative.shape[:3], -1, -1), relative], 3)
    hidden = torch.relu(weight1.unflatten(-1, (self.inner, -1)) @ seen + bias1[..., None])
    masks = weight2.unflatten(-1, (self.outer, -1)) @ hidden + bias2[..., None]
    return masks.unflatten(-1, features.shape[-2:])


def refine(self: Refiner, masks: torch.Tensor, seen: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mask and features through one convolution, features once for every mask."""
    for index, (first, second) in enumerate(((self.coarse_in, self.coarse_out), (self.fine_in, self.fine_out))):
        features = seen[1 - index]
        if index:
            masks = F.interpolate(masks, size=features.shape[-2:], mode="bilinear")
        masks = masks + second(torch.relu(first(torch.relu(torch.cat([masks, features], 1)))))
    return masks


def every_layer(self: SgMg, clip: Clip, seen, choose=None):
    """Masks of all layers and queries, one of which is then picked."""
    if choose is not None:
        return SEGMENT(self, clip, seen, choose)

    def best(candidates):
        index = candidates.logits[-1].sigmoid().mean(1).argmax(1)
        return index.expand(len(candidates.logits), -1)

    seen = seen.of_items(clip.video)
    decoded, features, candidates = self.answer(clip, seen)
    coarse = take(self.coarse(decoded, features, seen), best(candidates).repeat_interleave(seen.time, 1))[-1:]
    return self.on_frames(self.refined(coarse, seen).unflatten(1, (len(clip), seen.time))[-1], clip)


SEGMENT = SgMg.segment


@contextlib.contextmanager
def slow():
    """The slow truth in place of our fast paths."""
    changes = [
        (SpectralBlock, "forward", spectral),
        (PatchKernels, "apply_kernels", kernels),
        (Refiner, "forward", refine),
        (Refiner, "see", lambda self, fine, coarse: (fine, coarse)),
        (SgMg, "segment", every_layer),
        (BagAttention, "forward", MultiScaleDeformableAttention.forward),
        (WindowAttention, "forward", ShiftedWindowAttention3d.forward),
        (OneDnnLinear, "forward", torch.nn.Linear.forward),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, change in changes:
        setattr(owner, name, change)
    try:
        yield
    finally:
        for owner, name, old in kept:
            setattr(owner, name, old)


def clip_of(size: tuple[int, int], frames: int, texts: tuple[str, ...]) -> Clip:
    """Noise, and sentences about it."""
    names = tuple(map(str, range(frames)))
    pixels = torch.rand(1, frames, 3, *size, generator=torch.Generator().manual_seed(1))
    meta = [ClipMeta("v", str(i), names, size, size) for i in range(len(texts))]
    return Clip(pixels, torch.zeros(len(texts), dtype=torch.long), list(texts), meta)


def timed(work: Callable[[], object], repeats: int) -> tuple[float, object]:
    """Least processor seconds of some runs, and the last result."""
    least, result = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        least = min(least, time.process_time() - start)
    return least, result


def masks_of(answer: object) -> torch.Tensor:
    """Masks of either side."""
    return answer if isinstance(answer, torch.Tensor) else answer.mask_logits


def step(net: SgMg, batch: Batch) -> torch.Tensor:
    """One forward and backward pass; returns the loss."""
    rule = SetMatching()
    net.zero_grad()
    terms = rule.terms(batch, net(batch.clip, choose=rule.bound(batch)))
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    return loss.detach()


def main() -> None:
    """Print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 192), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--variant", default="t", choices=("t", "s", "b"))
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    size, net = tuple(options.size), build(options.variant)
    one, four = (clip_of(size, options.frames, texts) for texts in (WORDS[:1], WORDS))
    alone = [clip_of(size, options.frames, (text,)) for text in WORDS]
    target = torch.zeros(1, options.frames, *size, dtype=torch.bool)
    target[..., size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    batch = Batch(one, Targets(target, torch.ones(1, options.frames, dtype=torch.bool)))

    def both(name: str, fast: Callable, truth: Callable) -> None:
        ours, a = timed(fast, options.repeats)
        with slow():
            theirs, b = timed(truth, options.repeats)
        error = float((a - b).abs().max() / b.abs().max())
        assert error < 1e-4, f"{name}: outputs differ by {error:.1e} of the greatest"
        print(
            f"{name:32s} {theirs:8.2f} s  ours {ours:8.2f} s  {theirs / ours:5.2f}x  differ by {error:.0e}", flush=True
        )

    print(f"{size[0]}x{size[1]}, {options.frames} frames, Video-Swin-{options.variant.upper()}, processor time")
    net.eval()
    with torch.no_grad():
        net(one)  # first calls are slower
        both("inference, one sentence", lambda: masks_of(net(one)), lambda: masks_of(net(one)))
        both(
            "inference, four sentences",
            lambda: masks_of(net(four)),
            lambda: torch.cat([masks_of(net(clip)) for clip in alone]),
        )
    net.train()
    both("training step, one sentence", lambda: step(net, batch), lambda: step(net, batch))


if __name__ == "__main__":
    main()
