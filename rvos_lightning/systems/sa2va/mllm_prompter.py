"""Sa2VA's prompter: asks a multimodal language model and turns its [SEG] state into SAM 2's prompt."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rvos_lightning.core.seams import Adapter, Prompter, Segmenter, agreed
from rvos_lightning.core.types import Clip, Features, Prompt
from rvos_lightning.parts.starting import covered
from rvos_lightning.systems.sa2va import conversation as talk
from rvos_lightning.systems.sa2va.frames import Sampling, shown
from rvos_lightning.systems.sa2va.lora import LoRA
from rvos_lightning.systems.sa2va.mllm import MLLM, Answer
from rvos_lightning.systems.sa2va.outputs import SpokenPrompt
from rvos_lightning.systems.sa2va.shards import holds
from rvos_lightning.systems.sa2va.sizes import (
    RELEASED,
    MLLMSize,
    Released,
    load_tokenizer,
    size_at_start,
    start_folder,
    stated_template,
    tokenizer_folder,
)
from rvos_lightning.systems.sa2va.start import start_near
from rvos_lightning.systems.sa2va.teaching import Lesson, prepare_lesson
from rvos_lightning.systems.sa2va.tiling import normalise_frames, resize_frames, tile_image

log = logging.getLogger(__name__)
PROMPT_SCALE = 1.0  # of `start: near`, against weights of variance 1 / width: prompts are as long as a click's
SHAPES_TOKENIZER = Path(__file__).parent / "shapes_tokenizer.json"


class MLLMPrompter(Prompter):
    """Frames and a question in, the projected state of the answer's first [SEG] out.

    In training all items of a video are turns of one conversation and the answers are fed in. In inference every
    item is asked by itself, after visual tokens and prompt beginning that are computed once per video.

    Args:
        size: a released size, or own widths and depths.
        tokenizer: folder, tokenizer.json or tokenizer.model with [SEG]; None: that of `weights`, or without weights the
            shipped one for MovingShapes.
        template: the checkpoint's `template` field; None: what `weights`' config.json says, else the size's.
        frames: frames shown in inference where the data gives no context frames.
        sampling: which ones.
        prompt_dim: width of prompt tokens; None: the segmenter's.
        lora: adapters on the language model, as published; None: none.
        train_vision: train the vision tower.
        train_language: train the language model's own weights.
        weights: folder made by `rvos convert sa2va`, or `small/NAME`, read before adapters are added.
        questions: templates of training questions, one drawn per turn.
        answers: taught answers, one drawn per turn, each with one [SEG].
        absent_answer: taught where nothing is meant; without [SEG].
        prompt: what is asked in inference; `<image>` becomes the visual tokens, `{}` the expression.
        verbatim_questions: training expressions with a question mark are asked as they are.
        picture: a clip of one frame is squashed like any frame, or cut in `tiles` (RefCOCO).
        separator: put the template's separator between training turns (video data; image data has none).
        legacy_instruction_override: the instruction that the released training code really uses.
        max_new_tokens: longest answer.
        ask_at_once: items answered in one batch.
        attention: transformers' implementation; `eager` is bit-exact with the released code.
        resample: `pillow` for pictures exactly as released, `torch` for speed.
        checkpointing: recompute language-model activations in the backward pass.
        start: initial weights where none are given: `published` as the libraries have them, or `near` (see
            `start.start_near`) with prompts large enough that SAM 2's decoder listens to them from the first step.

    Raises:
        ValueError: tokenizer, template, question or answer without what they need.
    """

    licence = "Sa2VA, weights: Apache-2.0; InternVL2.5: MIT; its language model keeps its own terms"

    once_per_video = True

    def __init__(
        self,
        size: Released | MLLMSize = "4b",
        tokenizer: Path | None = None,
        template: str | None = None,
        frames: int = 5,
        sampling: Sampling = "uniform",
        prompt_dim: int | None = None,
        lora: LoRA | None = LoRA(),  # noqa: B008 (frozen)
        train_vision: bool = False,
        train_language: bool = False,
        weights: Path | str | None = None,
        questions: Sequence[str] = talk.QUESTIONS,
        answers: Sequence[str] = talk.ANSWERS,
        absent_answer: str = "There is no such object.",
        prompt: str = talk.VIDEO_PROMPT,
        verbatim_questions: bool = True,
        picture: Literal["squash", "tiles"] = "squash",
        separator: bool = True,
        legacy_instruction_override: bool = False,
        max_new_tokens: int = 2048,
        ask_at_once: int = 16,
        attention: str = "sdpa",
        resample: Literal["torch", "pillow"] = "torch",
        checkpointing: bool = True,
        start: Literal["published", "near"] = "published",
    ) -> None:
        super().__init__()
        folder = start_folder() or weights
        self.size = size_at_start(RELEASED[size] if isinstance(size, str) else size)
        self.tokenizer: Any = load_tokenizer(tokenizer or tokenizer_folder(folder, weights) or SHAPES_TOKENIZER)
        template = template or stated_template(folder) or self.size.template
        self.chat = talk.template(template, legacy_instruction_override)
        self.frames, self.sampling, self.prompt = frames, sampling, prompt
        self.questions, self.answers, self.absent_answer = tuple(questions), tuple(answers), absent_answer
        self.verbatim_questions, self.picture, self.separator = verbatim_questions, picture, separator
        self.max_new_tokens, self.ask_at_once, self.resample = max_new_tokens, ask_at_once, resample
        self._check_texts()
        self.said = False  # that an answer had no [SEG]
        self.seg_id, image_token = self.tokenizer.convert_tokens_to_ids([talk.SEG, talk.CONTEXT])
        self._check_vocabulary(max(self.tokenizer.get_vocab().values()))
        self.stop_ids, self.stop_texts = self._stops()
        self.mllm = MLLM(self.size, image_token, lora, train_vision, train_language, weights, attention, checkpointing)
        self.prompt_dim, self.start, self.weights = prompt_dim, start, weights
        if start == "near" and weights is None:
            start_near(self.mllm.model, self.size)

    def fit_to(self, segmenter: Segmenter, adapter: Adapter | None = None) -> "MLLMPrompter":
        """The projection from [SEG] states to the segmenter's prompts; InternVL's own weights have none."""
        super().fit_to(segmenter, adapter)
        width, prompt = self.mllm.width, agreed("prompter.prompt_dim", self.prompt_dim, segmenter.prompt_dim, segmenter)
        self.to_prompt = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt))
        prefix = "prompter.to_prompt."
        if self.weights is not None and not covered(self.to_prompt, prefix) and holds(self.weights, prefix):
            self.mllm.load_beside(self.weights, self.to_prompt, prefix)
        elif self.start == "near":
            nn.init.normal_(self.to_prompt[2].weight, std=PROMPT_SCALE / width**0.5)
        return self

    def forward(self, clip: Clip, features: Features) -> Prompt:
        """One prompt token per item, the same for all frames; see `SpokenPrompt`.

        Raises:
            ValueError: items without an expression.
        """
        return self.teach(clip) if self.training else self.ask(clip)

    # Training

    def teach(self, clip: Clip) -> SpokenPrompt:
        """Feed questions and answers; states at [SEG] become prompts, taught tokens go to `NextToken`."""
        visual, text = self.look(clip.frames[:, :], clip)
        lesson, answers = self.lesson(clip, text)
        states = self.mllm.states(self.mllm.insert(lesson.ids, visual), lesson.mask)
        predicting, labels = lesson.targets_of(states)
        token = self.to_prompt(lesson.seg_states(states))
        return SpokenPrompt(
            token[:, None, None].expand(-1, clip.time, 1, -1),
            spoken=lesson.spoken,
            answers=answers,
            token_logits=self.mllm.logits(predicting),
            labels=labels,
        )

    @torch.compiler.disable
    def lesson(self, clip: Clip, text: Sequence[str]) -> tuple[Lesson, list[str]]:
        """One conversation a video, which starts with the text that stands for its frames; the answers of all items.

        Not compiled, as a graph would hold for these very words only.
        """
        turns, seen = [], set()
        for i, (video, sentence) in enumerate(zip(clip.video.tolist(), clip.sentences(), strict=True)):
            start = "" if video in seen else text[video]
            seen.add(video)
            turns.append(talk.Turn(start + self.ask_for(sentence), self._answer(clip, i)))
        return self.lesson_of(turns, clip.video), [turn.answer for turn in turns]

    def lesson_of(self, turns: Sequence[talk.Turn], video: Int[Tensor, "turns"]) -> Lesson:
        """Conversations as token ids, one for each video; `video`: whose each turn is."""
        return prepare_lesson(
            self.tokenizer, turns, video, self.seg_id, self.chat, self.separator, self.size.language.context
        )

    def ask_for(self, expression: str) -> str:
        """An expression as a training question."""
        template = _draw(self.questions)
        if self.verbatim_questions and "?" in expression:
            return expression
        return talk.fill(template, talk.clean_expression(expression))

    def _answer(self, clip: Clip, item: int) -> str:
        """The answer is an input here, as teacher forcing needs; of the truth it tells whether anything is meant."""
        if (told := clip.meta[item].facts.answer) is not None:
            return told
        answer = _draw(self.answers)
        return self.absent_answer if clip.meta[item].no_target else answer

    # Inference

    @torch.compiler.disable
    @torch.no_grad()
    def ask(self, clip: Clip) -> SpokenPrompt:
        """Answer every item's question; an item whose answer has no [SEG] gets no mask.

        Not compiled, as an answer grows word by word.
        """
        answers, positions = self.answer(clip)
        return self._prompt_of(clip, answers, positions)

    def answer(self, clip: Clip) -> tuple[list[Answer], tuple[int, ...]]:
        """An answer to every item's question, and the positions in the video of the frames that were looked at."""
        expressions, seen = clip.sentences(), shown(clip, self.frames, self.sampling)
        answers: Any = [None] * len(clip)
        for video in clip.video.unique().tolist():
            visual, text = self.look(seen.frames[video : video + 1], clip)
            items = [i for i, v in enumerate(clip.video.tolist()) if v == video]
            for start in range(0, len(items), self.ask_at_once):
                chunk = items[start : start + self.ask_at_once]
                prompts = [self.prompt_ids(expressions[i], text[0]) for i in chunk]
                found = self.mllm.generate(prompts, visual, self.max_new_tokens, self.stopped)
                for i, answer in zip(chunk, found, strict=True):
                    answers[i] = answer
        return answers, seen.positions

    def prompt_ids(self, expression: str, visual: str) -> list[int]:
        """Token ids of one question about pictures written as `visual`."""
        text = talk.inference_prompt(talk.fill(self.prompt, expression), visual, self.chat)
        return talk.encode_prompt(self.tokenizer, text)

    def stopped(self, tokens: list[int]) -> bool:
        """Does an answer end here? Stop words that are no single token are looked for in the text."""
        if tokens[-1] in self.stop_ids:
            return True
        if not self.stop_texts:
            return False
        text = self.tokenizer.decode(tokens).replace("\r", "").replace("\n", "")
        return text.endswith(self.stop_texts)

    def _prompt_of(self, clip: Clip, answers: list[Answer], positions: tuple[int, ...]) -> SpokenPrompt:
        found = [answer.states_at(self.seg_id) for answer in answers]
        spoken = torch.tensor([len(states) > 0 for states in found], device=clip.video.device)
        states = torch.stack([own[0] if len(own) else own.new_zeros(self.mllm.width) for own in found])
        texts = [self.tokenizer.decode(answer.tokens) for answer in answers]
        for i in torch.nonzero(~spoken)[:, 0].tolist():
            level = logging.INFO if self.said else logging.WARNING  # the first one is shown, all are in the debug log
            item = f"{clip.meta[i].video}/{clip.meta[i].item}"
            log.log(
                level,
                "%s: the answer %r has no [SEG]: empty mask (callbacks.language.SegRate counts them)",
                item,
                texts[i],
            )
            self.said = True
        token = self.to_prompt(states)[:, None, None].expand(-1, clip.time, 1, -1)
        return SpokenPrompt(token, spoken=spoken, answers=texts, positions=positions)

    # Pictures

    def look(
        self, frames: Float[Tensor, "video time 3 height width"], clip: Clip
    ) -> tuple[Float[Tensor, "n width"], list[str]]:
        """Visual tokens of all videos, and each video's text that stands for them."""
        per_tile, videos, time = self.size.vision.tokens, frames.shape[0], frames.shape[1]
        if self.picture == "tiles" and time == 1:
            tiles = [self._tiles(frame) for frame in frames[:, 0]]
            pixels = torch.cat(tiles).to(frames.device)
            text = [talk.image_tokens(len(own), per_tile) for own in tiles]
        else:
            side = self.size.vision.image
            pixels = normalise_frames(resize_frames(frames.flatten(0, 1), side, self.resample))
            text = [talk.video_tokens(time, per_tile)] * videos
        return self.mllm.visual_tokens(pixels).flatten(0, 1), text

    def _tiles(self, frame: Float[Tensor, "3 height width"]) -> Float[Tensor, "tiles 3 s s"]:
        from PIL import Image

        pixels = (frame * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return tile_image(Image.fromarray(pixels), self.size.vision.image)

    # Checks

    def _check_texts(self) -> None:
        for question in (*self.questions, self.prompt):
            talk.fill(question, "")
        if talk.IMAGE not in self.prompt:
            raise ValueError(f"prompter.prompt {self.prompt!r} does not contain {talk.IMAGE}")
        if wrong := [answer for answer in self.answers if answer.count(talk.SEG) != 1]:
            raise ValueError(f"prompter.answers: {wrong[0]!r} must contain {talk.SEG} exactly once")
        if talk.SEG in self.absent_answer:
            raise ValueError(f"prompter.absent_answer {self.absent_answer!r} must not contain {talk.SEG}")

    def _check_vocabulary(self, largest: int) -> None:
        rows = self.size.language.vocabulary
        if largest >= rows:
            raise ValueError(
                f"the tokenizer's largest id is {largest}, size.language.vocabulary is {rows}; make it {largest + 1}"
            )

    def _stops(self) -> tuple[set[int], tuple[str, ...]]:
        ids, texts = {self.tokenizer.eos_token_id} - {None}, []
        for word in self.chat.stop_words:
            pieces = self.tokenizer.encode(word, add_special_tokens=False)
            if len(pieces) == 1:
                ids.add(pieces[0])
            else:
                texts.append(word)
        return ids, tuple(texts)


def _draw(options: Sequence[str]) -> str:
    """One at random, from torch's generator: a resumed run draws what an unbroken one would."""
    return options[int(torch.randint(len(options), ()))]
