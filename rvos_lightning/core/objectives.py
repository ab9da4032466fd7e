"""The abstract callback that scores a network, and the one that also chooses among its candidates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from lightning.pytorch import Callback
from torch import Tensor

from rvos_lightning.core.seams import Choose, ChoosingNetwork, Network
from rvos_lightning.core.types import Batch, Candidates, Prediction


class Objective(Callback, ABC):
    """A loss that Lightning can see: a callback the module consults in `training_step`.

    No parameters (they would never be updated) and no state (derive schedules from `global_step`).

    Attributes:
        in_validation: also consulted in validation, where predictions come window by window.
    """

    in_validation = False

    @abstractmethod
    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """Named, already weighted scalars, each attached to the graph even when nothing contributes."""


class Chooser(Objective):
    """The loss of a `ChoosingNetwork`: it also says which candidates match the targets."""

    @abstractmethod
    def choose(self, batch: Batch, candidates: Candidates) -> Int[Tensor, "layers batch"]:
        """The query to refine for each item at each decoder layer; called without gradients, in the forward pass.

        Ranks must not wait for each other here: this runs inside the network.
        """

    def bound(self, batch: Batch) -> Choose:
        """`choose` with the batch inside, as a network may call it."""

        def choose(candidates: Candidates) -> Int[Tensor, "layers batch"]:
            return self.chosen(batch, candidates)

        return choose

    @torch.compiler.disable  # a network may be compiled, its loss is not
    @torch.no_grad()
    def chosen(self, batch: Batch, candidates: Candidates) -> Int[Tensor, "layers batch"]:
        """What `choose` answers, checked.

        Raises:
            ValueError: not one query for each layer and item.
        """
        chosen = self.choose(batch, candidates)
        if chosen.shape != candidates.logits.shape[:2] or chosen.dtype != torch.int64:
            layers, items = candidates.logits.shape[:2]
            raise ValueError(
                f"{type(self).__name__}.choose returned {chosen.dtype} of shape {tuple(chosen.shape)}, where the "
                f"network has {layers} layers and {items} items: return int64 [layers, items]"
            )
        return chosen


def find_chooser(network: Network, objectives: Sequence[Objective]) -> Chooser | None:
    """The objective that chooses for `network` in training; None for a network that asks nothing.

    Raises:
        ValueError: the network asks and no objective, or more than one, answers; or an objective that nobody asks.
    """
    choosers = [objective for objective in objectives if isinstance(objective, Chooser)]
    asks = isinstance(network, ChoosingNetwork)
    if len(choosers) != asks:
        names = ", ".join(type(chooser).__name__ for chooser in choosers) or "none"
        raise ValueError(
            f"{type(network).__name__} refines what exactly one objective chooses; choosing objectives: {names}"
            if asks
            else f"objectives {names} choose among a network's candidates, but {type(network).__name__} shows none: "
            "remove them"
        )
    return choosers[0] if asks else None
