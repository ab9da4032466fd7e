"""What a checkpoint holds of a run besides what Lightning keeps, and what must agree when a run goes on."""

from typing import Any

from rvos_lightning.core.evaluation import Evaluation
from rvos_lightning.parts.weights import complete, reproducible_prefixes
from rvos_lightning.run.continuation import KEY, Continuation


class Checkpointed(Evaluation):
    """Weights that cannot be had again, and the settings of the optimizer.

    Attributes:
        optimization: optimizer and schedule, once configured.
    """

    optimization: Continuation | None = None
    _continued: dict[str, Any] | None = None  # what the checkpoint says of its optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the optimizer's settings, to be compared when the run goes on."""
        if self.optimization is not None:
            checkpoint[KEY] = self.optimization.record()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Only keys that cannot be had again: frozen parts that came from a file stay out, under every strategy."""
        state = super().state_dict(*args, **kwargs)
        prefixes = tuple(f"network.{prefix}" for prefix in reproducible_prefixes(self.network))
        return {key: value for key, value in state.items() if not key.startswith(prefixes)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another system's checkpoint; a sharded strategy has checked and loaded the weights by itself.

        Raises:
            WeightsError: names the first keys on both sides.
            ValueError: another optimizer, schedule or other parameter groups.
        """
        self._continued = checkpoint.get(KEY)
        if self.optimization is not None and self._continued is not None:
            self.optimization.compare(self._continued)
        if "state_dict" in checkpoint:
            complete(checkpoint["state_dict"], super().state_dict(), self.network, "network.")
