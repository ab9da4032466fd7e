"""The configuration that `fit` would run, read without running anything."""

from argparse import SUPPRESS
from collections.abc import Sequence

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from rvos_lightning.core.module import RVOSModule
from rvos_lightning.run.lightning_cli import RVOSCLI, Parser
from rvos_lightning.run.values import prepare
from rvos_lightning.run.words import OF_VERBS


class ParseOnly(RVOSCLI):
    """The command line's own parser, stopped before it builds anything."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the verbs' own parsers take as well."""
        super().add_arguments_to_parser(parser)
        for key in OF_VERBS:
            parser.add_argument(f"--{key}", default=None, help=SUPPRESS)

    def before_instantiate_classes(self) -> None:
        """Nothing is going to run."""

    def instantiate_classes(self) -> None:
        """Nothing is built."""

    def after_instantiate_classes(self) -> None:
        """Nothing was built."""


def open_config(words: Sequence[str]) -> RVOSCLI:
    """The configuration that `fit` would run: `config` and `parser` of what is returned.

    Args:
        words: as for `fit`, without the verb.
    """
    prepare(words)
    Parser.listen(words)
    return ParseOnly(
        RVOSModule,
        LightningDataModule,
        subclass_mode_data=True,
        args=list(words),
        run=False,
        parser_class=Parser,
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
    )
