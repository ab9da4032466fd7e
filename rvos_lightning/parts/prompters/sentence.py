"""The sentence itself as the prompt token."""

from torch import nn

from rvos_lightning.core.seams import Adapter, Prompter, Segmenter, agreed
from rvos_lightning.core.types import Clip, Features, Prompt


class SentencePrompter(Prompter):
    """A two-layer perceptron from the adapter's sentence to one prompt token, the same for all frames.

    Args:
        text_dim: width of `Features.sentence`; None: the adapter's.
        prompt_dim: width of prompt tokens; None: the segmenter's.
    """

    def __init__(self, text_dim: int | None = None, prompt_dim: int | None = None):
        super().__init__()
        self.text_dim, self.prompt_dim = text_dim, prompt_dim

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "SentencePrompter":
        """The perceptron between the adapter's sentence and the segmenter's prompts."""
        super().fit_to(segmenter, adapter)
        text, prompt = prompt_widths(self, segmenter, adapter)
        self.project = nn.Sequential(nn.Linear(text, prompt), nn.ReLU(), nn.Linear(prompt, prompt))
        return self

    def forward(self, clip: Clip, features: Features) -> Prompt:
        """One token per item and frame."""
        token = self.project(features.sentence)
        return Prompt(token[:, None, None].expand(-1, clip.time, 1, -1))


def prompt_widths(prompter: Prompter, segmenter: Segmenter, adapter: Adapter | None) -> tuple[int, int]:
    """Widths of sentence and prompt for a prompter with `text_dim` and `prompt_dim`.

    Raises:
        ValueError: the neighbours have others, or the adapter reads no sentence.
    """
    prompt = agreed("prompter.prompt_dim", prompter.prompt_dim, segmenter.prompt_dim, segmenter)
    if adapter is not None and adapter.text_dim is None:
        raise ValueError(
            f"{type(prompter).__name__} needs the sentence that an adapter reads, {type(adapter).__name__} reads none: "
            "change model.network.adapter (e.g. CMTAdapter, FiLMAdapter) or model.network.prompter"
        )
    found = None if adapter is None else adapter.text_dim
    return agreed("prompter.text_dim", prompter.text_dim, found, adapter), prompt
