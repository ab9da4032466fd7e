"""One plain line per evaluation, `scores.json` beside it, and a table of every video and expression."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.leakage import Leakage
from rvos_lightning.data.lightning_module import data_of
from rvos_lightning.data.whole import whole
from rvos_lightning.metrics.torch_metric import TorchMetric

SHOWN = {"j_and_f": "J&F", "j": "J", "f": "F"}


class Scores(Callback):
    """Prints `J&F 0.873  J 0.861  F 0.885  (moving_shapes val, mean over expressions)` and keeps it on disk.

    Writes into the run folder: `scores.json` (newest scores of each stage) and `scores_<stage>.csv` (one row per
    video and item).

    Args:
        table: write the rows, too.
    """

    def __init__(self, table: bool = True):
        self.table = table

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find a monitor that no metric logs now, and not after hours.

        Raises:
            ValueError: names the callback, the monitor and the scores there are.
        """
        logged = [name for name in trainer.callback_metrics if name.startswith("val/")]
        for callback in trainer.callbacks:
            monitor = getattr(callback, "monitor", None)
            wrong = isinstance(monitor, str) and monitor not in logged
            # of other names, some may be logged in training: they are looked for when the first validation ends
            wrong = wrong and (monitor.startswith("val") or f"val/{monitor}" in logged)
            if not wrong or not logged or any(monitor.startswith(f"{name}/") for name in logged):
                continue
            near = get_close_matches(monitor, logged, n=3, cutoff=0.4)
            raise ValueError(
                f"{type(callback).__name__} monitors {monitor!r}, which no metric logs\n  expected  one of: "
                f"{', '.join(logged)}" + (f"\n  nearest   {', '.join(near)}" if near else "")
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the validation set."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the test set."""
        self._report(trainer, pl_module, "test")

    def _report(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        metrics: Any = pl_module.metrics
        if not len(metrics):
            return
        own = {name: metric for name, metric in metrics.items() if isinstance(metric, TorchMetric)}
        rules = sorted({m.protocol.said if m in own.values() else type(m).__name__ for m in metrics.values()})
        if oracle := pl_module.network.oracle:  # type: ignore[union-attr]
            rules.append(f"with {oracle}: not comparable with methods that have none")
        rules += [each.said for each in trainer.callbacks if isinstance(each, Leakage) and each.said]
        tables = {name: metric.table() for name, metric in own.items() if self.table}
        scores = {
            key.removeprefix(f"{stage}/"): float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith(f"{stage}/")
        }
        self._write(trainer, stage, scores, rules, tables)

    @rank_zero_only
    def _write(
        self, trainer: Trainer, stage: str, scores: dict[str, float], rules: list[str], tables: dict[str, Any]
    ) -> None:
        name = data_name(trainer, stage)
        print(score_line(scores, f"{name} {stage}, {'; '.join(rules)}"), flush=True)
        if trainer.fast_dev_run:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "scores.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known[stage] = {"data": name, "rule": rules, "step": trainer.global_step, **scores}
        with whole(path) as partial:
            partial.write_text(json.dumps(known, indent=2) + "\n")
        for metric, rows in tables.items():
            from rvos_lightning.metrics.tables import write_table

            write_table(rows, folder / f"scores_{stage}_{metric}.csv")


def data_name(trainer: Trainer, split: str) -> str:
    """The data set's own name, or its class's where the data module has no reader."""
    data = data_of(trainer)
    reader = None if data is None else data.read(split)
    return type(data or trainer.datamodule).__name__ if reader is None else reader.name  # type: ignore[attr-defined]


def score_line(scores: dict[str, float], what: str) -> str:
    """The line people look for, main scores first, then named subsets."""
    main = [f"{SHOWN[key]} {scores[key]:.3f}" for key in SHOWN if key in scores]
    others = [f"{key} {value:.3f}" for key, value in scores.items() if key not in SHOWN and "/" not in key]
    subsets = [f"{key.split('/')[1]} {value:.3f}" for key, value in scores.items() if key.startswith("j_and_f/")]
    line = "  ".join(main or others) + f"  ({what})"
    return line + (f"\n  J&F of subsets: {'  '.join(subsets)}" if subsets else "")
