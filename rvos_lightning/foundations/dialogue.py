"""Learns to see, then to answer questions about what it sees: how a small InternVL comes to be.

First its visual tokens say what is where and how it moves, by linear classifiers that are thrown away (`LanguageTaps`
in `AttributePixels`): in place of InternViT's own training on pictures. Then questions and captions by
next tokens, as InternVL2.5 (arXiv 2412.05271) is trained, and pointing (`AnsweredQuestions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from rvos_lightning.core.seams import Network
from rvos_lightning.core.types import Clip, Prediction, SegmentedWindow, State
from rvos_lightning.data.shapes.questions import MAKERS
from rvos_lightning.foundations.shares import SharesByKind
from rvos_lightning.parts.weights import freeze
from rvos_lightning.systems.sa2va import conversation as talk
from rvos_lightning.systems.sa2va.mllm import MLLM
from rvos_lightning.systems.sa2va.mllm_prompter import MLLMPrompter
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt
from rvos_lightning.systems.sa2va.start import POINTING
from rvos_lightning.systems.sa2va.teaching import Lesson
from rvos_lightning.systems.sgmg.video_swin import Taps


class LanguageTaps(nn.Module):
    """The vision tower's patches, and visual tokens after some layers of the language model, as a backbone.

    The last tap are the keys by which the pointing heads of the last layer find a token. Sentences read after the
    frames change none of this, as the language model is causal.

    Args:
        prompter: whose vision tower and language model shall learn, all but its last layer.
        layers: of the language model, after which its visual tokens are looked at.
        side: of the frames, in pixels.
    """

    def __init__(self, prompter: MLLMPrompter, layers: list[int], side: int = 64) -> None:
        super().__init__()
        vision, language = prompter.size.vision, prompter.size.language
        self.prompter, self.layers = prompter, layers
        self.grid = vision.image // vision.patch
        self.channels = (vision.width, *(language.width for _ in layers), language.head_size)
        self.strides = (side // self.grid, *(2 * side // self.grid for _ in range(len(layers) + 1)))
        language_model = prompter.mllm.model.model.language_model
        for unseen in (language_model.layers[-1], language_model.norm, prompter.mllm.model.lm_head):
            freeze(unseen)

    def forward(self, frames: Float[Tensor, "video time 3 height width"]) -> Taps:
        """Maps of normalised frames: the vision tower's, one for each layer asked for, and the last layer's keys."""
        asked = self.prompter.chat.ask(self._shown(frames))
        text = self.prompter.tokenizer.encode(asked, add_special_tokens=False)
        ids = torch.tensor(text, device=frames.device).expand(len(frames), -1)
        return self._run(frames, ids, torch.ones_like(ids))[0]

    def read(
        self, frames: Float[Tensor, "video time 3 height width"], sentences: Sequence[Sequence[str]]
    ) -> tuple[Taps, Float[Tensor, "sentences width"], Float[Tensor, "video seen both"]]:
        """The maps; by which queries the pointing heads would look for what sentences say; what they write of tokens.

        Args:
            frames: normalised.
            sentences: of each video; they are asked in one conversation after its frames.
        """
        talks, video = self.prompter, [v for v, own in enumerate(sentences) for _ in own]
        shown = [self._shown(frames) if n == 0 else "" for own in sentences for n in range(len(own))]
        turns = [
            talk.Turn(text + talks.ask_for(sentence), talks.answers[0] if n % 2 else talks.absent_answer)
            for n, (text, sentence) in enumerate(zip(shown, sum(map(list, sentences), []), strict=True))
        ]
        lesson = talks.lesson_of(turns, torch.tensor(video, device=frames.device))
        maps, states = self._run(frames, lesson.ids, lesson.mask.long())
        rows, first = lesson.answers().unbind(1)
        asking = states[rows, asking_places(first)]
        seen = states[lesson.ids == talks.mllm.image_token].unflatten(0, (len(frames), -1))
        return maps, seeking(talks.mllm, asking)[0], seeking(talks.mllm, seen)[2]

    def _shown(self, frames: Tensor) -> str:
        return talk.video_tokens(frames.shape[1], self.prompter.size.vision.tokens)

    def _run(self, frames: Tensor, ids: Tensor, mask: Tensor) -> tuple[Taps, Tensor]:
        mllm, side = self.prompter.mllm, self.prompter.size.vision.image
        pixels = F.interpolate(frames.flatten(0, 1), (side, side), mode="bicubic", antialias=True)
        seen = mllm.model.get_image_features(pixel_values=pixels)
        patches = seen.last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        states = mllm.model.model.language_model(
            inputs_embeds=mllm.insert(ids, seen.pooler_output.flatten(0, 1)), attention_mask=mask,
            output_hidden_states=True, use_cache=False,
        ).hidden_states[:-1]  # fmt: skip
        visual = ids == mllm.image_token
        found = [*(states[layer][visual] for layer in self.layers), seeking(mllm, states[-1][visual])[1]]
        tokens = [tokens.unflatten(0, (frames.shape[0] * frames.shape[1], -1)).transpose(1, 2) for tokens in found]
        return (patches, *(own.unflatten(2, (self.grid // 2, -1)) for own in tokens)), states[-1]


def seeking(mllm: MLLM, states: Float[Tensor, "*tokens width"]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of the last layer's last head, which seeks (`start.start_near`), before the rotary code; values.

    Values are those of all heads that seek, side by side.
    """
    language: Any = mllm.model.model.language_model
    layer, size = language.layers[-1], mllm.size.language.head_size
    states = layer.input_layernorm(states)
    queries, keys = (proj(states)[..., -size:] for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj))
    return queries, keys, layer.self_attn.v_proj(states)[..., -POINTING * size :]


@dataclass
class PointedPrediction(Prediction):
    """What is meant, said twice.

    Attributes:
        places: by a linear layer on the state of each answer's [SEG], where `mask_logits` are an attention head's.
    """

    places: Float[Tensor, "batch time side side"] | None = None


class AnsweredQuestions(Network):
    """A language model that answers questions about the frames, and points where a sentence means something.

    In training the answers are fed in (objective `NextToken`); in evaluation it answers freely. Give data whose items
    are questions with a `Facts.answer` (`MovingShapes` with `questions`). A mask says how much more some attention
    heads look at each visual token than at all text together, from an answer's first token or from the one before it:
    so they learn to attend to what is meant, or to no picture where nothing is. A linear layer, thrown away, asks the
    state of [SEG] for the same places.

    Args:
        prompter: what shall learn.
        layer: of the language model whose heads point, from 0.
        heads: that point; one of them is drawn for each item.
        frames: of a clip.
    """

    says_presence = False

    def __init__(
        self,
        prompter: MLLMPrompter,
        layer: int = 2,
        heads: Sequence[int] = (6, 7),
        frames: int = 3,
    ) -> None:
        super().__init__()
        self.prompter, self.layer, self.heads = prompter, layer, list(heads)
        self.frames = frames
        self.places = nn.Linear(prompter.mllm.width, frames * prompter.size.vision.tokens)

    def forward(self, clip: Clip, state: State | None = None) -> Prediction:
        """Answer every item's question; see `seams.Network`."""
        if self.training:
            return self.teach(clip)
        answers, positions = self.prompter.answer(clip)
        texts = [self.prompter.tokenizer.decode(answer.tokens) for answer in answers]
        empty = torch.full((len(clip), clip.time, 1, 1), -1.0, device=clip.video.device)
        return Prediction(empty, prompt=SpokenPrompt(empty[..., :0, :0], answers=texts, positions=positions))

    def teach(self, clip: Clip) -> Prediction:
        """Feed questions and answers; see `MLLMPrompter.teach`.

        Raises:
            ValueError: clips of other frames.
        """
        check_frames(clip, self.frames)
        visual, text = self.prompter.look(clip.frames[:, :], clip)
        lesson, answers = self.prompter.lesson(clip, text)
        mllm = self.prompter.mllm
        passed = mllm.model.model.language_model(
            inputs_embeds=mllm.insert(lesson.ids, visual), attention_mask=lesson.mask.long(),
            output_hidden_states=True, use_cache=False,
        )  # fmt: skip
        predicting, labels = lesson.targets_of(passed.last_hidden_state)
        prompt = SpokenPrompt(
            predicting.new_zeros(len(clip), clip.time, 0, 0),
            spoken=lesson.spoken, answers=answers, token_logits=mllm.logits(predicting), labels=labels,
        )  # fmt: skip
        pointed = self.pointed(clip, lesson, passed.hidden_states[self.layer])
        places = self.places(lesson.seg_states(passed.last_hidden_state)).view_as(pointed)
        return PointedPrediction(pointed, prompt=prompt, places=places)

    def pointed(
        self, clip: Clip, lesson: Lesson, states: Float[Tensor, "video length width"]
    ) -> Float[Tensor, "batch time side side"]:
        """How much visual tokens are looked at from answers: log-odds against all text."""
        side = round(self.prompter.size.vision.tokens**0.5)
        video, first = lesson.answers().unbind(1)
        place = asking_places(first)
        scores = self.scores(states, video, place)
        seen = (lesson.ids == self.prompter.mllm.image_token)[video]
        text = ~seen & (torch.arange(scores.shape[1], device=place.device) <= place[:, None])
        against = scores.masked_fill(~text, -torch.inf).logsumexp(1)
        return scores[seen].view(len(video), clip.time, side, side) - against[:, None, None, None]

    def scores(
        self, states: Float[Tensor, "video length width"], video: Int[Tensor, "batch"], place: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch length"]:
        """Queries of one token of each item times keys of all tokens of its video, by a head that is drawn."""
        language: Any = self.prompter.mllm.model.model.language_model
        layer, heads = language.layers[self.layer], self.prompter.size.language.heads
        states = layer.input_layernorm(states)
        queries, keys = (
            proj(states).unflatten(2, (heads, -1)).transpose(1, 2)
            for proj in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        positions = torch.arange(states.shape[1], device=states.device)[None]
        queries, keys = apply_rotary_pos_emb(queries, keys, *language.rotary_emb(states, positions))
        drawn = torch.tensor(self.heads, device=video.device)[torch.randint(len(self.heads), video.shape)]
        return torch.einsum("bd,bld->bl", queries[video, drawn, place], keys[video, drawn]) / keys.shape[-1] ** 0.5


def asking_places(first: Int[Tensor, "answers"]) -> Int[Tensor, "answers"]:
    """An answer's first token or the one before it, by chance."""
    return first - torch.randint(2, first.shape, device=first.device)


def check_frames(clip: Clip, frames: int) -> None:
    """Refuse clips that layers of so many frames' tokens do not fit.

    Raises:
        ValueError: the clip is shorter or longer.
    """
    if clip.time != frames:
        raise ValueError(f"model.network.frames is {frames}, clips have {clip.time}: give data.clip_length {frames}")


class AnswerAccuracy(SharesByKind):
    """Share of questions that are answered word for word: `answers/<kind>`, and over all questions `answers`.

    Where something shall be pointed at, [SEG] is right, and anything else where nothing is meant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds = list(MAKERS)

    def update(self, window: SegmentedWindow) -> None:
        """Count a window's questions.

        Raises:
            TypeError: the network says nothing, or was asked nothing that has an answer.
        """
        prompt = window.prediction.prompt
        if not isinstance(prompt, SpokenPrompt):
            raise TypeError(f"AnswerAccuracy needs the network AnsweredQuestions, not a {type(prompt).__name__}")
        for meta, said in zip(window.meta, prompt.answers, strict=True):
            answer = meta.facts.answer
            if answer is None and meta.facts.kind != "point":
                raise TypeError(f"{meta.video}/{meta.item} is no question with an answer: give data.questions true")
            right = words_of(said) == words_of(answer) if answer else (talk.SEG in said) is not meta.no_target
            place = self.kinds.index(str(meta.facts.kind))
            self.right[place] += right
            self.total[place] += 1

    def compute(self) -> dict[str, Tensor]:
        """Scores by name."""
        return {"answers": self.right.sum() / self.total.sum()} | self.shares("answers")


def words_of(answer: str) -> str:
    """An answer without blanks and what ends its turn: tokenizers put blanks where they like."""
    return "".join(answer.split("<|im_end|>")[0].split())
