"""What is said to the language model and what it must answer: templates, questions, token ids, label spans.

Strings follow the released Sa2VA code (arXiv 2501.04001); they must match a checkpoint to the character.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

TemplateName = Literal["qwen_chat", "internlm2_chat", "phi3_chat"]
IGNORED = -100
IMAGE = "<image>"
SEG, CONTEXT, IMAGE_START, IMAGE_END = "[SEG]", "<IMG_CONTEXT>", "<img>", "</img>"
SPECIAL_TOKENS = (SEG, "<p>", "</p>", "<vp>", "</vp>")  # the order Sa2VA adds them in


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used."""

    bos_token_id: int | None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class Template:
    """How one turn is written: `instruction` with the question, then the answer, `suffix`, `separator`."""

    instruction: str
    suffix: str
    separator: str = "\n"
    stop_words: tuple[str, ...] = ()

    def ask(self, question: str) -> str:
        """The text before the answer."""
        return self.instruction.replace("{input}", question)


_CHATML = "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n"
_TEMPLATES = {
    "qwen_chat": Template(_CHATML, "<|im_end|>", stop_words=("<|im_end|>", "<|endoftext|>")),
    "internlm2_chat": Template(_CHATML, "<|im_end|>", stop_words=("<|im_end|>",)),
    "phi3_chat": Template("<|user|>\n{input}<|end|>\n<|assistant|>\n", "<|end|>", stop_words=("<|end|>",)),
}
# The instruction the released training code puts into the shared template object, whatever the template.
_LEGACY_INSTRUCTION = "<|user|>\n{input}<|end|><|assistant|>\n"

_WITH_AND_WITHOUT = (
    "Can you segment the {} in this image?",
    "Please segment {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
    "Could you provide a segmentation mask for the {} in this image?",
    "Please identify and segment the {} in this image.",
    "Where is the {} in this picture? Please respond with a segmentation mask.",
    "Can you highlight the {} in this image with a segmentation mask?",
)
QUESTIONS = tuple(
    q for half in (_WITH_AND_WITHOUT[:4], _WITH_AND_WITHOUT[4:]) for q in (*half, *(h[:-1] for h in half))
)
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)
GCG_QUESTION = (
    "Could you please give me a brief description of the image? Please respond with interleaved segmentation "
    "masks for the corresponding parts of the answer."
)
VIDEO_PROMPT = "<image>\nPlease segment {}."
IMAGE_PROMPT = "<image>\n Please segment {} in this image."  # the space is in the released evaluation code


@dataclass(frozen=True)
class Turn:
    """A question and, in training, its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation, and the labels that carry loss (elsewhere `IGNORED`)."""

    ids: list[int]
    labels: list[int]


def template(name: TemplateName | str, legacy_instruction_override: bool = False) -> Template:
    """The chat template a checkpoint's `template` field names; dashes count as underscores.

    Args:
        name: field value, e.g. `internlm2-chat`.
        legacy_instruction_override: the instruction that the released training code uses for every template.
    """
    key = name.replace("-", "_")
    if key not in _TEMPLATES:
        raise ValueError(f"chat template {name!r} is unknown; known: {', '.join(sorted(_TEMPLATES))}")
    found = _TEMPLATES[key]
    return replace(found, instruction=_LEGACY_INSTRUCTION) if legacy_instruction_override else found


def image_tokens(tiles: int, per_tile: int) -> str:
    """What replaces `<image>` for one image of `tiles` tiles."""
    return IMAGE_START + CONTEXT * (tiles * per_tile) + IMAGE_END


def video_tokens(frames: int, per_frame: int) -> str:
    """What replaces `<image>` for a video: one run a frame, joined by newlines."""
    return "\n".join([image_tokens(1, per_frame)] * frames)


def clean_expression(expression: str) -> str:
    """How video training sets write an expression inside a question template."""
    return expression.replace(".", "").strip().lower()


def fill(question: str, name: str) -> str:
    """Put a name in a question template.

    Raises:
        ValueError: the template has no placeholder `{}`.
    """
    if "{}" not in question:
        raise ValueError(f"question template {question!r} has no placeholder {{}}; write {{}} where the name goes")
    return question.replace("{}", name)


def inference_prompt(text: str, visual: str, chat: Template) -> str:
    """The complete prompt: `text` contains `<image>`, `visual` replaces it.

    Raises:
        ValueError: the text does not contain `<image>` exactly once.
    """
    if text.count(IMAGE) != 1:
        raise ValueError(f"prompt {text[:80]!r} must contain {IMAGE} exactly once")
    return chat.ask(text.replace(IMAGE, visual))


def encode(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    chat: Template,
    *,
    separate: bool = True,
    max_length: int | None = None,
) -> Encoded:
    """Token ids and labels of a training conversation; only the answers and their end carry loss.

    Args:
        tokenizer: encodes each piece by itself, as the released code does.
        turns: questions (visual tokens already written out) and answers.
        chat: the template.
        separate: put the template's separator after each turn (video, GCG and Osprey data; image data does not).
        max_length: cut there.
    """
    ids: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    labels = [IGNORED] * len(ids)
    for turn in turns:
        asked = tokenizer.encode(chat.ask(turn.question), add_special_tokens=False)
        answer = tokenizer.encode(turn.answer + chat.suffix, add_special_tokens=False)
        after = tokenizer.encode(chat.separator, add_special_tokens=False) if separate else []
        ids += asked + answer + after
        labels += [IGNORED] * len(asked) + answer + [IGNORED] * len(after)
    return Encoded(ids[:max_length], labels[:max_length])


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Token ids of an inference prompt, with the begin token where the tokenizer has one."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return begin + tokenizer.encode(prompt, add_special_tokens=False)
