"""A recipe's training step on a device, beside what `rvos forecast` says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rvos_lightning.core.objectives import find_chooser
from rvos_lightning.core.optim import param_groups
from rvos_lightning.run.forecast import Plan, enlarged
from rvos_lightning.run.forecast_memory import per_gpu


def step(recipe: Path, device: str, timed: Callable) -> dict[str, Any]:
    """Forward, losses, backward and optimizer of the recipe as printed, on drawn shapes enlarged to its size."""
    plan = Plan(["-c", str(recipe)])
    drawing = {"size": min(plan.size, 256), "clip_length": plan.length, "video_length": 2 * plan.length, "workers": 0}
    made = plan.build(device, **drawing, batch_size=plan.batch, train_clips=plan.batch)
    batch = enlarged(next(iter(made.data.train_dataloader())), plan.size).to(device)
    module = made.model.train()
    network = module.network.to(device)
    objectives = [objective for objective in made.objectives.values() if objective is not None]
    chooser = find_chooser(network, objectives)
    asked = {} if chooser is None else {"choose": chooser.bound(batch)}
    optimizer = module.optimizer(param_groups(network, module.lr_scale, module.no_decay, module.layer_decay))

    def run() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=plan.low_precision):
            prediction = network(batch.clip, **asked)
        terms = [term for objective in objectives for term in objective.terms(batch, prediction).values()]
        torch.stack([term.float() for term in terms]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds, peak = timed(run, device)
    cost, _ = plan.cost("auto")
    said = next(iter(per_gpu(plan.state(), cost, 1).values())) / 1e9
    reached = cost.flops / seconds / 1e12
    row = {"system": recipe.stem, "what": f"recipe, {plan.batch} clips of {plan.length} frames, {plan.size} px"}
    row |= {"mode": "bf16" if plan.low_precision else "fp32", "flow": "ours", "unit": "clips/s", "seconds": seconds}
    row |= {"per_second": plan.batch / seconds, "flops": cost.flops, "tflops": reached, "forecast_gb": said}
    row["forecast"] = f"forecast {said:.1f} GB; {cost.flops / 1e12:.1f} TFLOP, {reached:.0f} TFLOP/s reached"
    return row if peak is None else {**row, "peak_gb": peak}
