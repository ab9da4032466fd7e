"""Sentences to token ids: a published tokenizer from disk or hub, or words of a small vocabulary."""

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path


class Tokenizer(ABC):
    """Turns one sentence into token ids, start and end tokens included.

    Attributes:
        pad: id that fills short sentences.
        end: id that closes every sentence.
        size: number of ids.
    """

    pad: int
    end: int
    size: int

    @abstractmethod
    def __call__(self, text: str) -> list[int]:
        """Ids of a sentence."""


class HubTokenizer(Tokenizer):
    """A transformers tokenizer.

    Args:
        source: a folder, or a hub id such as roberta-base.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoTokenizer

        self.source = source
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self.pad, self.end = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        self.size = len(self._tokenizer)

    def __call__(self, text: str) -> list[int]:
        """Ids of a sentence, with the tokenizer's own start and end tokens."""
        return self._tokenizer(text)["input_ids"]


class WordTokenizer(Tokenizer):
    """One id a word; unknown words share a few hashed ids, so any sentence can be read.

    Ids: 0 start, 1 padding, 2 end (RoBERTa's), then the vocabulary, then the buckets.

    Args:
        words: the vocabulary, lower case; None: the words of MovingShapes (`words.txt` beside this file); empty:
            every word is hashed.
        buckets: ids shared by unknown words.
    """

    START, PAD, END, FIRST = 0, 1, 2, 3

    def __init__(self, words: Sequence[str] | None = None, buckets: int = 512) -> None:
        if buckets < 1:
            raise ValueError(f"WordTokenizer buckets {buckets}; give at least 1 for unknown words")
        if words is None:
            words = Path(__file__).with_name("words.txt").read_text().split()
        self.words = {word: self.FIRST + index for index, word in enumerate(words)}
        self.buckets = buckets
        self.pad, self.end = self.PAD, self.END
        self.size = self.FIRST + len(self.words) + buckets

    def __call__(self, text: str) -> list[int]:
        """Ids of the words and punctuation marks of a sentence, case ignored."""
        return [self.START, *map(self._id, re.findall(r"\w+|[^\w\s]", text.lower())), self.END]

    def _id(self, word: str) -> int:
        if word in self.words:
            return self.words[word]
        return self.FIRST + len(self.words) + zlib.crc32(word.encode()) % self.buckets
