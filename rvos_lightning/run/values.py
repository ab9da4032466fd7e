"""What values on the command line mean: null is null everywhere, and short class names are found."""

import re
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

from rvos_lightning.run.catalogue import parts
from rvos_lightning.run.words import typed


@cache
def null_is_null() -> None:
    """Read a lone `None` as null, too.

    jsonargparse hands a flag of a nested class on as text, level by level, so that a null typed for
    `model.network.segmenter.weights` would arrive there as the word None, a path.
    """
    from jsonargparse import ArgumentParser, get_loader, set_loader

    ArgumentParser(parser_mode="omegaconf+").parse_string("{}")
    load = get_loader("omegaconf+")

    def loading(text: str) -> Any:
        return None if text.strip() == "None" else load(text)

    import yaml

    set_loader("omegaconf+", loading, (yaml.YAMLError, AttributeError))


def import_short_names(words: Sequence[str]) -> None:
    """Import the classes of ours that the words and files name without their modules, so that the parser finds them."""
    known = parts()
    for _, value in typed(words):
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z]\w*", value):
            for part in known.get(value, ()):
                import_module(part.module)
