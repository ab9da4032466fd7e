"""Trackio as a logger of Lightning's: curves and pictures in a local data base, on a Space or on a server."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """Logs to Trackio (`pip install trackio`); `trackio show --project PROJECT` opens the page.

    Trackio knows a run by its name within a project, so the name ends in `id`: the command line takes the one that
    the run folder keeps, and a run that goes on, goes on in the same curves. Data lie where Trackio keeps them
    (`TRACKIO_DIR`), not in the run folder, as its page shows all runs of a project side by side.

    Args:
        project: what the run belongs to.
        name: of the run, for people; may occur twice.
        id: of the run, for Trackio; none makes a new run under a name that Trackio invents.
        group: runs that belong together, such as a sweep.
        space_id: `user/space` on the Hugging Face hub to log to instead; needs `--hub`.
        server_url: of a server of one's own to log to instead, with its write token.

    Raises:
        ValueError: `space_id` while hub libraries are kept off the network.
        ModuleNotFoundError: no trackio here.
    """

    def __init__(
        self,
        project: str = "rvos_lightning",
        name: str | None = None,
        id: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        server_url: str | None = None,
    ):
        super().__init__()
        import trackio
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if space_id is not None and HF_HUB_OFFLINE:
            raise ValueError(f"space_id {space_id} is on the hub, which nothing reaches without --hub: add it")
        self._trackio, self._project = trackio, project
        self._name = "-".join(part for part in (name, id) if part) or None
        self._goes_on = id is not None
        self._where = {"group": group, "space_id": space_id, "server_url": server_url}
        self._hparams: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run's name in Trackio; None until something was logged where no `id` was given."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`, begun or continued at the first use."""
        if self._run is None:
            resume = "allow" if self._goes_on else "never"
            self._run = self._trackio.init(
                self._project, self._name, config=self._hparams, resume=resume, embed=False, **self._where
            )
            self._name, self._goes_on = self._run.name, True
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Keep what the run's page shows as its configuration; sent with the first values that are logged."""
        self._hparams |= vars(params) if isinstance(params, Namespace) else params
        if self._run is not None:
            self._run.config.update(self._hparams)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a training step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[np.ndarray], step: int | None = None) -> None:
        """Log pictures, uint8 [height, width, 3]; several under one key are numbered."""
        keys = [key] if len(images) == 1 else [f"{key}/{number}" for number in range(len(images))]
        pictures = {name: self._trackio.Image(image) for name, image in zip(keys, images, strict=True)}
        self.experiment.log(pictures, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is still waiting; what is logged later goes on in the same run."""
        if self._run is not None:
            self._run.finish()
            self._run = None
