"""`LightningCLI` plus two named groups (`objectives`, `callbacks`), interpolation across files, and run folders."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO

from rvos_lightning.core.module import NonFiniteLoss, RVOSModule
from rvos_lightning.core.seams import Objective
from rvos_lightning.parts.starting import starting_from
from rvos_lightning.run.errors import explain, mendable
from rvos_lightning.run.folder import AtomicCheckpointIO, claim, newest_checkpoint, restarted
from rvos_lightning.run.sharding import writes_files
from rvos_lightning.run.words import config_files, said_in_full

DEFAULTS: dict[str, Any] = {
    "data": {"class_path": "rvos_lightning.data.MovingShapes"},
    "callbacks": {
        "best": {"class_path": "callbacks.BestCheckpoint"},
        "last": {"class_path": "callbacks.LastCheckpoint"},
        "film": {"class_path": "callbacks.FilmStrip"},
        "scores": {"class_path": "callbacks.Scores"},
        "start": {"class_path": "callbacks.StartTable"},
        "throughput": {"class_path": "callbacks.Throughput"},
        "requeue": {"class_path": "callbacks.Requeue"},
        "overlay": {"class_path": "callbacks.Overlay"},
    },
    "trainer.use_distributed_sampler": False,  # our samplers shard by themselves, so that resume is exact
    "trainer.log_every_n_steps": 10,
    "trainer.enable_model_summary": False,  # the start table says more
    "weights_only": True,
}


class Parser(LightningArgumentParser):
    """The usual parser, whose errors are a few plain lines."""

    typed: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Print key, value, what was expected and the nearest valid names; exit with status 2."""
        self.exit(2, explain(message, self.typed) + "\n")


class RVOSCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` for `RVOSModule` and any data module."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the named losses and callbacks, and our defaults."""
        parser.add_argument("--objectives", type=dict[str, Objective | None], default={}, help="name -> loss")
        parser.add_argument("--hub", type=bool, default=False, help="let hub libraries reach the network")
        parser.add_argument("--callbacks", type=dict[str, Callback | None], default={}, help="name -> callback")
        parser.set_defaults({key: value for key, value in DEFAULTS.items() if key != "weights_only"})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words that were given, whatever `sys.argv` holds."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, find the checkpoint that `last` means."""
        config = self.config[self.subcommand]
        folder = claim(config.trainer.default_root_dir, self.subcommand, config_files(Parser.typed))
        config.trainer.default_root_dir = str(folder)
        if config.ckpt_path == "last" or (self.subcommand == "fit" and restarted()):
            newest = newest_checkpoint(folder / "checkpoints")
            started_from = None if config.ckpt_path == "last" else config.ckpt_path
            config.ckpt_path = started_from if newest is None else str(newest)
        if config.weights_only is None:
            config.weights_only = DEFAULTS["weights_only"]

    def instantiate_classes(self) -> None:
        """Parts that `model.weights` covers open no files of their own."""
        with starting_from(self.config[self.subcommand].model.weights):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the named callbacks and objectives appended, in YAML order, and the default loggers."""
        given = self._get(self.config_init, "trainer")
        folder = given.default_root_dir
        if given.logger in (None, True):
            kwargs["logger"] = default_loggers(folder)
        kwargs["plugins"] = [*as_list(given.plugins), *default_plugins()]
        named = [self._get(self.config_init, group) or {} for group in ("callbacks", "objectives")]
        extra = [callback for group in named for callback in group.values() if callback is not None]
        kwargs["callbacks"] = [*as_list(given.callbacks), *extra]
        trainer = super().instantiate_trainer(**kwargs)
        if writes_files(trainer.strategy) and not any(isinstance(p, CheckpointIO) for p in kwargs["plugins"]):
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer


def default_loggers(folder: str) -> list[Any]:
    """TensorBoard when it is installed, CSV always (`csv/version_<start>/`: a resumed run adds a file, loses none)."""
    from importlib.util import find_spec

    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    board = [TensorBoardLogger(folder, name="", version="")] if find_spec("tensorboard") else []
    return [*board, CSVLogger(folder, name="csv")]


def default_plugins() -> list[Any]:
    """Under SLURM we requeue by ourselves."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def as_list(value: Any) -> list[Any]:
    """None, one thing or a list, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def main(words: Sequence[str]) -> RVOSCLI:
    """Parse and run; `words` as in `sys.argv[1:]`."""
    parsing = {"parser_mode": "omegaconf+", "allow_abbrev": False}
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    words = Parser.typed = said_in_full(words)
    inherited = os.environ.get("RVOS_RUN_DIR")
    if any(word.startswith("--print_config") for word in Parser.typed):
        # Imported where no GPU is (a login node), DeepSpeed warns on standard output, which here must be YAML alone.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno > logging.WARNING)
    try:
        return RVOSCLI(
            RVOSModule,
            LightningDataModule,
            subclass_mode_data=True,
            args=words,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={**parsing, **{name: dict(parsing) for name in ("fit", "validate", "test", "predict")}},
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except (ValueError, NonFiniteLoss) as error:
        if not isinstance(error, NonFiniteLoss) and not mendable(error):
            raise
        sys.exit(f"error: {error}")
    finally:
        if inherited is None:
            os.environ.pop("RVOS_RUN_DIR", None)
