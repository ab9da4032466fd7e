"""`config.yaml` in the run folder: what ran, ready to run again into a new folder, with any verb."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rvos_lightning.data.whole import whole
from rvos_lightning.run.folder import RUN_ID

ONE_VERB = {"return_predictions": None, "verbose": True, "skip_done": True, "untrained": False}
"""Keys that only some verbs know (or that say nothing), with the values at which they are left out."""


class SavedConfig(SaveConfigCallback):
    """Writes the configuration without what binds it to this folder; an older one of another content is kept.

    Loggers that show a run's configuration (W&B, Trackio, MLflow) get the same.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`, or `config_<n>.yaml` for the older one and then `config.yaml`."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        verb = getattr(trainer.state.fn, "value", stage)
        content = portable(self.content(), folder)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger | TensorBoardLogger):  # theirs would be a second file beside ours
                logger.log_hyperparams(content)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10**6)
        path = folder / "config.yaml"
        if path.exists():
            if path.read_text().partition("\n")[2] == text:
                return
            number = 1 + len(list(folder.glob("config_*.yaml")))
            path.rename(folder / f"config_{number}.yaml")
        with whole(path) as partial:
            partial.write_text(f"# {verb} run; again in a new folder: rvos {verb} -c {path}\n{text}")

    def content(self) -> dict[str, Any]:
        """The configuration as plain values."""
        return yaml.safe_load(self.parser.dump(self.config, skip_none=False, format="yaml"))


def portable(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Without the folder, without a checkpoint inside it, and without what other verbs would refuse."""
    config["trainer"]["default_root_dir"] = None
    if config.get("ckpt_path") and folder.resolve() in Path(config["ckpt_path"]).resolve().parents:
        config["ckpt_path"] = None
    for key, usual in ONE_VERB.items():
        if config.get(key, usual) == usual:
            config.pop(key, None)
    loggers = config["trainer"].get("logger")
    for logger in loggers if isinstance(loggers, list) else []:
        arguments = logger.get("init_args", {})
        if "save_dir" in arguments and Path(arguments["save_dir"]).resolve() == folder.resolve():
            arguments["save_dir"] = "."  # the next run's folder
        if arguments.get("id") and (folder / RUN_ID).exists() and arguments["id"] == (folder / RUN_ID).read_text():
            arguments["id"] = None  # or the next run would go on in this one's curves
    return config
