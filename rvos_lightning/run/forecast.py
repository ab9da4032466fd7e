"""Will it fit, and how long will it take?

    rvos forecast -c configs/paper/samwise_mevis.yaml \\
        --model.weights null

prints GB per GPU under each strategy and steps per hour on A100s, from the bytes and FLOPs of one training step:
counted at full size without memory (meta device) where the network allows, else at small sizes on this CPU, and scaled.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rvos_lightning.core.seams import find_chooser
from rvos_lightning.core.types import Batch
from rvos_lightning.run.forecast_memory import Cost, State, bytes_of, extrapolate, measure, per_gpu, state_of

CARDS = {"A100 40 GB": 40e9, "A100 80 GB": 80e9}
FILES = ("weights", "tokenizer", "pretrained")
SPEED = {"32": 156e12, "bf16": 312e12}  # data sheet of the A100: TF32 and bfloat16 tensor cores, FLOP/s


def main(args: Sequence[str] | None = None) -> None:
    """Forecast memory and speed of a configuration; everything after the options goes to the usual parser."""
    parser = argparse.ArgumentParser(prog="rvos forecast", description=main.__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs to show")
    parser.add_argument(
        "--efficiency", type=float, default=0.35, help="assumed share of the peak FLOP/s that is reached"
    )
    parser.add_argument("--on", choices=["auto", "meta", "cpu"], default="auto", help="where to count one step")
    options, rest = parser.parse_known_args(args)
    plan = Plan(rest)
    cost, how = plan.cost(options.on)
    print(table(plan, cost, options.gpus, options.efficiency))
    print(f"counted {how}; speed assumes {options.efficiency:.0%} of the A100's peak")


class Plan:
    """A parsed configuration, with a synthetic batch of any size in place of its data.

    Args:
        words: as for `fit`.
    """

    def __init__(self, words: Sequence[str]):
        from rvos_lightning.run.config import open_config

        self.cli = open_config([*words, "--data", "rvos_lightning.data.MovingShapes"])  # what else fits is kept
        config = self.cli.config
        data = config.data.init_args
        self.size = data.size if isinstance(data.size, int) else max(data.size)
        self.length, self.batch = data.clip_length, data.batch_size
        self.low_precision = str(config.trainer.precision or "").startswith("bf16")

    def build(self, device: str, **drawing: Any) -> Any:
        """Module, losses and data module as the configuration says, but with random weights.

        Args:
            device: of the weights.
            drawing: other values for arguments of the data module.
        """
        config = self.cli.config.clone()
        config.pop("callbacks", None)
        for key, value in list(config.items()):
            if key.startswith("model.") and key.split(".")[-1] in FILES and value is not None:
                config[key] = None  # sizes count, not what is in the files
        for key, value in drawing.items():
            config.data.init_args[key] = value
        with torch.device(device):
            return self.cli.parser.instantiate_classes(config)

    def step(self, device: str, batch: int, length: int, size: int) -> Cost:
        """Count one training step."""
        drawing = {"size": min(size, 256), "clip_length": length, "video_length": 2 * length, "workers": 0}
        made = self.build(device, **drawing, batch_size=batch, train_clips=batch)
        drawn = enlarged(next(iter(made.data.train_dataloader())), size).to(device)
        network = made.model.train().network
        objectives = [objective for objective in made.objectives.values() if objective is not None]
        chooser = find_chooser(network, objectives)
        asked = {} if chooser is None else {"choose": chooser.bound(drawn)}

        def loss() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.low_precision and device == "cpu"):
                prediction = network(drawn.clip, **asked)
            terms = [term for objective in objectives for term in objective.terms(drawn, prediction).values()]
            return torch.stack([term.float() for term in terms]).sum()

        return measure(network, loss, tensors_in(drawn))

    def cost(self, where: str) -> tuple[Cost, str]:
        """One step at the configured size: directly on meta, or scaled from three small runs on the CPU."""
        if where != "cpu":
            try:
                cost = self.step("meta", self.batch, self.length, self.size)
            except (RuntimeError, NotImplementedError, ValueError) as error:  # some operations need real numbers
                if where == "meta":
                    raise
                print(
                    f"not countable without data ({str(error).splitlines()[0][:100]}); running small sizes",
                    file=sys.stderr,
                )
            else:
                half = 0.55 if self.low_precision else 1.0  # activations halve, losses and norms stay in 32 bit
                return replace(cost, activations=cost.activations * half), "on meta"
        small = max(32, self.size // 4 // 32 * 32)
        runs = [(1, 2, small), (1, 4, small), (1, 2, 2 * small)]
        costs = [self.step("cpu", *run) for run in runs]
        sizes = [(batch * length, size * size) for batch, length, size in runs]
        return extrapolate(
            sizes, costs, (self.batch * self.length, self.size**2)
        ), "at small sizes on the CPU, and scaled"

    def state(self) -> State:
        """What stays from step to step."""
        from rvos_lightning.core.optim import param_groups
        from rvos_lightning.run.sharding import blocks

        module = self.build("meta").model
        param_groups(
            module.network, module.lr_scale, module.no_decay, module.layer_decay
        )  # the same errors as training
        units = [sum(map(bytes_of, block.parameters())) for _, block in blocks(module.network, module.shard_above)]
        return state_of(module.network, module.optimizer, units)


def enlarged(batch: Batch, size: int) -> Batch:
    """The same clips in frames of another size."""
    clip, targets = batch.clip, batch.targets
    meta = [replace(m, size=(size, size), original_size=(size, size)) for m in clip.meta]
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


def table(plan: Plan, cost: Cost, gpus: Sequence[int], efficiency: float) -> str:
    """Markdown: a row per strategy and number of GPUs."""
    state, precision = plan.state(), "bf16-mixed" if plan.low_precision else "32 bit"
    lines = [
        f"batch {plan.batch} a GPU, {plan.length} frames, {plan.size} px, {precision}",
        f"parameters {state.parameters / 1e9:.2f} GB, gradients {state.trainable / 1e9:.2f}, optimizer "
        f"{state.optimizer / 1e9:.2f}, activations {cost.activations / 1e9:.2f}, {cost.flops / 1e12:.2f} TFLOP a step",
        "",
        "| strategy | GPUs | GB a GPU | " + " | ".join(CARDS) + " | steps/h | clips/h |",
        "|" + " --- |" * (5 + len(CARDS)),
    ]
    steps = 3600 * SPEED["bf16" if plan.low_precision else "32"] * efficiency / max(cost.flops, 1.0)
    for count in gpus:
        for name, size in per_gpu(state, cost, count).items():
            if (name == "one process") == (count == 1):
                fits = " | ".join("fits" if size < 0.92 * card else "no" for card in CARDS.values())
                speed = f"{steps:,.0f} | {steps * plan.batch * count:,.0f}"
                lines.append(f"| {name} | {count} | {size / 1e9:.2f} | {fits} | {speed} |")
    return "\n".join(lines)
