"""Predicted masks as a server wants them: PNG files while predicting, then a checked zip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from rvos_lightning.core.sinks import MaskSink
from rvos_lightning.core.types import SegmentedWindow
from rvos_lightning.data.lightning_module import data_of
from rvos_lightning.data.reader import expected_items
from rvos_lightning.metrics.id_maps import id_map_masks
from rvos_lightning.metrics.layouts import LayoutName
from rvos_lightning.metrics.submission import MaskFolder


class MaskWriter(MaskSink, BasePredictionWriter):
    """Writes every window's masks, then `<folder>.zip`; an incomplete or misshapen zip is refused with a list.

    Works window by window through `MaskSink`, so nothing long is held; `write_on_batch_end` has nothing left to do.

    Args:
        folder: where the PNG files go; None: `submission_<data set>` in the run folder.
        layout: the server's form; None: the data set's own.
        stage: the stage whose masks are written.
        zip: also build and check the zip; needs the whole split.
    """

    def __init__(
        self,
        folder: Path | None = None,
        layout: LayoutName | None = None,
        stage: Literal["predict", "test", "val"] = "predict",
        zip: bool = True,
    ) -> None:
        BasePredictionWriter.__init__(self, write_interval="batch")
        self.folder, self.layout, self.stage, self.zip = folder, layout, stage, zip
        self._masks: MaskFolder | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Name the folder."""
        if stage != {"val": "validate"}.get(self.stage, self.stage):
            return
        reader = self._reader(trainer)
        root = self.folder or Path(trainer.default_root_dir) / f"submission_{reader.name}"
        self._masks = MaskFolder(root, self.layout or reader.layout)

    def write(self, stage: str, window: SegmentedWindow, last: bool) -> None:
        """Write one window."""
        if stage == self.stage and self._masks is not None:
            merged = id_map_masks(window, probable=True) if self._masks.layout.probable else window.masks
            self._masks.write_all(window.meta, merged)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Nothing: the windows were written as they came."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Zip what was predicted."""
        self._finish(trainer, "predict")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Zip what was tested."""
        self._finish(trainer, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Zip what was validated."""
        self._finish(trainer, "val")

    def _finish(self, trainer: Trainer, stage: str) -> None:
        if stage != self.stage or self._masks is None or not self.zip or trainer.fast_dev_run:
            return
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            done = self._masks.finish(expected_items(self._reader(trainer)))
            print(f"{done} is complete: {self._masks.layout.note}", flush=True)

    def _reader(self, trainer: Trainer) -> Any:
        return data_of(trainer).read(self.stage)
