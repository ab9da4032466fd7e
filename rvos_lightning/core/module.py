"""The only LightningModule: a network, metrics, an optimizer; losses come from callbacks."""

import random
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric

from rvos_lightning.core.inference import segment_video
from rvos_lightning.core.optim import param_groups, scale_groups
from rvos_lightning.core.seams import Chooser, MaskSink, Network, Objective, find_chooser
from rvos_lightning.core.types import Batch, Candidates, Prediction, Prompt, State
from rvos_lightning.parts.weights import WeightsError, load_official, reproducible_prefixes
from rvos_lightning.run.sharding import convert_batches, hold_loose, shard, spare_frozen, template, whole


class NonFiniteLoss(RuntimeError):
    """Training met NaN or infinity; names the batch, so that it can be looked at."""


class RVOSModule(LightningModule):
    """Trains, validates, tests and runs any `Network`.

    Args:
        network: turns a clip into a prediction.
        metrics: name -> metric, updated with every window of masks in validation and test.
        optimizer: builds the optimizer from parameter groups.
        scheduler: builds a schedule that is stepped every optimizer step.
        lr_scale: regular expression on parameter names -> factor on the learning rate.
        no_decay: regular expressions of parameter names without weight decay, or classes such as nn.LayerNorm.
        layer_decay: learning rates fall by this factor from an encoder's top layer to each one below; 1: none.
        window: frames per network call in validation, test and prediction.
        weights: start from these weights (.safetensors or a checkpoint of ours); to *continue* a run use ckpt_path.
        fresh: regular expressions of network keys that `weights` need not have: parts that start from their own
            initialisation (or from a segmenter's own weights) in this stage.
        compile: run the network through `torch.compile`.
        shard_above: under FSDP2, blocks with more parameters are gathered one at a time.

    Raises:
        ValueError: fit without any objective.
        WeightsError: `weights` does not fit the network.
    """

    def __init__(
        self,
        network: Network,
        metrics: dict[str, Metric] | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        lr_scale: dict[str, float] | None = None,
        no_decay: list[str] | None = None,
        layer_decay: float = 1.0,
        window: int = 8,
        weights: Path | None = None,
        fresh: list[str] | None = None,
        compile: bool = False,
        shard_above: int = 1_000_000,
    ):
        super().__init__()
        self.network = network
        self.metrics = nn.ModuleDict({"val": nn.ModuleDict(metrics or {})})
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.lr_scale = lr_scale or {}
        self.no_decay, self.layer_decay = no_decay or [], layer_decay
        self.window = window
        self.weights = weights
        self.objectives: list[Objective] = []
        self.sinks: list[MaskSink] = []
        self.chooser: Chooser | None = None
        self.shard_above, self._sharded = shard_above, False
        self._evaluating = ExitStack()
        self._empty, self._whole = [None], [network]  # in lists: no submodules
        self.strict_loading = False  # `on_load_checkpoint` checks, as it knows what is left out on purpose
        if weights is not None:
            start_from(network, weights, fresh or [])
        if compile:
            network.compile()

    def setup(self, stage: str) -> None:
        """Find the objectives and sinks among the trainer's callbacks; refuse to fit without a loss."""
        self.seed = torch.initial_seed() % 2**31  # every step draws from (seed, epoch, batch): resume is exact
        callbacks = self.trainer.callbacks
        self.objectives = [callback for callback in callbacks if isinstance(callback, Objective)]
        self.sinks = [callback for callback in callbacks if isinstance(callback, MaskSink)]
        if any(isinstance(objective, nn.Module) for objective in self.objectives):
            raise ValueError(
                "an objective is an nn.Module: its parameters would never be updated; move them to the network"
            )
        if stage == "fit" and not self.objectives:
            raise ValueError(
                "fit needs a loss: add an entry to `objectives`, e.g. --objectives.mask callbacks.DiceFocal"
            )
        self.chooser = find_chooser(self.network, self.objectives) if stage == "fit" else None

    def configure_model(self) -> None:
        """Spread the parameters where the strategy wants that."""
        spare_frozen(self.trainer.strategy, self.network)
        convert_batches(self.trainer.strategy.precision_plugin)
        self._empty = [template(self.trainer.strategy, self.network)]
        hold_loose(self.trainer.strategy, self, self.network, self.shard_above)
        if self.device_mesh is not None and not self._sharded:
            shard(self.network, self.device_mesh["data_parallel"], self.shard_above)
            self._sharded = True

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Reseed, so that dropout and sampling in a resumed run equal those of an unbroken one.

        PyTorch draws differently on every rank, Python's `random` alike: what decides which modules run is drawn from
        that, as sharded strategies gather the parameters of a module on all ranks at once.
        """
        random.seed(hash((self.seed, self.current_epoch, batch_idx)))
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of all objectives' terms."""
        asked = {} if self.chooser is None else {"choose": self.chooser.bound(batch)}
        prediction = self.network(batch.clip, **asked)
        items = ", ".join(f"{meta.video}/{meta.item}" for meta in batch.clip.meta)
        self._batch = f"batch {batch_idx} (items {items})"
        return self.loss(batch, prediction, "train", self.objectives) + zero_from(prediction)

    def on_before_backward(self, loss: Tensor) -> None:
        """All ranks stop together where one has no finite loss.

        Not part of the training step: a rank that waits here for another has left its forward pass, see `StuckRank`.

        Raises:
            NonFiniteLoss: names this rank's items.
        """
        if self.trainer.strategy.reduce_boolean_decision(not bool(loss.isfinite()), all=False):
            raise NonFiniteLoss(
                f"loss is {float(loss):g} in epoch {self.current_epoch}, {self._batch}; "
                "the last good checkpoint is kept. Lower the learning rate, clip gradients or look at these items"
            )

    def on_after_backward(self) -> None:
        """Once, before DDP would complain without names or hang: every trainable parameter must have a gradient.

        Raises:
            ValueError: names the parameters that no loss reaches.
        """
        wrapper = self.trainer.strategy.model
        if self.trainer.global_step or not isinstance(wrapper, DistributedDataParallel):
            return
        unused = [name for name, p in self.network.named_parameters() if p.requires_grad and p.grad is None]
        if unused and not wrapper.find_unused_parameters:
            raise ValueError(
                f"{len(unused)} trainable parameters got no gradient, first {', '.join(unused[:3])}: DDP would wait "
                "for them for ever. Freeze them (rvos_lightning.parts.weights.freeze) or let them take part in the "
                "prediction"
            )

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
        self.log_dict(
            values,
            batch_size=len(batch.clip),
            on_step=stage == "train",
            on_epoch=stage != "train",
            sync_dist=stage != "train",
            prog_bar=False,
        )
        return total

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
        for window in segment_video(self._whole[0], batch, self.window):
            done += window.clip.time
            if window.targets is not None and stage != "predict":
                for metric in self.metrics["val"].values():
                    metric.update(window)
                if objectives:
                    self.loss(Batch(window.clip, window.targets), window.prediction, stage, objectives)
            for sink in self.sinks:
                sink.write(stage, window, last=done == batch.clip.time)

    def on_validation_start(self) -> None:
        """Send rank 0's buffers round once: DDP would do so at every batch, and ranks have unequal numbers of them."""
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            self._broadcasts, model.broadcast_buffers = model.broadcast_buffers, False
            for buffer in self.network.buffers() if self._broadcasts else ():
                torch.distributed.broadcast(buffer, 0)

    def on_validation_end(self) -> None:
        """Let DDP send buffers round in training again."""
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            model.broadcast_buffers = self._broadcasts

    def on_validation_epoch_end(self) -> None:
        """Log every metric once, computed over all ranks."""
        self._end_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log every metric once, computed over all ranks."""
        self._end_evaluation("test")

    def on_predict_epoch_end(self) -> None:
        """Give sharded parameters back."""
        self._release()

    def _end_evaluation(self, stage: str) -> None:
        self._release()
        for metric in self.metrics["val"].values():
            scores = metric.compute()
            self.log_dict({f"{stage}/{name}": float(value) for name, value in scores.items()}, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self._start_evaluation()

    def on_predict_epoch_start(self) -> None:
        """Ranks have different videos: gather sharded parameters beforehand."""
        self._gather()

    def _gather(self) -> None:
        gathered = whole(self.trainer.strategy, self.network, *self._empty)
        self._whole = [self._evaluating.enter_context(gathered)]

    def _release(self) -> None:
        self._evaluating.close()
        self._whole = [self.network]

    def _start_evaluation(self) -> None:
        self._gather()
        for metric in self.metrics["val"].values():
            metric.reset()

    def configure_optimizers(self) -> Any:
        """The optimizer over scaled groups and, if given, a per-step schedule."""
        optimizer = scale_groups(
            self.optimizer(param_groups(self.network, self.lr_scale, self.no_decay, self.layer_decay))
        )
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Only keys that cannot be had again: frozen parts that came from a file stay out, under every strategy."""
        state = super().state_dict(*args, **kwargs)
        prefixes = tuple(f"network.{prefix}" for prefix in reproducible_prefixes(self.network))
        for key in [key for key in state if prefixes and key.startswith(prefixes)]:
            del state[key]
        return state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another system's checkpoint; a sharded strategy has checked and loaded the weights by itself.

        Raises:
            WeightsError: names the first keys on both sides.
        """
        if "state_dict" in checkpoint:
            complete(checkpoint["state_dict"], super().state_dict(), "network.", self.network)


def zero_from(value: Any) -> Tensor | float:
    """Zero, attached to every tensor of a prediction: a head without a loss still gets its (zero) gradient.

    Otherwise DDP would wait for it for ever, as soon as an objective is taken away.
    """
    if isinstance(value, Tensor):
        return (value * 0).nan_to_num().sum() if value.requires_grad else 0.0
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return sum((zero_from(entry) for entry in value), 0.0)
    return zero_from(vars(value)) if isinstance(value, Prediction | Prompt | State | Candidates) else 0.0


def complete(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str, network: nn.Module
) -> dict[str, Tensor]:
    """`state` plus the frozen keys of `own` that a checkpoint leaves out on purpose.

    Raises:
        WeightsError: other keys missing or surplus, or shapes that differ.
    """
    allowed = tuple(prefix + name for name in reproducible_prefixes(network))
    missing = [key for key in own if key not in state]
    wrong = [key for key in missing if not (allowed and key.startswith(allowed))]
    surplus = [key for key in state if key not in own]
    shapes = [key for key in state if key in own and state[key].shape != own[key].shape]
    if wrong or surplus or shapes:
        parts = {"missing": wrong, "not in this network": surplus, "of another shape": shapes}
        found = "; ".join(f"{len(keys)} keys {what}, first {keys[0]}" for what, keys in parts.items() if keys)
        raise WeightsError(
            f"the checkpoint belongs to another system or configuration ({found}); use the config.yaml saved beside it"
        )
    return {**{key: own[key] for key in missing}, **state}


def start_from(network: Network, path: Path, fresh: Sequence[str] = ()) -> None:
    """Load weights of ours: a .safetensors file of network keys, or a Lightning checkpoint.

    Args:
        network: receives the weights.
        path: file.
        fresh: regular expressions of keys that keep their present values where the file lacks them.

    Raises:
        WeightsError: the file is missing or does not fit.
    """
    state = load_official(path)
    if any(key.startswith("network.") for key in state):
        state = {re.sub("^network\\.", "", key): value for key, value in state.items() if key.startswith("network.")}
    own = network.state_dict()
    kept = {key: own[key] for key in own if key not in state and any(re.fullmatch(pattern, key) for pattern in fresh)}
    network.load_state_dict(complete({**state, **kept}, own, "", network))
