"""SAMWISE's prompt: the sentence's state, carried over into SAM 2's prompt space by a small MLP."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rvos_lightning.core.seams import Prompter
from rvos_lightning.core.types import Clip, Features, Prompt


class MotionPrompter(Prompter):
    """One contextual prompt token per sentence, the same for every frame of the window.

    The paper's second, motion token (verbs) is off in every published command and absent from every released
    checkpoint, and the released code for it mixes up captions and frames; it is left out here.

    Args:
        text_dim: width of the sentence's vector.
        prompt_dim: width of the segmenter's prompt tokens.
    """

    def __init__(self, text_dim: int = 768, prompt_dim: int = 256) -> None:
        super().__init__()
        self.project_text = PromptMLP(text_dim, prompt_dim)

    def forward(self, clip: Clip, features: Features) -> Prompt:
        """The prompt of every item and frame.

        Raises:
            ValueError: the adapter gave no sentence vector.
        """
        if features.sentence is None:
            raise ValueError("MotionPrompter needs features.sentence; use an adapter that reads language (CMTAdapter)")
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
