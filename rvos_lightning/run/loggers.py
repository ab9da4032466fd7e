"""Loggers of a run: always in its folder, and CSV beside whatever else was asked for."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from rvos_lightning.run.folder import RUN_ID, first_process

CSV = "lightning.pytorch.loggers.CSVLogger"
ELSEWHERE = (None, ".", "./mlruns", "lightning_logs")
"""Values of a logger's `save_dir` that nobody typed: the present folder would be littered."""

KNOWN_BY_ID = ("WandbLogger", "TrackioLogger")
"""Loggers whose runs go on under the `id` that they began with."""


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
        known = logger.class_path.rpartition(".")[2] in KNOWN_BY_ID and not (arguments.id or arguments.get("version"))
        if known and first_process():
            arguments.id = name_of_run(Path(folder))
    if not any(is_csv_in(logger, folder) for logger in given):
        csv = Namespace(save_dir=folder, name="csv", version=None, prefix="", flush_logs_every_n_steps=100)
        given = [*given, Namespace(class_path=CSV, init_args=csv)]
    trainer.logger = given


def name_of_run(folder: Path) -> str:
    """What a server knows this folder's run by, kept in it: a run that goes on, goes on there, too.

    The server is not asked: after a requeue on a node without network the answer has to be the same.
    """
    path = folder / RUN_ID
    if not path.exists():
        path.write_text(uuid4().hex[:16])
    return path.read_text()


def is_csv_in(logger: Any, folder: str) -> bool:
    """Whether a configured logger writes CSV into that folder."""
    return logger.class_path.endswith("CSVLogger") and logger.init_args.save_dir == folder
