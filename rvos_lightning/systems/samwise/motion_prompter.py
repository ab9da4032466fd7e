"""SAMWISE's prompt: the sentence's state, carried over into SAM 2's prompt space by a small MLP."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.core.seams import Adapter, Prompter, Segmenter
from rvos_lightning.core.types import Clip, Features, Prompt
from rvos_lightning.parts.prompters.sentence import prompt_widths


class MotionPrompter(Prompter):
    """One contextual prompt token per sentence, the same for every frame of the window.

    The paper's second, motion token (verbs) is off in every published command and absent from every released
    checkpoint, and the released code for it mixes up captions and frames; it is left out here.

    Args:
        text_dim: width of the sentence's vector (768 as published); None: the adapter's.
        prompt_dim: width of prompt tokens (256 as published); None: the segmenter's.
    """

    def __init__(self, text_dim: int | None = None, prompt_dim: int | None = None) -> None:
        super().__init__()
        self.text_dim, self.prompt_dim = text_dim, prompt_dim

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "MotionPrompter":
        """The MLP between the adapter's sentence and the segmenter's prompts."""
        super().fit_to(segmenter, adapter)
        self.project_text = PromptMLP(*prompt_widths(self, segmenter, adapter))
        return self

    def forward(self, clip: Clip, features: Features) -> Prompt:
        """The prompt of every item and frame."""
        token = self.project_text(features.sentence)
        return Prompt(token[:, None, None].expand(-1, clip.time, -1, -1))


class PromptMLP(nn.Module):
    """Three linear layers with ReLU between (official project_text)."""

    def __init__(self, text_dim: int, prompt_dim: int) -> None:
        super().__init__()
        widths = (text_dim, prompt_dim, prompt_dim, prompt_dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, sentence: Float[Tensor, "batch text"]) -> Float[Tensor, "batch dim"]:
        """Sentence vector to prompt token."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(sentence)))))
