"""Sentences to token ids: a published tokenizer from disk or hub, or words of a small vocabulary."""

import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from rvos_lightning.parts.starting import started
from rvos_lightning.parts.weights import WeightsError

VOCABULARIES = Path(__file__).with_name("vocabularies")
"""Published vocabularies that come with this package, so that converted weights need nothing else to read sentences."""


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
        source: a folder, a hub id, or what `stored` made of one; where no folder is, names that end in one of ours
            (roberta-base, bert-base-uncased) mean the vocabulary in this package, which is the published one.
    """

    def __init__(self, source: str) -> None:
        from tokenizers import Tokenizer as Backend
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if source.startswith("{"):
            kept = json.loads(source)
            backend = Backend.from_str(kept.pop("tokenizer"))
            self._tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **kept)
        else:
            self._tokenizer = AutoTokenizer.from_pretrained(packaged(source))
        self.pad, self.end = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        self.size = len(self._tokenizer)

    def __call__(self, text: str) -> list[int]:
        """Ids of a sentence, with the tokenizer's own start and end tokens."""
        return self._tokenizer(text)["input_ids"]

    def stored(self) -> str:
        """The whole tokenizer as text, to be kept inside a weights file (`rvos convert --tokenizer`)."""
        named = {key: getattr(self._tokenizer, key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return json.dumps({"tokenizer": self._tokenizer.backend_tokenizer.to_str(), **named})


def packaged(source: str) -> str:
    """The folder of a vocabulary in this package, where `source` names one and is no folder itself."""
    own = VOCABULARIES / Path(source).name
    return str(own) if own.is_dir() and not Path(source).is_dir() else str(source)


def tokenizer_for(given: str | Tokenizer | None, weights: str | None, flag: str) -> Tokenizer:
    """The tokenizer of a text encoder.

    Args:
        given: a tokenizer, a folder or a hub id; None: the one inside the file that the network starts from, else that
            of `weights`, else hashed words.
        weights: folder or hub id of the text encoder.
        flag: what a user types to give one.

    Raises:
        WeightsError: there is none to be had.
    """
    if isinstance(given, Tokenizer):
        return given
    start = started()
    if given is None and start is not None and "tokenizer" in start.said:
        return HubTokenizer(start.said["tokenizer"])
    source = given or weights
    if source is None:
        return WordTokenizer()
    try:
        return HubTokenizer(source)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"no tokenizer in {source}, and words need one: give {flag} FOLDER, which holds vocab.json and merges.txt "
            "(or tokenizer.json) of roberta-base, or keep it inside the weights file: convert with --tokenizer FOLDER"
        ) from error


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
