"""The only LightningModule: a network, metrics, an optimizer; losses come from callbacks."""

import random
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import Metric

from rvos_lightning.core.bounds import Share
from rvos_lightning.core.checkpointed import Checkpointed
from rvos_lightning.core.inference import precision_of
from rvos_lightning.core.objectives import Chooser, find_chooser
from rvos_lightning.core.optim import param_groups, scale_groups
from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Batch
from rvos_lightning.metrics.rows import FrameRows
from rvos_lightning.parts.starting import inside_adapter, start_from, values_of
from rvos_lightning.parts.tuning import Tuning
from rvos_lightning.run.continuation import Continuation
from rvos_lightning.run.sharding import sharding_of


class NonFiniteLoss(RuntimeError):
    """Training met NaN or infinity; names the items, so that they can be looked at."""


class RVOSModule(Checkpointed):
    """Trains, validates, tests and runs any `Network`.

    Args:
        network: turns a clip into a prediction.
        metrics: name -> metric, updated with every window of validation and test; None: those that the papers of the
            data use, as the data module states them.
        optimizer: builds the optimizer from parameter groups.
        scheduler: builds a schedule that is stepped every optimizer step; a `core.optim.Schedule` ends with training.
        lr_scale: regular expression on parameter names -> factor on the learning rate.
        no_decay: regular expressions of parameter names without weight decay, or classes such as nn.LayerNorm.
        layer_decay: learning rates fall by this factor from an encoder's top layer to each one below; 1: none.
        window: frames per network call in validation, test and prediction.
        weights: start from these weights (.safetensors or a checkpoint of ours); to *continue* a run use ckpt_path.
        fresh: regular expressions of network keys that `weights` need not have: parts that start from their own
            initialisation (or from a segmenter's own weights) in this stage.
        anew: regular expressions of network keys that start `fit` anew although `weights` has them.
        tune: what is trained, by name, instead of what the parts say; low-rank adapters are put in after `weights`
            are read, unless those have them.
        compile: run the network through `torch.compile`; a word names its backend, e.g. aot_eager or cudagraphs. What
            is proven for which system: docs/speed.md.
        shard_above: under FSDP2, blocks with more parameters are gathered one at a time.

    Raises:
        ValueError: fit without any objective.
        WeightsError: `weights` does not fit the network.
    """

    def __init__(
        self,
        network: Network,
        metrics: dict[str, Metric | FrameRows] | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        lr_scale: dict[str, float] | None = None,
        no_decay: list[str] | None = None,
        layer_decay: Share = 1.0,
        window: int = 8,
        weights: Path | None = None,
        fresh: list[str] | None = None,
        anew: list[str] | None = None,
        tune: Tuning | None = None,
        compile: bool | str = False,
        shard_above: int = 1_000_000,
    ):
        super().__init__(network, metrics, window)
        self.optimizer, self.scheduler, self.shard_above = optimizer, scheduler, shard_above
        self.weights = weights
        self.lr_scale, self.no_decay, self.layer_decay = lr_scale or {}, no_decay or [], layer_decay
        self.chooser: Chooser | None = None
        self._items: list[str] = []  # what this rank has seen since the last optimizer step
        self.strict_loading = False  # `on_load_checkpoint` checks, as it knows what is left out on purpose
        self._anew = values_of(network, anew or [])
        if tune is not None and tune.saved(network):
            tune.insert(network)
        if weights is not None:
            start_from(network, weights, fresh or [])
        if tune is not None:
            tune.apply(network)
        if compile:
            network.compile(backend="inductor" if compile is True else compile)

    def setup(self, stage: str) -> None:
        """Refuse to fit without a loss; start anew what should."""
        self.seed = torch.initial_seed() % 2**31  # every step draws from (seed, epoch, batch): resume is exact
        super().setup(stage)
        if stage == "fit" and not self.objectives:
            raise ValueError("fit needs a loss: add one to `objectives`, e.g. --objectives.mask callbacks.DiceFocal")
        if stage == "predict" and self.network.oracle:
            raise ValueError(
                f"predict: the network is fed an {self.network.oracle}, a part of the answer; train and run it without"
            )
        self.ask_data(stage)
        if stage == "fit":
            self.chooser = find_chooser(self.network, self.objectives)
            self.start_anew()

    def start_anew(self) -> None:
        """Give what should start anew its own initial values back; a checkpoint to continue from comes later."""
        own = self.network.state_dict().keys()
        kept = {key if key in own else inside_adapter(key): value for key, value in self._anew.items()}
        self.network.load_state_dict(kept, strict=False)

    def configure_model(self) -> None:
        """Spread the parameters where the strategy wants that."""
        if getattr(self, "sharding", None) is None or self.sharding.strategy is not self.trainer.strategy:
            self.sharding = sharding_of(self.trainer.strategy, self.network)
            self.sharding.prepare(self, self.shard_above)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Reseed, so that dropout and sampling in a resumed run equal those of an unbroken one.

        PyTorch draws differently on every rank, Python's `random` alike: what decides which modules run is drawn from
        that, as sharded strategies gather the parameters of a module on all ranks at once.
        """
        random.seed(hash((self.seed, self.current_epoch, batch_idx)))
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of all objectives' terms, attached to every trainable parameter."""
        items = ", ".join(f"{meta.video}/{meta.item}" for meta in batch.clip.meta)
        self._items.append(f"batch {batch_idx} (items {items})")
        batch = Batch(batch.clip.floating(precision_of(self.network)), batch.targets)
        asked = {} if self.chooser is None else {"choose": self.chooser.bound(batch)}
        loss = self.loss(batch, self.network(batch.clip, **asked), "train", self.objectives)
        if batch_idx == 0 and self.trainer.global_step == 0:
            self.sharding.name_idle(loss)
        return self.sharding.reach(loss)

    def on_before_backward(self, loss: Tensor) -> None:
        """All ranks stop together where one has no finite loss.

        Not part of the training step: a rank that waits here for another has left its forward pass, see `StuckRank`.
        """
        self._stop_unless(bool(loss.isfinite()), f"loss is {float(loss.detach()):g}")

    def on_after_backward(self) -> None:
        """Nothing needs to stay gathered for gradients any more."""
        self.sharding.after_backward()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """A finite loss may have gradients that are not: stop before they reach a weight."""
        if not self._loss_scaling:
            self._stop_unless(self.sharding.finite_before_step(), "the loss is finite, its gradient is not,")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step; what only its engine could see is asked afterwards, before anything is saved."""
        super().optimizer_step(*args, **kwargs)
        if not self._loss_scaling:
            self._stop_unless(self.sharding.finite_after_step(), "the loss is finite, its gradient is not,")
        self._items = []

    @property
    def _loss_scaling(self) -> bool:
        return str(self.trainer.precision).startswith("16")  # skips steps with infinite gradients by itself

    def _stop_unless(self, finite: bool, what: str) -> None:
        if self.trainer.strategy.reduce_boolean_decision(not finite, all=False):
            raise NonFiniteLoss(
                f"{what} in epoch {self.current_epoch}, {', '.join(self._items)}; "
                "the last good checkpoint is kept. Lower the learning rate, clip gradients or look at these items"
            )

    def configure_optimizers(self) -> Any:
        """The optimizer over scaled groups and, if given, a per-step schedule."""
        groups = param_groups(self.network, self.lr_scale, self.no_decay, self.layer_decay)
        optimizer = scale_groups(self.optimizer(groups))
        self.optimization = Continuation(optimizer, self.scheduler)
        if self._continued is not None:
            self.optimization.compare(self._continued)
        if self.optimization.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.optimization.schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Tell the schedule how long it is; not earlier, as asking makes Lightning open the data before it resumes."""
        self.optimization.start(self.trainer.estimated_stepping_batches)
