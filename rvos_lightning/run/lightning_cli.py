"""`LightningCLI` plus two named groups (`objectives`, `callbacks`), interpolation across files, and run folders."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import CheckpointIO

from rvos_lightning.core.module import RVOSModule
from rvos_lightning.core.objectives import Objective
from rvos_lightning.data.lightning_module import VideoDataModule
from rvos_lightning.data.video_data import VideoData
from rvos_lightning.parts.starting import starting_from
from rvos_lightning.run import checkpoints, folder
from rvos_lightning.run.bounds import faults
from rvos_lightning.run.catalogue import USUAL_CALLBACKS
from rvos_lightning.run.errors import FewLines, taken_from_nothing
from rvos_lightning.run.failures import explain_exception, trainer_refused
from rvos_lightning.run.loggers import default_loggers, with_csv
from rvos_lightning.run.saved_config import SavedConfig
from rvos_lightning.run.sharding import writes_files
from rvos_lightning.run.values import prepare
from rvos_lightning.run.words import config_files, value_of

DEFAULTS: dict[str, Any] = {
    "callbacks": {name: {"class_path": each} for name, each in USUAL_CALLBACKS.items()},
    "trainer.use_distributed_sampler": False,  # our samplers shard by themselves, so that resume is exact
    "trainer.log_every_n_steps": 10,
    "trainer.enable_model_summary": False,  # the start table says more
    "weights_only": True,
}


NOTHING = {
    "max_steps": "1 or more, -1 for no end",
    "max_epochs": "1 or more, -1 for no end",
    "limit_train_batches": "a number of batches, or 1.0 for all",
}
"""What of the trainer may not be 0 in training, and what to give instead."""


class Parser(FewLines, LightningArgumentParser):
    """The usual parser, which also takes our data sets."""

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *args: Any, **kwargs: Any) -> list[str]:
        """`data` may be one of our data sets, which know nothing of Lightning, or another's data module."""
        if nested_key != "data":
            return super().add_lightning_class_args(lightning_class, nested_key, *args, **kwargs)
        return self.add_subclass_arguments((VideoData, LightningDataModule), "data", fail_untyped=False, required=True)


class RVOSCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` for `RVOSModule` and any data module."""

    run_folder: folder.RunFolder | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the named losses and callbacks, and our defaults."""
        parser.add_argument("--objectives", type=dict[str, Objective | None], default={}, help="name -> loss")
        parser.add_argument("--callbacks", type=dict[str, Callback | None], default={}, help="name -> callback")
        parser.add_argument("--hub", type=bool, default=False, help="let hub libraries reach the network")
        parser.add_argument("--untrained", type=bool, default=False, help="run a network with random weights")
        parser.add_argument("--skip_done", type=bool, default=True, help="predict: leave out videos that are done")
        parser.add_argument("--limits", type=dict[str, float], default={}, help="raise what a file may declare")
        parser.set_defaults({key: value for key, value in DEFAULTS.items() if key != "weights_only"})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words that were given, whatever `sys.argv` holds, and look at a checkpoint given by name."""
        self.config = parser.parse_args(args)
        if own := self.config.get(str(self.config.get("subcommand"))):
            named = own.callbacks or {}  # a file's `callbacks:` adds to ours; `NAME: null` takes one away
            kept = {name: Namespace(**call) for name, call in DEFAULTS["callbacks"].items() if name not in named}
            own.callbacks = {**kept, **named}
        said = self.config.get(str(self.config.get("subcommand")), self.config).as_dict()
        owners = {"model": RVOSModule, "trainer": Trainer}
        wrong = (fault for key, value in said.items() for fault in faults(key, value, owners.get(key)))
        if (fault := taken_from_nothing(Parser.said) or next(wrong, None)) is not None:
            parser.exit(2, f"{fault}\n")
        given = self.config.get("subcommand") and self.config[self.config.subcommand].get("ckpt_path")
        if given and given not in ("last", "best"):
            checkpoints.checked(Path(given))

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, find the checkpoint that `last` and `best` mean."""
        config, words, verb = self.config[self.subcommand], Parser.typed, self.subcommand
        configured = folder_given(config.trainer.default_root_dir, words)
        asked = config.ckpt_path
        goes_on = asked in ("last", "best") or (
            configured is not None and asked is not None and Path(configured) in Path(asked).parents
        )
        if config.trainer.val_check_interval == 0:
            raise ValueError("trainer.val_check_interval is 0: give a number of batches, or 1.0 for once an epoch")
        for key, more in NOTHING.items() if verb == "fit" else ():
            if config.trainer[key] == 0:
                raise ValueError(f"trainer.{key} is 0, so that nothing would be trained: give {more}")
        RVOSCLI.run_folder = folder.claim(configured, verb, words, goes_on)
        own = RVOSCLI.run_folder.path
        config.trainer.default_root_dir = str(own)
        if asked in ("last", "best"):
            config.ckpt_path = found(asked, verb, [own, *saved_runs(words)])
        if verb == "fit" and folder.restarted():
            newest = checkpoints.newest_checkpoint(own / "checkpoints")
            config.ckpt_path = config.ckpt_path if newest is None else str(newest)
        if config.weights_only is None:
            config.weights_only = DEFAULTS["weights_only"]
        with_csv(config.trainer, str(own))
        say(f"writes to {own}")

    def after_instantiate_classes(self) -> None:
        """Refuse to evaluate random weights unless told to."""
        config = self.config.get(str(self.subcommand), self.config)
        if self.subcommand in (None, "fit") or config.untrained or config.ckpt_path or config.model.weights:
            return
        if random := random_parts(self.model.network):
            raise ValueError(
                f"{self.subcommand}: random weights in {', '.join(random)}: give --run RUN_FOLDER, --model.weights "
                "FILE or --ckpt_path FILE, or say --untrained"
            )

    def instantiate_classes(self) -> None:
        """Parts that `model.weights` covers open no files of their own."""
        with starting_from(self.config[self.subcommand].model.weights):
            super().instantiate_classes()
        if isinstance(self.datamodule, VideoData):
            self.datamodule = VideoDataModule(self.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the named callbacks and objectives appended, in YAML order, and the default loggers."""
        given = self._get(self.config_init, "trainer")
        own = given.default_root_dir
        if given.logger in (None, True):
            kwargs["logger"] = default_loggers(own)
        kwargs["plugins"] = [*as_list(given.plugins), *default_plugins()]
        named = [self._get(self.config_init, group) or {} for group in ("callbacks", "objectives")]
        extra = [callback for group in named for callback in group.values() if callback is not None]
        for callback in extra:
            if hasattr(callback, "skip_done"):
                callback.skip_done = self.config[self.subcommand].skip_done
        wanted = given.enable_progress_bar is not False and named[0].get("progress", True) is not None
        kwargs |= {"callbacks": one_bar([*as_list(given.callbacks), *extra], wanted), "enable_progress_bar": wanted}
        with trainer_refused(given):
            trainer = super().instantiate_trainer(**kwargs)
        if writes_files(trainer.strategy) and not any(isinstance(p, CheckpointIO) for p in kwargs["plugins"]):
            trainer.strategy.checkpoint_io = checkpoints.AtomicCheckpointIO()
        return trainer


def one_bar(callbacks: list[Callback], wanted: bool) -> list[Callback]:
    """The trainer's callbacks with at most one progress bar: one that was asked for in place of ours; or none."""
    bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
    others = [bar for bar in bars if not type(bar).__module__.startswith("callbacks.")]
    drop = [bar for bar in bars if others and bar not in others] if wanted else bars
    return [callback for callback in callbacks if callback not in drop]


def folder_given(configured: str | None, words: Sequence[str]) -> str | None:
    """The configured folder, unless it only says where the run was whose saved configuration this is."""
    if configured is None or value_of(words, "trainer.default_root_dir") is not None:
        return configured
    saved = {file.parent.resolve() for file in map(Path, config_files(words)) if file.name == "config.yaml"}
    return None if Path(configured).resolve() in saved else configured


def saved_runs(words: Sequence[str]) -> list[Path]:
    """The run folders whose saved configurations were given."""
    return [Path(file).parent for file in config_files(words) if Path(file).name == "config.yaml"]


def found(asked: str, verb: str, runs: Sequence[Path]) -> str | None:
    """The checkpoint that `last` or `best` means; None, said aloud, where `fit` has to start anew.

    Raises:
        CheckpointError: there is none to evaluate, or none that can be read.
    """
    find = checkpoints.newest_checkpoint if asked == "last" else checkpoints.best_checkpoint
    for run in runs:
        if (path := find(run / "checkpoints")) is not None:
            if run != runs[0]:
                say(f"ckpt_path {asked}: {path}")
            return str(path)
    where = " or ".join(str(run / "checkpoints") for run in runs)
    if verb != "fit":
        raise checkpoints.CheckpointError(
            f"ckpt_path {asked}: no checkpoint in {where}; give --run RUN_FOLDER, or the checkpoint's path"
        )
    say(f"ckpt_path {asked}: no checkpoint in {where} yet: starting anew")
    return None


def say(text: str) -> None:
    """One line, from the first process only."""
    if folder.first_process() and RVOSCLI.run_folder is not None and RVOSCLI.run_folder.ours:
        print(text, flush=True)


def random_parts(network: Any) -> list[str]:
    """Direct children of a network with parameters that no file has given."""
    from_files = {
        id(parameter)
        for module in network.modules()
        if hasattr(module, "weights_source")
        for parameter in module.parameters()
    }
    names = [name for name, parameter in network.named_parameters() if id(parameter) not in from_files]
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def default_plugins() -> list[Any]:
    """Under SLURM we requeue by ourselves."""
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def as_list(value: Any) -> list[Any]:
    """None, one thing or a list, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


@contextmanager
def one_run(words: Sequence[str]) -> Any:
    """Around one command: errors in a few lines, the folder told, locks and variables put back."""
    inherited, finished = os.environ.get(folder.RUN_DIR), False
    Parser.listen(words)
    RVOSCLI.run_folder = None
    try:
        yield
        finished = True
    except Exception as error:
        if (text := explain_exception(error, words)) is None:
            raise
        sys.exit(f"error: {text}")
    finally:
        if inherited is None:
            os.environ.pop(folder.RUN_DIR, None)
        held, RVOSCLI.run_folder = RVOSCLI.run_folder, None
        if held is not None and held.release(finished):
            print(held.path, flush=True)


def quiet() -> None:
    """What Lightning says at every start and nobody can act on: an advertisement, a deprecation inside itself."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(no_advertisement)
    warnings.filterwarnings("ignore", message=".*treespec.*is deprecated")


def no_advertisement(record: logging.LogRecord) -> bool:
    """Whether a message is to be shown."""
    return "litlogger" not in record.getMessage()


def main(words: Sequence[str]) -> RVOSCLI:
    """Parse and run; `words` as in `sys.argv[1:]`."""
    parsing = {"parser_mode": "omegaconf+", "allow_abbrev": False}
    words = list(words)
    prepare(words)
    if any(word.startswith("--print_config") for word in words):
        # Imported where no GPU is (a login node), DeepSpeed warns on standard output, which here must be YAML alone.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno > logging.WARNING)
    quiet()
    with one_run(words):
        return RVOSCLI(
            RVOSModule,
            LightningDataModule,
            save_config_callback=SavedConfig,
            save_config_kwargs={"save_to_log_dir": False},
            subclass_mode_data=True,
            args=words,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={**parsing, **{name: dict(parsing) for name in ("fit", "validate", "test", "predict")}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
