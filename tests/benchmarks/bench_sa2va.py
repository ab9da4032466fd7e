"""Sa2VA-i on one video with many expressions against the released control flow, written as slow truth.

    python tests/benchmarks/bench_sa2va.py [--frames 12] [--expressions 10] [--shown 5] [--side 256] [--variant hiera_t]

The slow truth repeats everything for each expression: vision tower and whole prompt, the sampled frames through Hiera
to decode them (k), once more when their masks become prompts (k), frame 0 to warm up (1) and all frames while tracking
(N): N + 2k + 1 passes. Prints seconds, Hiera passes and the share of equal mask pixels.

Hiera-T at 256 px (6 GFLOP a frame) stands in for Hiera-L at 1024 px (1,700): memory attention to 11 frames then costs
about half a Hiera pass and the language model 6 to 7 passes an expression, as in the released 4B model at k = 5.
"""

import argparse
import time
from dataclasses import replace

import torch

from rvos_lightning.core.inference import segment_video
from rvos_lightning.core.types import Batch, Clip, ClipMeta
from rvos_lightning.systems.sa2va.mllm import Answer
from rvos_lightning.systems.sa2va.mllm_prompter import MLLMPrompter
from rvos_lightning.systems.sa2va.network import Sa2VA
from rvos_lightning.systems.sa2va.sizes import LanguageSize, MLLMSize, VisionSize
from rvos_lightning.systems.sa2va.two_decoders import TwoDecoderSam2

COLOURS = ("red", "blue", "green", "white", "yellow", "purple", "orange", "cyan")


class Counted(TwoDecoderSam2):
    """Counts frames through the image encoder."""

    passes = 0

    def maps_of_pixels(self, pixels):
        self.passes += len(pixels)
        return super().maps_of_pixels(pixels)


def build(options):
    torch.manual_seed(0)
    size = MLLMSize(
        VisionSize(options.vision_layers, 256, 4, 1024, 448, 14),
        LanguageSize("qwen2", options.language_layers, 256, 1024, 4, 2, 161, context=8192),
    )
    sam = Counted(variant=options.variant, image_size=options.side)
    prompter = MLLMPrompter(
        size, lora=None, frames=options.shown, max_new_tokens=options.words, ask_at_once=options.expressions
    )
    return Sa2VA(sam, prompter, "sa2va_i").eval()


def make_clip(options):
    torch.manual_seed(1)
    frames = torch.rand(1, options.frames, 3, 270, 480)
    names = tuple(map(str, range(options.frames)))
    count = options.expressions
    meta = [ClipMeta("v", str(i), names, (270, 480), (270, 480), tuple(range(options.frames))) for i in range(count)]
    texts = [f"the {COLOURS[i % 8]} {'circle' if i < 8 else 'square'}" for i in range(count)]
    return Clip(frames, torch.zeros(count, dtype=torch.long), texts, meta)


def always_seg(network):
    """Random weights say no [SEG]: put it in as the second word; states stay the model's own."""
    mllm, seg = network.prompter.mllm, network.prompter.seg_id
    generate = mllm.generate

    def spoken(*args):
        return [Answer([a.tokens[0], seg, *a.tokens[2:]], a.states) for a in generate(*args)]

    mllm.generate = spoken


def fast(network, clip):
    """All expressions together, in windows."""
    return torch.cat([part.masks for part in segment_video(network, Batch(clip), 4)], 1)


def slow(network, clip):
    """One expression after the other, nothing shared, with the released number of encoder passes."""
    sam, masks = network.segmenter, []
    for i in range(len(clip)):
        one = replace(clip, video=clip.video[:1], expressions=clip.expressions[i : i + 1], meta=clip.meta[i : i + 1])
        sam.maps(clip.frames[:, 0])  # init_state warms the encoder up with frame 0
        extra = len(network.prompter.ask(one).positions)
        for position in range(extra):  # prompts are encoded again when they are added, and again when passed
            sam.maps(clip.frames[:, position])
            sam.maps(clip.frames[:, position])
        masks.append(fast(network, one))
    return torch.cat(masks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {
        "frames": 12,
        "expressions": 10,
        "shown": 5,
        "side": 256,
        "words": 4,
        "vision_layers": 4,
        "language_layers": 4,
    }
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--variant", default="hiera_t")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network, clip = build(options), make_clip(options)
    always_seg(network)
    results = {}
    for run in (fast, slow):
        network.segmenter.passes, start, cpu = 0, time.time(), time.process_time()
        with torch.no_grad():
            masks = run(network, clip)
        results[run.__name__] = masks
        seconds = time.time() - start
        used = time.process_time() - cpu
        print(
            f"{run.__name__:5} {seconds:7.1f} s  {used:7.1f} CPU s  {network.segmenter.passes:4} Hiera passes",
            flush=True,
        )
        results[f"{run.__name__}_cpu"] = used
    equal = (results["fast"] == results["slow"]).float().mean()
    print(f"equal pixels {float(equal):.6f}, faster by {results['slow_cpu'] / results['fast_cpu']:.2f} (CPU time)")


if __name__ == "__main__":
    main()
