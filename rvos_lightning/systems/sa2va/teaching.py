"""Training conversations of a batch: one per video, one turn per item, answers fed in (teacher forcing)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rvos_lightning.systems.sa2va.conversation import IGNORED, SEG, Template, Tokenizer, Turn, encode


@dataclass
class Lesson:
    """Right-padded conversations of all videos.

    Attributes:
        ids: token ids, 0 where padded.
        mask: True on real tokens.
        labels: taught tokens, `IGNORED` elsewhere.
        seg: (video, position) of every item's [SEG]; position 0 for an item taught to say none.
        spoken: which items have a [SEG].
    """

    ids: Int[Tensor, "video length"]
    mask: Bool[Tensor, "video length"]
    labels: Int[Tensor, "video length"]
    seg: Int[Tensor, "batch 2"]
    spoken: Bool[Tensor, "batch"]

    def targets_of(
        self, states: Float[Tensor, "video length width"]
    ) -> tuple[Float[Tensor, "taught width"], Int[Tensor, "taught"]]:
        """The states that predict taught tokens, and these tokens."""
        taught = self.labels[:, 1:] != IGNORED
        return states[:, :-1][taught], self.labels[:, 1:][taught]

    def answers(self) -> Int[Tensor, "batch 2"]:
        """(video, position) where every answer begins, in the order of the turns of one video after another."""
        taught = self.labels != IGNORED
        taught[:, 1:] &= ~taught[:, :-1].clone()
        return taught.nonzero()

    def seg_states(self, states: Float[Tensor, "video length width"]) -> Float[Tensor, "batch width"]:
        """The state at every item's [SEG]: where it is the input token."""
        return states[self.seg[:, 0], self.seg[:, 1]]


def prepare_lesson(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    video: Int[Tensor, "batch"],
    seg_id: int,
    chat: Template,
    separate: bool,
    context: int,
) -> Lesson:
    """Encode one conversation per video; `turns[i]` is item i's, the first of a video holds the visual tokens.

    Raises:
        ValueError: a conversation longer than the language model's context.
    """
    videos = int(video.max()) + 1
    rows = [[i for i, v in enumerate(video.tolist()) if v == own] for own in range(videos)]
    encoded = [encode(tokenizer, [turns[i] for i in items], chat, separate=separate) for items in rows]
    length = max(len(e.ids) for e in encoded)
    if length > context:
        raise ValueError(f"a conversation of {length} tokens does not fit the context of {context}: show fewer frames")
    ids = torch.zeros(videos, length, dtype=torch.long)
    labels = torch.full((videos, length), IGNORED)
    mask = torch.zeros(videos, length, dtype=torch.bool)
    seg = torch.zeros(len(turns), 2, dtype=torch.long)
    seg[:, 0] = video.cpu()
    spoken = torch.tensor([SEG in turn.answer for turn in turns])
    for v, (items, one) in enumerate(zip(rows, encoded, strict=True)):
        n = len(one.ids)
        ids[v, :n], labels[v, :n], mask[v, :n] = torch.tensor(one.ids), torch.tensor(one.labels), True
        places = [
            p for p, (token, label) in enumerate(zip(one.ids, one.labels, strict=True)) if token == label == seg_id
        ]
        speaking = [i for i in items if spoken[i]]
        seg[speaking, 1] = torch.tensor(places, dtype=torch.long)
    device = video.device
    return Lesson(*(t.to(device) for t in (ids, mask, labels, seg, spoken)))
