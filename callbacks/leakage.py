"""Nothing is scored on pictures that it was trained on, unless somebody says so."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rvos_lightning.data.lightning_module import data_of
from rvos_lightning.data.reader import DataError
from rvos_lightning.data.shared_pictures import Pictures, overlaps
from rvos_lightning.data.video_data import VideoData

KEY = "trained_pictures"


class Leakage(Callback):
    """RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and Ref-ZOM share COCO's pictures: trained on here, scored there.

    `fit` compares what is trained on, now or before by the weights it starts from, with every validation and test split
    of its data; checkpoints keep the list, with which `validate` and `test` compare theirs. `data.shared_pictures` says
    what is done about it.

    Attributes:
        said: what a report has to say of the scores of a stage; empty where nothing is shared.
    """

    def __init__(self) -> None:
        self.said = ""
        self._trained: list[Pictures] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare what is trained on with what may be scored.

        Raises:
            DataError: pictures are shared, and nobody said that they may be.
        """
        data = data_of(trainer)
        if data is None:
            return
        data.keep_out()
        if now := data.pictures("train"):
            self._trained = [*before(trainer, pl_module), *now]
            judged = data.pictures("val")
            others = [split for split in data.judged_pictures() if split.name not in {own.name for own in judged}]
            self._compare(data, [*judged, *others], "would be trained on and are scored elsewhere", "")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare what is scored with what the weights were trained on; see `on_fit_start`."""
        if trainer.state.fn != "fit":
            self._judge(trainer, pl_module, "val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare what is scored with what the weights were trained on; see `on_fit_start`."""
        self._judge(trainer, pl_module, "test")

    def _judge(self, trainer: Trainer, pl_module: LightningModule, split: Literal["val", "test"]) -> None:
        data = data_of(trainer)
        if data is not None and (judged := data.pictures(split)):
            self._trained = before(trainer, pl_module)
            self._compare(data, judged, "scored here were trained on by these weights", ", which has to be done again")

    def _compare(self, data: VideoData, judged: list[Pictures], what: str, besides: str) -> None:
        found = overlaps(self._trained, judged)
        if found and data.shared_pictures != "allow":
            more = f"; and {len(found) - 4} more pairs of splits" if len(found) > 4 else ""
            raise DataError(
                f"pictures {what}: {'; '.join(found[:4])}{more}. Scores on them say little: --data.shared_pictures "
                f"leave_out leaves them out of training{besides}, allow goes on and has reports say so"
            )
        self.said = f"trained on pictures that are scored here or elsewhere: {'; '.join(found)}" if found else ""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained on."""
        if self._trained:
            checkpoint[KEY] = {
                split.name: torch.tensor(sorted(split.ids), dtype=torch.int32) for split in self._trained
            }


def before(trainer: Trainer, pl_module: LightningModule) -> list[Pictures]:
    """What the weights were trained on that this run evaluates or starts from, as far as their file says."""
    known: dict[str, frozenset[int]] = {}
    for path in (getattr(pl_module, "weights", None), trainer.ckpt_path):
        for name, ids in noted(Path(path)).items() if path else ():
            known[name] = known.get(name, frozenset()) | ids
    return [Pictures(name, ids) for name, ids in known.items()]


def noted(path: Path) -> dict[str, frozenset[int]]:
    """What a run's checkpoint says that it was trained on; nothing for files of other kinds."""
    if not path.is_file() or path.suffix == ".safetensors":
        return {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError):  # an official file; whoever loads it judges it
        return {}
    kept = content.get(KEY, {}) if isinstance(content, dict) else {}
    return {name: frozenset(ids.tolist()) for name, ids in kept.items()}
