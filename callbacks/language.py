"""What Sa2VA says: the loss on its words, and how often it says [SEG]."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from rvos_lightning.core.objectives import Objective
from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import Batch, Prediction, SegmentedWindow
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt


class NextToken(Objective):
    """Cross-entropy on the taught answers' tokens, averaged over all tokens of the batch (Sa2VA's `llm_loss`).

    Term: `language`.

    Args:
        weight: of the term.
        chunk: tokens whose logits are turned into float32 at a time.
    """

    def __init__(self, weight: float = 1.0, chunk: int = 4096) -> None:
        self.weight, self.chunk = weight, chunk

    def terms(self, batch: Batch, prediction: Prediction) -> dict[str, Float[Tensor, ""]]:
        """The weighted term; zero, but attached to the graph, when nothing is taught.

        Raises:
            ValueError: the network does not speak.
        """
        prompt = prediction.prompt
        if not isinstance(prompt, SpokenPrompt) or prompt.token_logits is None:
            raise ValueError("objective NextToken needs the prompter MLLMPrompter; remove the objective or use it")
        if not len(prompt.labels):
            return {"language": prompt.token_logits.sum() * 0}
        pairs = zip(prompt.token_logits.split(self.chunk), prompt.labels.split(self.chunk), strict=True)
        total = sum(F.cross_entropy(logits.float(), labels, reduction="sum") for logits, labels in pairs)
        return {"language": self.weight * total / len(prompt.labels)}


class SegRate(MaskSink):
    """How often the answer has [SEG]: `seg_rate` where something is meant, `silent_rate` (no [SEG]) where nothing is.

    Also logs `unanswered`, the number of items that got an empty mask for want of a [SEG], and prints one line of all
    this after validation, test and prediction.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2, 2)

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Count every item once, on its video's last window."""
        prompt = window.prediction.prompt
        if not last or not isinstance(prompt, SpokenPrompt) or prompt.spoken is None:
            return
        for meta, spoken in zip(window.clip.meta, prompt.spoken.tolist(), strict=True):
            self.counts[int(meta.no_target), int(spoken)] += 1

    def rates(self, counts: Float[Tensor, "2 2"]) -> dict[str, float]:
        """Rates from counts [something or nothing meant, silent or spoken]; those without items are left out."""
        (silent, spoken), (rightly_silent, wrongly_spoken) = counts.tolist()
        rates = {"unanswered": silent + rightly_silent}
        if silent + spoken:
            rates["seg_rate"] = spoken / (silent + spoken)
        if rightly_silent + wrongly_spoken:
            rates["silent_rate"] = rightly_silent / (rightly_silent + wrongly_spoken)
        return rates

    def _report(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        counts: Any = trainer.strategy.reduce(self.counts.to(module.device), reduce_op="sum")
        self.counts = torch.zeros(2, 2)
        rates = self.rates(counts)
        if stage != "predict":  # Lightning logs nothing in prediction
            module.log_dict({f"{stage}/{name}": value for name, value in rates.items()}, rank_zero_only=True)
        if trainer.is_global_zero and not trainer.sanity_checking:
            print(rate_line(rates, counts), flush=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log over all ranks."""
        self._report("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log over all ranks."""
        self._report("test", trainer, pl_module)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print over all ranks."""
        self._report("predict", trainer, pl_module)


def rate_line(rates: dict[str, float], counts: Float[Tensor, "2 2"]) -> str:
    """`[SEG] in 0.991 of 109 answers about something, absent from 0.947 of 19 about nothing; 19 empty masks ...`."""
    meant, absent = (int(n) for n in counts.sum(1).tolist())
    parts = [f"[SEG] in {rates['seg_rate']:.3f} of {meant} answers about something"] if meant else []
    parts += [f"absent from {rates['silent_rate']:.3f} of {absent} about nothing"] if absent else []
    return f"{', '.join(parts) or 'no answers'}; {int(rates['unanswered'])} empty masks for want of a [SEG]"
