"""SAM-I2V: the original's control flow (the slow truth) against ours, on the very same modules and weights.

    python tests/benchmarks/bench_sam_i2v.py                                    # TinySAM at 256 px, CPU, one thread
    python tests/benchmarks/bench_sam_i2v.py --image-size 1024 --device cuda

The slow truth follows the released code: one object a run, so that every object encodes the video anew; every frame by
itself; the whole five-frame clip through the 3-D stem and every slot through the last temporal stage for each frame;
the third fusion that nothing reads; for each object and frame the bank of feature maps copied and normalised before
the selection; copies of the first memory as repeated tokens; all candidate masks enlarged; in training one object a
sample and the pixel weights of the loss for every decoder step anew. Outputs, loss and gradients must agree.
Times are processor time on CPU, so that a busy machine does not matter much; compare only the ratios.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from callbacks import structure  # noqa: E402
from callbacks.structure import StructureLoss  # noqa: E402
from rvos_lightning.core.network import PromptedSegmenter  # noqa: E402
from rvos_lightning.core.seams import Segmenter  # noqa: E402
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Features, Targets, User, UserPrompt  # noqa: E402
from rvos_lightning.data import SimulatedUser  # noqa: E402
from rvos_lightning.parts.prompters.user import UserPrompter  # noqa: E402
from rvos_lightning.parts.segmenters.sam import Sam  # noqa: E402
from rvos_lightning.parts.segmenters.sam_encoders import normalise  # noqa: E402
from rvos_lightning.systems.sam_i2v.memory_selector import MemorySelector, Reading  # noqa: E402
from rvos_lightning.systems.sam_i2v.outputs import DecoderStep  # noqa: E402
from rvos_lightning.systems.sam_i2v.prompt_memory import PromptMemory  # noqa: E402
from rvos_lightning.systems.sam_i2v.temporal_integrator import TemporalIntegrator, clip_slots  # noqa: E402


def build(variant: str, image_size: int) -> PromptedSegmenter:
    """The network at published widths, random weights, sure that objects are there; no dropout."""
    torch.manual_seed(0)
    sam = Sam(variant, image_size, occlusion=True)  # type: ignore[arg-type]
    with torch.no_grad():
        sam.mask_decoder.pred_obj_score_head.layers[2].bias.fill_(2.0)
    adapter = TemporalIntegrator()
    return PromptedSegmenter(sam, adapter, UserPrompter(), PromptMemory(dropout=0.0))


class OfItem(User):
    """One item of a user of several, as item 0."""

    def __init__(self, user: User, item: int):
        self.user, self.item = user, item

    def first_prompt(self, item: int) -> Sequence[UserPrompt]:
        """The item's."""
        return self.user.first_prompt(self.item)

    def correct(self, item: int, frame: int, mask: Tensor) -> UserPrompt | None:
        """The item's."""
        return self.user.correct(self.item, frame, mask)


def video(objects: int, time_: int, size: int, device: str) -> tuple[Clip, Targets]:
    """One video with squares that move; no user yet."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(1, time_, 3, size, size, generator=generator)
    masks = torch.zeros(objects, time_, size, size, dtype=torch.bool)
    side = size // 4
    for i in range(objects):
        for t in range(time_):
            masks[i, t, 8 * i + t : 8 * i + t + side, 4 * t + 8 * i : 4 * t + 8 * i + side] = True
    names = tuple(map(str, range(time_)))
    meta = [ClipMeta("v", str(i), names, (size, size), (size, size), tuple(range(time_))) for i in range(objects)]
    targets = Targets(masks.to(device), torch.ones(objects, time_, dtype=torch.bool, device=device))
    return Clip(frames.to(device), torch.zeros(objects, dtype=torch.long, device=device), None, meta), targets


def alone(clip: Clip, user: User, item: int) -> Clip:
    """The clip with one of its items."""
    return replace(clip, video=clip.video[item : item + 1], meta=clip.meta[item : item + 1], user=OfItem(user, item))


def slow_integrator(adapter: TemporalIntegrator, clip: Clip, sam: Segmenter) -> Features:
    """Frame after frame, as released."""
    frames = clip.frames if clip.past is None else torch.cat([clip.past, clip.frames], 1)
    slots = clip_slots(frames.shape[1], adapter.frames)[-clip.time :]
    found = []
    last = adapter.temporal[-1]
    last.newest_only = False
    # In training the released code encodes the clip at once; only inference goes frame by frame.
    whole = sam.encode(clip.frames[0])[-3:] if adapter.training else None
    for t in range(clip.time):
        levels = sam.encode(clip.frames[0, t : t + 1])[-3:] if whole is None else tuple(x[t : t + 1] for x in whole)
        pixels = normalise(frames[0, slots[t]], sam.image_size)
        stem = adapter.stem(pixels.transpose(0, 1)[None])
        fused = adapter.integrate_levels(levels, stem)
        adapter.to_temporal[0](torch.cat([fused, stem[:, :, -1]], 1))  # as costly as the fusion that nothing reads
        found.append(fused)
    last.newest_only = True
    return Features((torch.stack(found, 1),))


def repeated(reading: Reading) -> Reading:
    """Copies of a memory as blocks of their own."""
    blocks = [replace(block, count=1) for block in reading.blocks for _ in range(block.count)]
    return replace(reading, blocks=tuple(blocks))


def per_step_terms(step: DecoderStep, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a step with the pixel weights computed for it alone, once for every candidate."""
    for _ in range(step.mask_logits.shape[1]):
        weight = structure.pixel_weights(target)
    return FAST_TERMS(step, target, weight)


FAST_TERMS = structure.step_terms


@contextlib.contextmanager
def slow_parts(network: PromptedSegmenter, device: torch.device) -> Iterator[None]:
    """The released way of everything below the frame loop."""
    sam = network.segmenter
    bank = torch.ones(20, sam.prompt_dim * sam.grid**2, device=device)  # stands for the stored feature maps
    integrate, read, answer = TemporalIntegrator.forward, MemorySelector.read, PromptMemory.answer

    def slow_read(self: MemorySelector, frame: int, prompted: list[int], unprompted: list[int],
                  similarity: Callable, *rest: object) -> Reading:  # fmt: skip
        def copied(pool: Sequence[int]) -> Tensor:
            result = similarity(pool)
            functional.cosine_similarity(bank[: len(pool)].clone(), bank[:1], eps=1e-12)  # copied, normalised anew
            return result

        return repeated(read(self, frame, prompted, unprompted, copied, *rest))

    def slow_answer(self: PromptMemory, sam: Sam, *rest: object) -> object:
        output = answer(self, sam, *rest)
        side = sam.grid * self.mask_stride
        functional.interpolate(output.candidates, (side, side), mode="bilinear", align_corners=False)
        return output

    TemporalIntegrator.forward, MemorySelector.read, PromptMemory.answer = slow_integrator, slow_read, slow_answer
    structure.step_terms = per_step_terms
    try:
        yield
    finally:
        TemporalIntegrator.forward, MemorySelector.read, PromptMemory.answer = integrate, read, answer
        structure.step_terms = FAST_TERMS


@torch.no_grad()
def infer(network: PromptedSegmenter, clip: Clip, window: int) -> Tensor:
    """All masks, window after window."""
    state, masks = None, []
    for start in range(0, clip.time, window):
        prediction = network(clip.window(start, min(start + window, clip.time)), state)
        state = prediction.state
        masks.append(prediction.mask_logits)
    return torch.cat(masks, 1)


def slow_inference(network: PromptedSegmenter, clip: Clip, targets: Targets) -> Tensor:
    """One object after the other, frame by frame."""
    user = SimulatedUser().evaluation(targets, clip.meta, 0)
    with slow_parts(network, clip.video.device):
        return torch.cat([infer(network, alone(clip, user, i), 1) for i in range(len(clip))])


def fast_inference(network: PromptedSegmenter, clip: Clip, targets: Targets) -> Tensor:
    """All objects together, windows of eight."""
    return infer(network, replace(clip, user=SimulatedUser().evaluation(targets, clip.meta, 0)), 8)


def training_user(clip: Clip, targets: Targets) -> User:
    """Clicks with the published seven corrections."""
    return SimulatedUser(points=1.0)(targets, clip.meta, 3)


def slow_step(network: PromptedSegmenter, clip: Clip, targets: Targets) -> Tensor:
    """Every object a sample of its own; gradients add up."""
    network.zero_grad()
    user, total = training_user(clip, targets), torch.zeros((), device=clip.video.device)
    with slow_parts(network, clip.video.device):
        for i in range(len(clip)):
            one = Targets(targets.masks[i : i + 1], targets.annotated[i : i + 1])
            part = alone(clip, user, i)
            loss = sum(StructureLoss().terms(Batch(part, one), network(part)).values()) / len(clip)
            loss.backward()
            total = total + loss.detach()
    return total


def fast_step(network: PromptedSegmenter, clip: Clip, targets: Targets) -> Tensor:
    """All objects of the video share its features."""
    network.zero_grad()
    clip = replace(clip, user=training_user(clip, targets))
    loss = sum(StructureLoss().terms(Batch(clip, targets), network(clip)).values())
    loss.backward()
    return loss.detach()


def train_mode(network: PromptedSegmenter) -> None:
    """Training, but batch norm with kept statistics: others depend on who shares a batch."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def check(network: PromptedSegmenter, clip: Clip, targets: Targets, short: Clip, short_targets: Targets) -> None:
    """Outputs, losses and gradients of both ways agree."""
    train_mode(network)
    losses, gradients = [], []
    for step in (slow_step, fast_step):
        losses.append(float(step(network, short, short_targets)))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    network.eval()
    slow, fast = (way(network, clip, targets) for way in (slow_inference, fast_inference))
    assert slow.std() > 0
    apart = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    masks = float((slow - fast).abs().max() / slow.abs().max())
    loss = abs(losses[0] - losses[1]) / abs(losses[0])
    print(f"equal: loss {loss:.1e}, gradient {apart:.1e}, masks {masks:.1e} (relative)")
    assert loss < 1e-3 and apart < 1e-2 and masks < 1e-2, "the two ways disagree"


def timed(run: Callable[[], object], repeat: int, device: str) -> float:
    """Median seconds: of the processor on CPU, of the clock on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    times = []
    for _ in range(repeat):
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return sorted(times)[len(times) // 2]


def compare(name: str, slow: Callable, fast: Callable, repeat: int, device: str, amount: int, unit: str) -> None:
    """Time both ways and print one line."""
    slow_s, fast_s = timed(slow, repeat, device), timed(fast, repeat, device)
    print(f"{name}: {amount / slow_s:.3g} -> {amount / fast_s:.3g} {unit} ({slow_s / fast_s:.2f}x)", flush=True)


def main() -> None:
    """Check equality, then time inference and a training step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="tiny_sam")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--train-frames", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = build(options.variant, options.image_size).to(options.device)
    clip, targets = video(options.objects, options.frames, options.image_size, options.device)
    short, short_targets = video(options.objects, options.train_frames, options.image_size, options.device)
    check(network, clip, targets, short, short_targets)
    run = (options.repeat, options.device)
    network.eval()
    name = f"inference, {options.objects} objects on one video of {options.frames} frames"
    compare(name, lambda: slow_inference(network, clip, targets), lambda: fast_inference(network, clip, targets), *run,
            options.frames, "frames/s")  # fmt: skip
    train_mode(network)
    name = f"training step, {options.objects} objects, {options.train_frames} frames, 7 corrections"
    compare(name, lambda: slow_step(network, short, short_targets), lambda: fast_step(network, short, short_targets),
            *run, options.objects, "objects/s")  # fmt: skip


if __name__ == "__main__":
    main()
