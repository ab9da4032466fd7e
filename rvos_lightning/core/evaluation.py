"""What training, validation, test and prediction share, and all of the last three: videos, metrics, masks."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from rvos_lightning.core.inference import segment_video
from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.seams import Network
from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import Batch, Prediction
from rvos_lightning.data.lightning_module import data_of
from rvos_lightning.metrics.rows import FrameRows
from rvos_lightning.metrics.torch_metric import TorchMetric
from rvos_lightning.run.sharding import Whole


class Evaluation(LightningModule):
    """Runs a network over whole videos in bounded memory; `RVOSModule` adds training.

    Args:
        network: turns a clip into a prediction.
        metrics: name -> metric, updated with every window of validation and test; None: those of the data's papers.
        window: frames per network call.

    Attributes:
        objectives: losses found among the trainer's callbacks.
        sinks: receivers of masks found there.
        sharding: what the strategy needs; set before anything runs.
    """

    sharding: Whole

    def __init__(self, network: Network, metrics: dict[str, Metric | FrameRows] | None, window: int):
        super().__init__()
        self.network, self.metrics, self.window = network, gathering(metrics or {}), window
        self.asks_data = metrics is None
        self.objectives: list[Objective] = []
        self.sinks: list[MaskSink] = []

    def setup(self, stage: str) -> None:
        """Find the objectives and sinks among the trainer's callbacks."""
        callbacks = self.trainer.callbacks
        self.objectives = [callback for callback in callbacks if isinstance(callback, Objective)]
        self.sinks = [callback for callback in callbacks if isinstance(callback, MaskSink)]
        if any(isinstance(objective, nn.Module) for objective in self.objectives):
            raise ValueError("an objective is an nn.Module: nothing would update it; move parameters to the network")

    def ask_data(self, stage: str) -> None:
        """The metrics that the data module states for a stage, unless others were given."""
        data = data_of(self.trainer)
        if self.asks_data and stage != "predict" and data is not None:
            own = data.metrics("test" if stage == "test" else "val")
            self.metrics = gathering(own).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Segment, score, hand masks to the sinks."""
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Segment, score, hand masks to the sinks."""
        self.evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """Segment and hand masks to the sinks; returns only the ids done, so that nothing long is held."""
        self.evaluate(batch, "predict")
        return [f"{meta.video}/{meta.item}" for meta in batch.clip.meta]

    def evaluate(self, batch: Batch, stage: str) -> None:
        """One video (or several of one length): every window through network, metrics and sinks."""
        objectives = [objective for objective in self.objectives if objective.in_validation]
        done = 0
        for window in segment_video(self.sharding.whole, batch, self.window):
            done += window.clip.time
            if window.targets is not None and stage != "predict":
                for metric in self.metrics.values():
                    metric.update(window)
                if objectives:
                    self.loss(Batch(window.clip, window.targets), window.prediction, stage, objectives)
            for sink in self.sinks:
                sink.write(stage, window, last=done == batch.clip.time)

    def _start_evaluation(self) -> None:
        self.sharding.start_evaluation()
        for metric in self.metrics.values():
            metric.reset()

    def _end_evaluation(self, stage: str) -> None:
        self.sharding.end_evaluation()
        for metric in self.metrics.values() if stage != "predict" else ():
            scores = metric.compute()
            nothing = isinstance(metric, TorchMetric) and metric.protocol.nothing
            if nothing and self.trainer.state.fn != "fit" and not self.trainer.fast_dev_run:
                raise ValueError("no frame of this split is annotated, so there is nothing to score")
            self.log_dict({f"{stage}/{name}": float(value) for name, value in scores.items()}, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self._start_evaluation()

    def on_predict_epoch_start(self) -> None:
        """Ranks have different videos: gather sharded parameters beforehand."""
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        """Log every metric once, computed over all ranks."""
        self._end_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log every metric once, computed over all ranks."""
        self._end_evaluation("test")

    def on_predict_epoch_end(self) -> None:
        """Give sharded parameters back."""
        self._end_evaluation("predict")

    def loss(self, batch: Batch, prediction: Prediction, stage: str, objectives: list[Objective]) -> Tensor:
        """Sum the named terms and log each as `<stage>/<name>`.

        Raises:
            ValueError: two objectives use one term name.
        """
        terms: dict[str, Tensor] = {}
        for objective in objectives:
            new = objective.terms(batch, prediction)
            if clash := terms.keys() & new.keys():
                raise ValueError(f"two objectives return the term {sorted(clash)}: rename one")
            terms.update(new)
        total = torch.stack(list(terms.values())).sum()
        values = {f"{stage}/{name}": value.detach() for name, value in {"loss": total, **terms}.items()}
        train = stage == "train"
        self.log_dict(values, batch_size=len(batch.clip), on_step=train, on_epoch=not train, sync_dist=not train)
        return total


def gathering(metrics: Mapping[str, Metric | FrameRows]) -> nn.ModuleDict:
    """Every protocol as a metric that gathers what all ranks counted; metrics of torchmetrics as they are."""
    return nn.ModuleDict({n: TorchMetric(m) if isinstance(m, FrameRows) else m for n, m in metrics.items()})
