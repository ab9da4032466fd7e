"""A word-level tokenizer with Sa2VA's special tokens, for vocabularies small enough to learn from nothing."""

import re
from collections.abc import Iterable
from typing import Any

from rvos_lightning.systems.sa2va import conversation as talk

END, PAD, UNKNOWN = "<|im_end|>", "<|endoftext|>", "<unk>"


def word_tokenizer(words: Iterable[str]) -> Any:
    """A `tokenizers.Tokenizer` of lower- and upper-case words, punctuation, newline and the special tokens.

    Args:
        words: the vocabulary of the data; the words of templates, questions and answers are added.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    special = [PAD, "<|im_start|>", END, talk.IMAGE_START, talk.IMAGE_END, talk.CONTEXT, *talk.SPECIAL_TOKENS]
    texts = [*talk.QUESTIONS, *talk.ANSWERS, talk.VIDEO_PROMPT, "user assistant There is no such object None", *words]
    plain = sorted({piece for text in texts for piece in re.findall(r"\w+|[^\w\s]", text)} | set(".,?!{}"))
    vocabulary = {piece: i for i, piece in enumerate([UNKNOWN, "\n", *plain])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "isolated"),
            pre_tokenizers.Split(Regex(" +"), "removed"),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer
