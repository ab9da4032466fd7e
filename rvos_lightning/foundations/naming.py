"""Pixels and sentences named by the same classifiers: how a language model comes to mean by words what it sees.

In place of InternVL's contrastive alignment of its tower with a language model (arXiv 2312.14238).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rvos_lightning.core.types import Clip, State
from rvos_lightning.data.shapes.grammar import Query, word
from rvos_lightning.data.shapes.scene import Motion
from rvos_lightning.foundations.attributes import AttributePixels, AttributePrediction
from rvos_lightning.foundations.dialogue import LanguageTaps, check_frames
from rvos_lightning.systems.sa2va.start import POINTING


@dataclass
class NamedPrediction(AttributePrediction):
    """Also what the last tap's classifiers make of sentences.

    Attributes:
        told: kind -> logits of its classes for each sentence; empty in evaluation.
        truth: kind -> which class the sentence says.
        own: of every visual token, which of its video's tokens it is, by what the pointing heads write of it.
    """

    told: dict[str, Float[Tensor, "sentences classes"]] = field(default_factory=dict)
    truth: dict[str, Int[Tensor, "sentences"]] = field(default_factory=dict)
    own: Float[Tensor, "video seen seen"] | None = None


class NamedSentences(AttributePixels):
    """Pixels of a language model's visual tokens, and sentences behind them, classified by the same linear layers.

    Sentences are drawn from the grammar and say nothing about the frames that they follow.

    Args:
        backbone: what shall learn.
        kinds: see `AttributePixels`; among them shape, colour and direction, which sentences say.
        sentences: read after each video.
        frames: of a clip.

    Raises:
        ValueError: kinds without one that sentences say.
    """

    def __init__(
        self, backbone: LanguageTaps, kinds: dict[str, list[str]], sentences: int = 4, frames: int = 3
    ) -> None:
        super().__init__(backbone, kinds)
        if missing := [kind for kind in SAID if kind not in kinds]:
            raise ValueError(f"kinds: sentences say {', '.join(SAID)}; give {missing[0]}, too")
        self.sentences, self.frames, size = sentences, frames, backbone.prompter.size
        self.own = nn.Linear(POINTING * size.language.head_size, frames * size.vision.tokens)

    def forward(self, clip: Clip, state: State | None = None) -> AttributePrediction:
        """Classify every pixel, and sentences in training; see `seams.Network`.

        Raises:
            ValueError: a sentence that is no name, or clips of other frames.
        """
        if not self.training:
            return super().forward(clip, state)
        check_frames(clip, self.frames)
        random = np.random.default_rng(int(torch.randint(2**31, ())))
        said = {kind: random.integers(len(self.kinds[kind]), size=self.count(clip)) for kind in SAID}
        words = [self.wording({kind: int(which[n]) for kind, which in said.items()}, random)
                 for n in range(self.count(clip))]  # fmt: skip
        maps, queries, written = self.backbone.read(
            (clip.frames - self.mean) / self.deviation,
            [words[i : i + self.sentences] for i in range(0, len(words), self.sentences)],
        )
        pixels = self.classify(clip, maps)
        heads = self.heads[-1]
        told = {kind: F.linear(queries, heads[kind].weight[:, :, 0, 0], heads[kind].bias) for kind in SAID}
        truth = {kind: torch.from_numpy(1 + which).to(queries.device) for kind, which in said.items()}
        return NamedPrediction(**vars(pixels), told=told, truth=truth, own=self.own(written))

    def count(self, clip: Clip) -> int:
        """How many sentences are read after all videos."""
        return len(clip.frames) * self.sentences

    def wording(self, said: dict[str, int], random: np.random.Generator) -> str:
        """A sentence of the grammar that says these names."""
        shape, colour, direction = (self.kinds[kind][said[kind]] for kind in SAID)
        return word(Query(shape, colour, motion=Motion("steady", direction)), random)


SAID = ("shape", "colour", "direction")
"""Kinds that sentences say."""
