"""Loggers of a run: always in its folder, and CSV beside whatever else was asked for."""

from importlib.util import find_spec
from typing import Any

CSV = "lightning.pytorch.loggers.CSVLogger"
ELSEWHERE = (None, ".", "./mlruns", "lightning_logs")
"""Values of a logger's `save_dir` that nobody typed: the present folder would be littered."""


def default_loggers(folder: str) -> list[Any]:
    """TensorBoard when it is installed, CSV always (`csv/version_<start>/`: a resumed run adds a file, loses none)."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    board = [TensorBoardLogger(folder, name="", version="")] if find_spec("tensorboard") else []
    return [*board, CSVLogger(folder, name="csv")]


def with_csv(trainer: Any, folder: str) -> None:
    """Let loggers given by flag write into the run folder, and CSV with them."""
    from jsonargparse import Namespace

    if trainer.logger in (None, True, False):
        return
    given = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in given:
        arguments = logger.get("init_args")
        if arguments is not None and "save_dir" in arguments and arguments.save_dir in ELSEWHERE:
            arguments.save_dir = folder
    if not any(is_csv_in(logger, folder) for logger in given):
        csv = Namespace(save_dir=folder, name="csv", version=None, prefix="", flush_logs_every_n_steps=100)
        given = [*given, Namespace(class_path=CSV, init_args=csv)]
    trainer.logger = given


def is_csv_in(logger: Any, folder: str) -> bool:
    """Whether a configured logger writes CSV into that folder."""
    return logger.class_path.endswith("CSVLogger") and logger.init_args.save_dir == folder
