"""A configuration read from words as every verb reads it, without running anything."""

from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings
from lightning.pytorch import LightningDataModule

from rvos_lightning.core.module import RVOSModule
from rvos_lightning.run.errors import explain
from rvos_lightning.run.lightning_cli import RVOSCLI, Parser
from rvos_lightning.run.values import import_short_names, null_is_null

OTHERS = (
    "model", "trainer", "objectives", "callbacks", "seed_everything", "ckpt_path", "weights_only", "hub", "untrained",
    "skip_done", "return_predictions", "verbose",
)  # fmt: skip
"""What a recipe, or a run's config.yaml, says besides its data."""


class ParseOnly(RVOSCLI):
    """The command line's own parser, stopped before it builds anything."""

    def before_instantiate_classes(self) -> None:
        """Nothing is going to run."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""

    def after_instantiate_classes(self) -> None:
        """Nothing was built."""


class DataParser(ArgumentParser):
    """A parser whose errors are a few plain lines."""

    typed: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Print key, value, what was expected and the nearest valid names; exit with status 2."""
        self.exit(2, explain(message, self.typed) + "\n")


def open_config(words: Sequence[str]) -> RVOSCLI:
    """The configuration that `fit` would run: `config` and `parser` of what is returned.

    Args:
        words: as for `fit`, without the verb.
    """
    prepare(words)
    Parser.typed = list(words)
    return ParseOnly(
        RVOSModule,
        LightningDataModule,
        subclass_mode_data=True,
        args=list(words),
        run=False,
        parser_class=Parser,
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
        save_config_callback=None,
        auto_configure_optimizers=False,
    )


def open_data(words: Sequence[str], verb: str, add: Callable[[ArgumentParser], None]) -> Any:
    """The data module of a configuration, as `data`, and a verb's own options.

    Args:
        words: after the verb; recipes and overlays may say whatever `fit` understands, only the data is looked at.
        verb: for messages.
        add: adds the verb's own options.
    """
    prepare(words)
    parser = DataParser(prog=f"rvos {verb}", parser_mode="omegaconf+", allow_abbrev=False)
    parser.typed = list(words)
    parser.add_argument("-c", "--config", action="config", help="a file of configs/data/, a recipe or a run's config")
    parser.add_argument("--data", type=LightningDataModule, required=True, help="data module, flags as in `fit`")
    for key in OTHERS:
        parser.add_argument(f"--{key}", type=Any, default=None, help=SUPPRESS)
    add(parser)
    return parser.instantiate(parser.parse_args(list(words)))


def prepare(words: Sequence[str]) -> None:
    """What values mean, the same for every verb."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    null_is_null()
    import_short_names(words)
