"""The data module of a layout on disk: which of its splits serves which of the trainer's tasks."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.module import VideoDataModule
from rvos_lightning.data.reader import Reader


class DiskData(VideoDataModule):
    """Splits by name; a subclass opens them.

    Args:
        root: the data set's folder.
        train_split: split to train on; None for none (likewise below).
        val_split: split scored while training.
        test_split: split scored by `test`.
        predict_split: split segmented by `predict`, often one whose truth only a server knows.
        kwargs: see `VideoDataModule`.
    """

    def __init__(
        self,
        root: Path | str,
        train_split: str | None,
        val_split: str | None,
        test_split: str | None,
        predict_split: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.splits = {"train": train_split, "val": val_split, "test": test_split, "predict": predict_split}

    @abstractmethod
    def open(self, split: str) -> Reader:
        """The reader of a split of this data set."""

    def reader(self, split: Literal["train", "val", "test", "predict"]) -> Reader | None:
        """See `VideoDataModule.reader`."""
        name = self.splits[split]
        return None if name is None else self.open(name)
