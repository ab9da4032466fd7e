"""Losses and scores over the steps of a run as one picture, `curves.png`."""

import csv
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from rvos_lightning.data.whole import WriteError, whole

Curve = dict[int, float]
SCORES = ("val/j_and_f", "val/j", "val/f")
"""Shown where they are logged; else every score of the validation set."""


class Curves(Callback):
    """Draws the run folder's `csv/*/metrics.csv` into `curves.png`, after validations and at the end.

    Left: every loss term, and what else is logged of training; right: scores of the validation set; a continued run
    goes on in the same curves. One point is no curve: what was not logged twice is not drawn among the losses, and
    where nothing was, there is no picture.

    Args:
        seconds: at least so long between two drawings.
    """

    def __init__(self, seconds: float = 60):
        self.seconds = seconds
        self._drawn = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, now and then."""
        if not trainer.sanity_checking and trainer.state.fn == "fit" and time.monotonic() - self._drawn > self.seconds:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw everything."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """What there is: it may show why."""
        self._draw(trainer)

    @rank_zero_only
    def _draw(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run or trainer.state.fn != "fit":
            return
        for logger in trainer.loggers:
            logger.save()
        self._drawn = time.monotonic()
        folder = Path(trainer.default_root_dir)
        curves = read_curves(folder / "csv")
        if any(len(curve) > 1 for curve in curves.values()):
            try:
                draw_curves(curves, folder / "curves.png")
            except (OSError, WriteError) as error:  # a full disk: a picture must not end the run, nor hide why it ends
                warnings.warn(f"{folder}: no curves.png ({error})", stacklevel=2)


def read_curves(folder: Path) -> dict[str, Curve]:
    """Name -> step -> value, from the CSV logs of every start; a later start replaces what it did again."""
    curves: dict[str, Curve] = defaultdict(dict)
    starts = sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    for path in starts:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in ("step", "epoch") and row.get("step"):
                        curves[name][int(float(row["step"]))] = float(value)
    return dict(curves)


def draw_curves(curves: Mapping[str, Curve], path: Path) -> None:
    """Losses on a logarithmic axis where they allow it, scores from 0 to 1."""
    from matplotlib.figure import Figure

    losses = {name: curve for name, curve in curves.items() if name.startswith("train/") and len(curve) > 1}
    scores = {name: curves[name] for name in SCORES if name in curves}
    scores = scores or {n: c for n, c in curves.items() if n.startswith("val/") and n.count("/") == 1}
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, shown, title in ((left, losses, "losses (training)"), (right, scores, "scores (validation)")):
        for name, curve in sorted(shown.items(), key=lambda pair: pair[0] != "train/loss"):
            steps = sorted(curve)
            wide = 2.0 if name in ("train/loss", "val/j_and_f") else 1.2
            label = f"{name.split('/', 1)[1].replace('j_and_f', 'J&F')}  {curve[steps[-1]]:.3g}"
            axis.plot(
                steps, [curve[s] for s in steps], marker="o" if len(steps) < 20 else None, lw=wide, ms=3, label=label
            )
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
        if shown:
            axis.legend(frameon=False, fontsize=9)
        axis.set_xlim(left=0)
    if losses and all(value > 0 for curve in losses.values() for value in curve.values()):
        left.set_yscale("log")
    if scores and all(0 <= value <= 1 for curve in scores.values() for value in curve.values()):
        right.set_ylim(0, 1.02)
    with whole(path) as partial:
        figure.savefig(partial, dpi=110)
