"""What a GPU does with the systems: times, peak memory, share of attention, strategies that resume to the bit.

    python tests/gpu/measure.py --out gpu                          # at most 8 minutes on one GPU of 80 GB
    python tests/gpu/measure.py --out gpu --device cpu --small     # the same program at small sizes, to try it out

Writes `measured.json` and `measured.md` after every section, so that what was measured stays if the time ends. No data
and no weights are needed: numbers are random, sizes are the published ones. "batch of one" is the released control
flow of `tests/benchmarks/`, written by us on our modules, not the released code itself.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks"), str(ROOT / "tests" / "gpu")]

import bench_sa2va  # noqa: E402
import bench_sam_i2v  # noqa: E402
import bench_samwise  # noqa: E402
import table  # noqa: E402

from rvos_lightning.core.types import Batch, Targets  # noqa: E402
from rvos_lightning.parts.text.roberta import TextSize  # noqa: E402

MODES = ("fp32", "bf16", "bf16 compiled")


class Report:
    """Rows of measurements, written anew after each."""

    def __init__(self, folder: Path, device: str, minutes: float) -> None:
        self.folder, self.device, self.deadline = folder, device, time.monotonic() + 60 * minutes
        self.modes = MODES[:2]
        card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
        self.content: dict[str, Any] = {"card": card, "torch": torch.__version__, "steps": [], "strategies": []}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, section: str, row: dict[str, Any]) -> None:
        """Keep a row and write both files."""
        self.content[section].append(row)
        print(json.dumps(row), flush=True)
        (self.folder / "measured.json").write_text(json.dumps(self.content, indent=1) + "\n")
        (self.folder / "measured.md").write_text(table.markdown(self.content))

    def left(self) -> float:
        """Seconds until the end."""
        return self.deadline - time.monotonic()


def timed(run: Callable[[], Any], device: str, repeat: int = 3) -> tuple[float, float | None]:
    """Median seconds after one warm-up run, and peak GB on the GPU."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    repeat = 1 if time.perf_counter() - start > 10 else repeat
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    return sorted(times)[len(times) // 2], peak


def attention_share(run: Callable[[], Any], device: str) -> float | None:
    """Share of the GPU's time in scaled-dot-product attention kernels, forward and backward."""
    if device != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    kernels = recorded.key_averages()
    total = sum(kernel.self_device_time_total for kernel in kernels)
    names = ("flash", "fmha", "attention", "sdpa")
    inside = sum(k.self_device_time_total for k in kernels if any(name in k.key.lower() for name in names))
    return inside / total if total else None


def measure(
    report: Report, system: str, what: str, amount: float, unit: str, ours: Callable, one: Callable | None, net: Any
) -> None:
    """One workload in each precision, ours and batch of one."""
    device = report.device
    for mode in report.modes:
        flows = [("ours", ours)] + ([("batch of one", one)] if one is not None and mode != "bf16 compiled" else [])
        for flow, run in flows:
            if report.left() < 60:
                return
            row: dict[str, Any] = {"system": system, "what": what, "mode": mode, "flow": flow, "unit": unit}
            try:
                row |= _once(run, mode, device, amount, net, flow == "ours" and mode == "bf16")
            except torch.OutOfMemoryError:
                row["error"] = "out of memory"
            except Exception as error:  # a failed cell must not cost the others
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            report.add("steps", row)
            _clear(net)


def _once(run: Callable, mode: str, device: str, amount: float, net: Any, profiled: bool) -> dict[str, Any]:
    compiled = mode.endswith("compiled")
    if compiled:
        net.compile()
    try:
        with torch.autocast(device, torch.bfloat16, enabled=mode != "fp32"):
            seconds, peak = timed(run, device)
            share = attention_share(run, device) if profiled else None
    finally:
        if compiled:
            net.compile(backend="eager")
            torch.compiler.reset()
    found = {"seconds": seconds, "per_second": amount / seconds, "peak_gb": peak, "attention": share}
    return {key: value for key, value in found.items() if value is not None}


def _clear(net: Any) -> None:
    net.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def samwise(report: Report, small: bool) -> None:
    """Hiera-B+ at 1024 px with a RoBERTa of base width: step of 4 clips of 8 frames, 4 sentences on 16 frames."""
    variant, side, wide, batch = ("hiera_t", 128, 96, 2) if small else ("hiera_b+", 1024, 768, 4)
    net = bench_samwise.build(variant, side, TextSize(0, wide, 12, wide // 64, wide * 4, 64, dropout=0.0))
    net = net.to(report.device).train()
    clip = bench_samwise.make_clip(batch, batch, 8, side, report.device)
    masks = clip.frames[:, :, 0] > 0.5
    data = Batch(clip, Targets(masks, torch.ones(masks.shape[:2], dtype=torch.bool, device=report.device)))

    def step(forward: Callable) -> Tensor:
        return bench_samwise.step(net, data, forward)

    name = f"training step, {batch} clips of 8 frames"
    measure(report, "samwise", name, batch, "clips/s", lambda: step(net),
            lambda: step(lambda c: bench_samwise.slow_training(net, c)), net)  # fmt: skip
    net.eval()
    video = bench_samwise.make_clip(1, 4, 16, side, report.device)
    measure(report, "samwise", "inference, 4 sentences, 16 frames", 64, "sentence-frames/s",
            lambda: bench_samwise.fast_inference(net, video, 8), lambda: bench_samwise.slow_inference(net, video, 8),
            net)  # fmt: skip


def sam_i2v(report: Report, small: bool) -> None:
    """TinySAM at 1024 px: 4 objects on 16 frames; step of 4 objects on 4 frames with 7 corrections."""
    side = 128 if small else 1024
    net = bench_sam_i2v.build("tiny_sam", side).to(report.device)
    clip, truth = bench_sam_i2v.video(4, 6 if small else 16, side, report.device)
    short, short_truth = bench_sam_i2v.video(4, 3 if small else 4, side, report.device)
    bench_sam_i2v.train_mode(net)
    measure(report, "sam_i2v", f"training step, 4 objects, {short.time} frames, 7 corrections", 4, "objects/s",
            lambda: bench_sam_i2v.fast_step(net, short, short_truth),
            lambda: bench_sam_i2v.slow_step(net, short, short_truth), net)  # fmt: skip
    net.eval()
    measure(report, "sam_i2v", f"inference, 4 objects, {clip.time} frames", clip.time, "frames/s",
            lambda: bench_sam_i2v.fast_inference(net, clip, truth),
            lambda: bench_sam_i2v.slow_inference(net, clip, truth), net)  # fmt: skip


def sa2va(report: Report, small: bool) -> None:
    """Hiera-L at 1024 px behind a language model of 0.1 B: 4 expressions on 8 frames."""
    layers = 2 if small else 12
    options = argparse.Namespace(
        frames=4 if small else 8, expressions=2 if small else 4, shown=2 if small else 5, words=4, threads=1,
        side=128 if small else 1024, variant="hiera_t" if small else "hiera_l",
        vision_layers=layers, language_layers=layers)  # fmt: skip
    net, clip = bench_sa2va.build(options), bench_sa2va.make_clip(options)
    net, clip = net.to(report.device), clip.to(report.device)
    bench_sa2va.always_seg(net)
    name, amount = f"inference, {options.expressions} expressions, {options.frames} frames", len(clip) * clip.time
    run = torch.no_grad()
    measure(report, "sa2va", name, amount, "sentence-frames/s",
            run(lambda: bench_sa2va.fast(net, clip)), run(lambda: bench_sa2va.slow(net, clip)), net)  # fmt: skip


def recipes(report: Report, small: bool) -> None:
    """One training step of published recipes as the forecast counts it, beside the forecast."""
    import forecasts

    names = ["configs/tiny.yaml"] if small else table.RECIPES
    for name in names:
        if report.left() < 60:
            return
        try:
            report.add("steps", forecasts.step(ROOT / name, report.device, timed))
        except Exception as error:
            report.add(
                "steps", {"system": name, "what": "recipe", "mode": "", "flow": "ours", "error": str(error)[:300]}
            )


def strategies(report: Report, small: bool) -> None:
    """Each strategy on one GPU: train, stop, resume, and compare the weights with a run that was not stopped."""
    names = ["ddp"] if small else ["ddp", "fsdp2", "deepspeed2", "deepspeed3"]
    started = [(name, _drill(name, report)) for name in names]
    for name, process in started:
        try:
            said = process.communicate(timeout=max(30.0, report.left()))[0]
        except subprocess.TimeoutExpired:
            process.kill()
            said = "timed out"
        report.add("strategies", {"strategy": name, "result": said.strip().splitlines()[-1] if said.strip() else "?"})


def _drill(name: str, report: Report) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tests" / "gpu" / "resume_drill.py"), name, report.device]
    command.append(str((report.folder / "drills" / name).resolve()))
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main() -> None:
    """Run the sections in order of what is asked most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--minutes", type=float, default=8)
    sections = {f.__name__: f for f in (samwise, sam_i2v, sa2va, strategies, recipes)}
    parser.add_argument("--only", nargs="+", choices=list(sections), default=list(sections))
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    report = Report(options.out, options.device, options.minutes)
    again = [name for name in options.only if name in ("samwise", "sam_i2v", "sa2va")]
    for number, name in enumerate([*options.only, *again]):
        start = time.monotonic()
        report.modes = MODES[2:] if number >= len(options.only) else MODES[:2]  # compiling last: it takes longest
        sections[name](report, options.small)
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
