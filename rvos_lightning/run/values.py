"""What values on the command line mean: null is null, `~/` the home folder, and short class names are found."""

import re
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

from rvos_lightning.run.catalogue import parts
from rvos_lightning.run.words import expanded, typed


@cache
def null_is_null() -> None:
    """Read a lone `None` as null, too, and `~/` as the home folder.

    jsonargparse hands a flag of a nested class on as text, level by level, so that a null typed for
    `model.network.segmenter.weights` would arrive there as the word None, a path.
    """
    from jsonargparse import ArgumentParser, get_loader, set_loader

    ArgumentParser(parser_mode="omegaconf+").parse_string("{}")
    load = get_loader("omegaconf+")

    def loading(text: str) -> Any:
        return None if text.strip() == "None" else expanded(load(text))

    import yaml

    set_loader("omegaconf+", loading, (yaml.YAMLError, AttributeError))


def import_short_names(words: Sequence[str]) -> None:
    """Import the classes of ours that the words and files name without their modules, so that the parser finds them."""
    names = {value for _, value in typed(words) if isinstance(value, str) and re.fullmatch(r"[A-Z]\w*", value)}
    for name in names:
        for part in parts().get(name, ()):
            import_module(part.module)


def prepare(words: Sequence[str]) -> None:
    """What values mean, the same for every verb."""
    from jsonargparse import set_parsing_settings

    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    null_is_null()
    import_short_names(words)
