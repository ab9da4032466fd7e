"""SAMWISE: the official code's control flow (the slow truth) against ours, on the very same modules and weights.

    python tests/benchmarks/bench_samwise.py                          # 256 px, Hiera-T, CPU
    python tests/benchmarks/bench_samwise.py --image-size 1024 --variant hiera_b+ --device cuda --dtype bfloat16
    python tests/benchmarks/bench_samwise.py --text-width 768 --alone --checkpointing  # our step's time and memory

The slow truth follows the released code: attention that returns its weights (so every matrix is materialised), the
sentence copied T times as keys, the neck's wide maps built before the decoder's 1x1 convolutions, memory, decoder
and CME per video and per frame with batch one, two decoder calls where the CME runs, an unbounded bank, a graph
through the memory-less pass, and in inference one sentence at a time with the frames encoded anew. Outputs must agree.
"""

import argparse
import contextlib
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from callbacks.cme import CMESupervision  # noqa: E402
from callbacks.masks import DiceFocal  # noqa: E402
from rvos_lightning.core.network import PromptedSegmenter  # noqa: E402
from rvos_lightning.core.types import Batch, Clip, ClipMeta, Features, Prediction, Targets  # noqa: E402
from rvos_lightning.parts.memories.sam2_memory import frame_of  # noqa: E402
from rvos_lightning.parts.segmenters.sam2 import Sam2  # noqa: E402
from rvos_lightning.parts.text.roberta import Roberta, TextSize  # noqa: E402
from rvos_lightning.systems.samwise.attention import FusedAttention  # noqa: E402
from rvos_lightning.systems.samwise.cmt_adapter import CMTAdapter  # noqa: E402
from rvos_lightning.systems.samwise.conditional_memory import ConditionalMemory, switched_mask  # noqa: E402
from rvos_lightning.systems.samwise.cross_modal_temporal import CrossModalTemporal  # noqa: E402
from rvos_lightning.systems.samwise.motion_prompter import MotionPrompter  # noqa: E402
from rvos_lightning.systems.samwise.outputs import SwitchedPrediction  # noqa: E402

WORDS = ("the dog that runs to the left", "a bird", "the second car from the right turning", "person in red")


def build(variant: str, image_size: int, text: TextSize, checkpointing: bool = False) -> PromptedSegmenter:
    """The network at published widths, random weights under which activations keep their size."""
    torch.manual_seed(0)
    sam = Sam2(variant, image_size=image_size, checkpointing=checkpointing)
    adapter = CMTAdapter(Roberta(size=text), dropout=0.0)
    net = PromptedSegmenter(sam, adapter, MotionPrompter(), ConditionalMemory(dropout=0.0))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        sam.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(1.0)
    return net


@contextlib.contextmanager
def slow_layers(net: PromptedSegmenter):
    """Attention with materialised weights, keys copied per frame, and the neck's wide maps."""
    fused, read_text, encode = FusedAttention.forward, CrossModalTemporal.read_text, Sam2.encode

    def weighted(self, queries, keys, real=None):
        ignored = None if real is None else ~real
        return nn.MultiheadAttention.forward(self, queries, keys, keys, key_padding_mask=ignored)[0]

    def per_frame(self, x, text, real):
        time = x.shape[1]
        queries = x.flatten(0, 1).flatten(2).transpose(1, 2)
        keys = text.repeat_interleave(time, 0)
        ignored = None if real is None else real.repeat_interleave(time, 0)
        read = queries * self.vision_from_text(queries, keys, ignored)
        return read.transpose(1, 2).reshape(x.shape)

    def wide(self, images, after_stage=None):
        stages = self.run_trunk(self.prepare(images), after_stage)
        convs, decoder = self.image_encoder.neck.convs, self.sam_mask_decoder
        levels, _ = self.image_encoder.neck(stages)
        assert len(convs) == 4
        return decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), levels[2]

    FusedAttention.forward, CrossModalTemporal.read_text, Sam2.encode = weighted, per_frame, wide
    try:
        yield
    finally:
        FusedAttention.forward, CrossModalTemporal.read_text, Sam2.encode = fused, read_text, encode


def pick(features: Features, item: int) -> Features:
    """One item's features."""
    return Features(tuple(level[item : item + 1] for level in features.pyramid))


def slow_video(net: PromptedSegmenter, features: Features, token: torch.Tensor, clip: Clip, bank: dict) -> dict:
    """One video, frame by frame, batch one, as the released model walks it; `bank` lives across windows."""
    sam, memory, found = net.segmenter, net.memory, {"masks": [], "logits": [], "without": [], "scores": []}
    size = tuple(clip.frames.shape[-2:])
    for time_ in range(clip.time):
        n, frame = bank.setdefault("n", 0), frame_of(features, time_)
        fine, middle, raw = frame
        if n == 0:
            pixels = sam.no_memory(raw)
        else:
            near, far = [t for t in range(n - 6, n) if t >= 0], [t for t in range(n - 1, n - 16, -1) if t >= 0]
            pixels = sam.attend(
                raw,
                [bank[t][0] for t in near],
                [n - t - 1 for t in near],
                [bank[t][1] for t in far],
                [n - t for t in far],
            )
        decoded = sam.decode((fine, middle, pixels), token)
        full = sam.upscale(memory.bank.gate(decoded))
        pointer, stored = sam.pointer(decoded), full
        if n > memory.window and n - bank.get("last", 0) >= memory.window - 1:
            other = sam.decode((fine, middle, sam.no_memory(raw)), token)
            other_full = sam.upscale(memory.bank.gate(other))
            logits = memory.encoder(pointer.detach(), other.early_token.detach())
            found["logits"].append(logits)
            found["without"].append(sam.on_frame(other_full, size))
            found["scores"].append(other.presence_logits)
            if not net.training and int(logits.argmax(-1)) == 1:
                stored, bank["last"] = switched_mask(full, other_full, memory.switch), n
        bank[n] = (sam.remember(raw, stored, decoded.presence_logits), pointer)
        bank["n"] = n + 1
        again = F.interpolate(memory.bank.gate(decoded)[:, None].float(), size=full.shape[-2:], mode="bilinear")[:, 0]
        found["masks"].append(sam.on_frame(again, size))
    return {name: torch.stack(values, 1) if values else None for name, values in found.items()}


def slow_training(net: PromptedSegmenter, clip: Clip) -> SwitchedPrediction:
    """Encoder on the whole batch, everything behind it per video and frame."""
    with slow_layers(net):
        features = net.adapter(clip, net.segmenter)
        tokens = net.prompter(clip, features).tokens[:, 0]
        videos = [slow_video(net, pick(features, i), tokens[i : i + 1], clip, {}) for i in range(len(clip))]
    joined = {name: torch.cat([video[name] for video in videos]) for name in videos[0]}
    frames = tuple(range(net.memory.window + 1, clip.time))
    return SwitchedPrediction(
        joined["masks"],
        switch_frames=frames,
        switch_ran=torch.ones(len(clip), len(frames), dtype=torch.bool, device=tokens.device),
        switch_logits=joined["logits"],
        memoryless_logits=joined["without"].detach(),
        memoryless_presence_logits=joined["scores"].detach(),
    )


@torch.no_grad()
def slow_inference(net: PromptedSegmenter, clip: Clip, window: int) -> torch.Tensor:
    """One sentence at a time, its frames encoded anew, window by window."""
    masks = []
    with slow_layers(net):
        for i in range(len(clip)):
            video = int(clip.video[i])
            alone = replace(
                clip,
                frames=clip.frames[video : video + 1],
                video=torch.zeros(1, dtype=torch.long, device=clip.video.device),
                expressions=[clip.expressions[i]],
                meta=[clip.meta[i]],
            )
            bank: dict = {}
            for start in range(0, clip.time, window):
                part = alone.window(start, min(start + window, clip.time))
                features = net.adapter(part, net.segmenter)
                token = net.prompter(part, features).tokens[:, 0]
                masks.append(slow_video(net, features, token, part, bank)["masks"])
    per_item = len(masks) // len(clip)
    return torch.cat([torch.cat(masks[i * per_item : (i + 1) * per_item], 1) for i in range(len(clip))])


@torch.no_grad()
def fast_inference(net: PromptedSegmenter, clip: Clip, window: int) -> torch.Tensor:
    """All sentences in lock-step, frames shared."""
    state, masks = None, []
    for start in range(0, clip.time, window):
        prediction: Prediction = net(clip.window(start, min(start + window, clip.time)), state)
        state = prediction.state
        masks.append(prediction.mask_logits)
    return torch.cat(masks, 1)


def make_clip(videos: int, items: int, frames: int, side: int, device: str) -> Clip:
    """Noise of 16:9 shape."""
    torch.manual_seed(1)
    pixels = torch.rand(videos, frames, 3, side * 9 // 16, side, device=device)
    size = tuple(pixels.shape[-2:])
    names = tuple(map(str, range(frames)))
    meta = [ClipMeta(f"v{i % videos}", str(i), names, size, size, tuple(range(frames))) for i in range(items)]
    video = torch.arange(items, device=device) % videos
    return Clip(pixels, video, [WORDS[i % len(WORDS)] for i in range(items)], meta)


def step(net: PromptedSegmenter, batch: Batch, forward) -> torch.Tensor:
    """One forward and backward with the published losses."""
    net.zero_grad(set_to_none=True)
    prediction = forward(batch.clip)
    terms = {**DiceFocal().terms(batch, prediction), **CMESupervision().terms(batch, prediction)}
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    return total.detach()


def timed(run, repeat: int, device: str) -> tuple[float, float, object]:
    """Median seconds, peak GB (CUDA only) and the last result."""
    times, result = [], None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeat):
        start = time.perf_counter()
        result = run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return sorted(times)[len(times) // 2], peak, result


def compare(name: str, slow, fast, repeat: int, device: str, amount: float, unit: str) -> None:
    """Time both ways and print one line."""
    slow_s, slow_gb, _ = timed(slow, repeat, device)
    fast_s, fast_gb, _ = timed(fast, repeat, device)
    memory = f", peak {slow_gb:.2f} -> {fast_gb:.2f} GB ({fast_gb / slow_gb:.2f}x)" if device == "cuda" else ""
    print(f"{name}: {amount / slow_s:.3g} -> {amount / fast_s:.3g} {unit} ({slow_s / fast_s:.2f}x){memory}", flush=True)


def alone(net: PromptedSegmenter, batch: Batch, repeat: int) -> None:
    """Processor seconds of our training step, and this process's peak above what it held before the first."""
    net.train()
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(1 + repeat):
        start = time.process_time()
        loss = step(net, batch, net)
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = sorted(times[1:])[repeat // 2]
    print(f"{seconds:.1f} CPU s, {before / 1024:.0f} -> {peak / 1024:.0f} MiB, loss {float(loss):.6f}")


def check(net: PromptedSegmenter, batch: Batch, video: Clip, window: int) -> None:
    """Outputs and gradients of both ways agree (float32)."""
    net.train()
    losses, gradients = [], []
    for forward in (lambda clip: slow_training(net, clip), net):
        losses.append(step(net, batch, forward))
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    net.eval()
    slow, fast = slow_inference(net, video, window), fast_inference(net, video, window)
    apart = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    masks = float((slow - fast).abs().max())
    print(f"equal: loss {float((losses[0] - losses[1]).abs()):.1e}, gradient {apart:.1e} relative, masks {masks:.1e}")
    assert apart < 5e-3 and masks < 2e-2, "the two ways disagree"


def main() -> None:
    """Check equality, then time a training step and inference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="hiera_t")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--text-width", type=int, default=96, help="768: RoBERTa-base")
    parser.add_argument("--checkpointing", action="store_true", help="recompute Sam2's insides in the backward pass")
    parser.add_argument("--alone", action="store_true", help="our training step only, with the memory it takes")
    options = parser.parse_args()
    if options.frames < 6:
        parser.error(f"--frames {options.frames}: the CME first runs on frame 6; give at least 6")
    wide = options.text_width
    text = TextSize(0, wide, 12, max(1, wide // 64), wide * 4, 64, dropout=0.0)
    net = build(options.variant, options.image_size, text, options.checkpointing).to(options.device)
    clip = make_clip(options.batch, options.batch, options.frames, options.image_size, options.device)
    masks = clip.frames[:, :, 0] > 0.5
    batch = Batch(clip, Targets(masks, torch.ones(masks.shape[:2], dtype=torch.bool, device=options.device)))
    if options.alone:
        alone(net, batch, options.repeat)
        return
    video = make_clip(1, 4, 2 * options.frames, options.image_size, options.device)
    check(net, batch, video, options.frames)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
        net.train()
        clips = f"training step, batch {options.batch}, {options.frames} frames"
        run = (options.repeat, options.device, options.batch, "clips/s")
        compare(clips, lambda: step(net, batch, lambda c: slow_training(net, c)), lambda: step(net, batch, net), *run)
        net.eval()
        name, frames = f"inference, 4 sentences on one video of {video.time} frames", 4 * video.time
        run = (options.repeat, options.device, frames, "sentence-frames/s")
        compare(name, lambda: slow_inference(net, video, 8), lambda: fast_inference(net, video, 8), *run)


if __name__ == "__main__":
    main()
