"""The data of a configuration, for verbs that look at data alone: they start without Lightning."""

from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from rvos_lightning.data.video_data import VideoData
from rvos_lightning.run.bounds import faults
from rvos_lightning.run.errors import FewLines
from rvos_lightning.run.values import prepare
from rvos_lightning.run.words import OF_VERBS

OTHERS = (
    "model", "trainer", "objectives", "callbacks", "seed_everything", "hub", "untrained", "skip_done", "limits",
    *OF_VERBS,
)  # fmt: skip
"""What a recipe, or a run's config.yaml, says besides its data."""


class DataParser(FewLines, ArgumentParser):
    """Parses what `open_data` adds."""


def unread(value: Any) -> None:
    """The type of what is not looked at: classes in it are not even imported."""


def open_data(words: Sequence[str], verb: str, add: Callable[[ArgumentParser], None]) -> Any:
    """The data set of a configuration, as `data`, and a verb's own options.

    Args:
        words: after the verb; recipes and overlays may say whatever `fit` understands, only the data is looked at.
        verb: for messages.
        add: adds the verb's own options.
    """
    prepare(words)
    DataParser.listen(words)  # the class: a part of the data has a parser of its own
    parser = DataParser(prog=f"rvos {verb}", parser_mode="omegaconf+", allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config", help="a file of configs/data/, a recipe or a run's config")
    parser.add_argument("--data", type=VideoData, required=True, help="data set, flags as in `fit`")
    for key in OTHERS:
        parser.add_argument(f"--{key}", type=unread, default=None, help=SUPPRESS)
    add(parser)
    config = parser.parse_args(list(words))
    if (fault := next(faults("data", config.as_dict()["data"]), None)) is not None:
        parser.exit(2, f"{fault}\n")
    return parser.instantiate(config)
