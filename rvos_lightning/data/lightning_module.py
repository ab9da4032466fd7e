"""A data set as Lightning wants it: `--data CLASS` names a `VideoData`, the command line puts this around it."""

from typing import Any

from lightning.pytorch import LightningDataModule

from rvos_lightning.data.video_data import VideoData


class VideoDataModule(LightningDataModule):
    """Hands out the loaders of a `VideoData`; the trainer needs `use_distributed_sampler: false`.

    Args:
        data: the data set.
    """

    def __init__(self, data: VideoData) -> None:
        super().__init__()
        self.data = data

    def train_dataloader(self) -> Any:
        """See `VideoData`."""
        return self.data.train_dataloader(self.trainer)

    def val_dataloader(self) -> Any:
        """See `VideoData`."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> Any:
        """See `VideoData`."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> Any:
        """See `VideoData`."""
        return self.data.predict_dataloader()


def data_of(trainer: Any) -> VideoData | None:
    """What a trainer reads; None where it was given loaders or another's data module."""
    module = trainer.datamodule
    return module.data if isinstance(module, VideoDataModule) else None
