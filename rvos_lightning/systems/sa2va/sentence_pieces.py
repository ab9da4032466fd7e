"""Llama's tokenizer as SentencePiece itself encodes, which the released InternLM2 models were trained with."""

import re
from typing import Any

from transformers import LlamaTokenizer


class SentencePieces(LlamaTokenizer):
    """Text between special tokens is encoded by itself, behind a prefix space that is added whatever it begins with.

    The library's own class leaves the prefix out where a text begins with a space: `[SEG] and` would lose a token.
    """

    def encode(self, text: str, add_special_tokens: bool = True, **options: Any) -> list[int]:
        """Token ids of a text; the begin token in front where `add_special_tokens` asks for it and there is one."""
        known = self.get_added_vocab()
        names = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
        ids = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        for piece in re.split(f"({names})", text) if known else [text]:
            if piece in known:
                ids.append(known[piece])
            elif piece:
                ids += super().encode(" " + piece, add_special_tokens=False, **options)
        return ids
