"""The sentence itself as the prompt token."""

from torch import nn

from rvos_lightning.core.seams import Prompter
from rvos_lightning.core.types import Clip, Features, Prompt


class SentencePrompter(Prompter):
    """A two-layer perceptron from the adapter's sentence to one prompt token, the same for all frames.

    Args:
        text_dim: width of `Features.sentence`.
        prompt_dim: the segmenter's prompt width.
    """

    def __init__(self, text_dim: int = 64, prompt_dim: int = 32):
        super().__init__()
        self.text_dim = text_dim
        self.project = nn.Sequential(nn.Linear(text_dim, prompt_dim), nn.ReLU(), nn.Linear(prompt_dim, prompt_dim))

    def forward(self, clip: Clip, features: Features) -> Prompt:
        """One token per item and frame.

        Raises:
            ValueError: the adapter gave no sentence, or one of another width.
        """
        if features.sentence is None:
            raise ValueError("SentencePrompter needs an adapter that encodes the sentence (Features.sentence)")
        if features.sentence.shape[-1] != self.text_dim:
            raise ValueError(
                f"prompter.text_dim is {self.text_dim}, the adapter's sentence {features.sentence.shape[-1]}"
            )
        token = self.project(features.sentence)
        return Prompt(token[:, None, None].expand(-1, clip.time, 1, -1))
