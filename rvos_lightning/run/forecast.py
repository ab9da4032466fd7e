"""Will it fit, and how long will it take?

    rvos forecast -c configs/paper/samwise_mevis.yaml [--gpu H100 4090] [--gpus 1 8 64]

prints GB per GPU under each strategy and steps an hour, from the bytes, FLOPs and kernels of one training step, counted
at full size on the meta device: no data, no weights, no memory.
"""

import argparse
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rvos_lightning.core.objectives import find_chooser
from rvos_lightning.core.types import Batch
from rvos_lightning.data.video_data import VideoData
from rvos_lightning.parts.starting import unread
from rvos_lightning.parts.weights import shipped
from rvos_lightning.run.forecast_memory import Cost, State, bytes_of, measure, per_gpu, state_of
from rvos_lightning.run.forecast_speed import ASSUMED, EFFICIENCY, GPUS, Conditions, seconds, too_small
from rvos_lightning.run.pretend import Pretend

FILES = ("weights", "tokenizer", "pretrained")
KEPT = ("batch_size", "items_per_video", "repeat_items", "clip_length", "size", "context_frames", "simulate_user")
DRAWN = 256  # pixels at which shapes are drawn before they are enlarged


def main(args: Sequence[str] | None = None) -> None:
    """Forecast memory and speed of a configuration; everything after the options goes to the usual parser."""
    parser = argparse.ArgumentParser(prog="rvos forecast", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs to show")
    parser.add_argument("--gpu", nargs="+", choices=list(GPUS), default=["A100"], help="kinds of GPU to show")
    parser.add_argument(
        "--efficiency", type=float, help="share of the peak FLOP/s that is reached; default 0.35 in bf16, 0.6 in 32 bit"
    )
    parser.add_argument(
        "--network", type=float, default=20.0, help="GB/s from one GPU to another node (20: 200 Gbit/s each)"
    )
    options, rest = parser.parse_known_args(args)
    plan = Plan(rest)
    if not plan.trains:
        print("this recipe has no objectives: nothing is trained, it is for validate, test and predict")
        return
    efficiency = options.efficiency or EFFICIENCY[plan.precision]
    given = Conditions(plan.precision, efficiency, options.network * 1e9)
    for line in report(plan, *plan.count(), options.gpus, options.gpu, given):
        print(line)
    print(f"{efficiency:.0%} of the peak FLOP/s and {options.network:g} GB/s between nodes, {ASSUMED}")
    print("not in it: reading and decoding data, validation")


class Plan:
    """A parsed configuration, with a synthetic batch of any size in place of its data.

    Args:
        words: as for `fit`.
    """

    def __init__(self, words: Sequence[str]):
        from rvos_lightning.run.config import open_config

        data = open_config(words).config.data
        self.cli = open_config([*words, "--data", "rvos_lightning.data.MovingShapes", *stand_in(data)])
        config = self.cli.config
        data = config.data.init_args
        self.size = data.size if isinstance(data.size, int) else max(data.size)
        self.length, self.batch = data.clip_length, data.batch_size
        self.precision = "bf16" if str(config.trainer.precision or "").startswith("bf16") else "32"
        self.trains = any(objective is not None for objective in (config.objectives or {}).values())

    def build(self, device: str, **drawing: Any) -> Any:
        """Module, losses and data module as the configuration says, but with random weights.

        Args:
            device: of the weights.
            drawing: other values for arguments of the data module.
        """
        config = self.cli.config.clone()
        config.pop("callbacks", None)
        for key, value in list(config.items()):
            if key.startswith("model.") and key.split(".")[-1] in FILES and not says_sizes(key, value):
                config[key] = None
        for key, value in drawing.items():
            config.data.init_args[key] = value
        with torch.device(device), unread():
            return self.cli.parser.instantiate_classes(config)

    def count(self, device: str = "meta") -> tuple[State, Cost]:
        """What stays from step to step, and one training step."""
        drawing = {"size": min(self.size, DRAWN), "video_length": 2 * self.length, "workers": 0}
        with Pretend():  # follows integers from here on
            made = self.build(device, **drawing, train_clips=self.batch)
            drawn = enlarged(next(iter(made.data.train_dataloader())), self.size).to(device)
        network = made.model.train().network
        objectives = [objective for objective in made.objectives.values() if objective is not None]
        chooser = find_chooser(network, objectives)
        asked = {} if chooser is None else {"choose": chooser.bound(drawn)}

        def loss() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16" and device == "cpu"):
                prediction = network(drawn.clip, **asked)
            terms = [term for objective in objectives for term in objective.terms(drawn, prediction).values()]
            return torch.stack([term.float() for term in terms]).sum()

        cost = measure(network, loss, tensors_in(drawn))
        # On meta nothing is cast: activations would halve, but losses and norms stay in 32 bit.
        half = 0.55 if self.precision == "bf16" and device == "meta" else 1.0
        return self.state(made.model), replace(cost, activations=cost.activations * half)

    def state(self, module: Any) -> State:
        """What stays from step to step."""
        from rvos_lightning.core.optim import param_groups
        from rvos_lightning.run.sharding.whole import blocks

        param_groups(module.network, module.lr_scale, module.no_decay, module.layer_decay)  # the errors of training
        units = [sum(map(bytes_of, block.parameters())) for _, block in blocks(module.network, module.shard_above)]
        return state_of(module.network, module.optimizer, units)


def says_sizes(key: str, value: str | None) -> bool:
    """Whether a part's weights state the part's own sizes: weights of this package, a text encoder's local folder."""
    return shipped(value) is not None or (".text." in key and value is not None and Path(value).is_dir())


def stand_in(data: Any) -> list[str]:
    """Flags that give MovingShapes the sizes of the data, or of a mixture's most costly source."""
    given = data.init_args
    if "sources" not in given:
        usual = inspect.signature(VideoData.__init__).parameters  # MovingShapes has smaller ones of its own
        keys = () if str(data.class_path).endswith("MovingShapes") else ("size", "clip_length", "batch_size")
        sizes = {key: given.get(key, usual[key].default) for key in keys}
        return [word for key, value in sizes.items() if value is not None for word in (f"--data.{key}", said(value))]
    sources = [source.init_args for source in given.sources.values()]
    costly = max(sources, key=lambda source: source.clip_length * (source.batch_size or 1))
    own = {key: given.get(key) if key in given else costly.get(key) for key in KEPT}
    return [word for key, value in own.items() if value is not None for word in (f"--data.{key}", said(value))]


def said(value: Any) -> str:
    """A parsed value as one would type it."""
    return json.dumps(value.as_dict() if hasattr(value, "as_dict") else value)


def enlarged(batch: Batch, size: int) -> Batch:
    """The same clips in frames of another size."""
    clip, targets = batch.clip.floating(torch.float32), batch.targets
    sides = {"size": (size, size), "original_size": (size, size)}
    # a person is in every table of categories
    meta = [replace(m, **sides, facts=replace(m.facts, category="person")) for m in clip.meta]
    context = None if clip.context is None else resized(clip.context, size)
    masks = resized(targets.masks.float()[:, :, None], size)[:, :, 0] > 0.5
    clip = replace(clip, frames=resized(clip.frames, size), context=context, meta=meta)
    return Batch(clip, replace(targets, masks=masks))


def resized(frames: Tensor, size: int) -> Tensor:
    """Resize the last two of five axes."""
    return nn.functional.interpolate(frames.flatten(0, 1), (size, size)).unflatten(0, frames.shape[:2])


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of nested dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    return [t for inner in vars(value).values() for t in tensors_in(inner)] if hasattr(value, "__dict__") else []


def report(
    plan: Plan, state: State, cost: Cost, counts: Sequence[int], kinds: Sequence[str], given: Conditions
) -> Iterator[str]:
    """Markdown: what was counted, then a table for each kind of GPU, a row per strategy and number of them."""
    precision = {"32": "32 bit"}.get(plan.precision, plan.precision)
    yield f"batch {plan.batch} a GPU, {plan.length} frames, {plan.size} px, {precision}"
    yield (
        f"parameters {state.parameters / 1e9:.2f} GB, gradients {state.trainable / 1e9:.2f}, optimizer "
        f"{state.optimizer / 1e9:.2f}, activations {cost.activations / 1e9:.2f}, {cost.flops / 1e12:.2f} TFLOP and "
        f"{cost.kernels:,} kernels a step"
    )
    for kind in kinds:
        gpu = GPUS[kind]
        yield ""
        yield f"| {kind} | strategy | GB a GPU | fits {gpu.memory / 1e9:.0f} GB | steps/h | clips/h |"
        yield "|" + " --- |" * 6
        for count in counts:
            for name, size in per_gpu(state, cost, count).items():
                if (name == "one process") != (count == 1):
                    continue
                fits = size < 0.92 * gpu.memory
                steps = 3600 / seconds(name, state, cost, count, gpu, given)
                speed = f"{steps:,.0f} | {steps * plan.batch * count:,.0f}" if fits and not too_small(cost) else "- | -"
                yield f"| {count} | {name} | {size / 1e9:.2f} | {'yes' if fits else 'no'} | {speed} |"
    if too_small(cost):
        yield "too small to forecast speed: reading data, launching kernels and the rest of Python decide it"
