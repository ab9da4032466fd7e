"""The data module of a layout on disk: which of its splits serves which of the trainer's tasks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.module import VideoDataModule
from rvos_lightning.data.reader import DataError, Reader


class DiskData(VideoDataModule):
    """Splits by name, opened by a reader.

    A subclass states the reader, the usual splits, and the options that its reader has besides.

    Attributes:
        opens: the reader, called with root, split and options.
        licence: name and terms.

    Args:
        root: the data set's folder.
        splits: of the data set, for training, validation, test and prediction; None for none.
        options: what the reader is told besides root and split.
        kwargs: see `VideoDataModule`.
    """

    opens: type[Reader]
    licence: str

    def __init__(
        self, root: Path | str, splits: Sequence[str | None], options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.options = Path(root).expanduser(), options or {}
        self.splits = dict(zip(("train", "val", "test", "predict"), splits, strict=True))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """The licence is the reader's."""
        super().__init_subclass__(**kwargs)
        cls.licence = cls.opens.licence

    def open(self, split: str) -> Reader:
        """The reader of a split of this data set."""
        try:
            return self.opens(self.root, split, **self.options)
        except DataError:
            raise
        except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            # readers name file and field; this is the net below them, for kinds that nobody has seen yet
            raise DataError(
                f"{self.root}: the annotation files of split {split} hold something of another kind than their layout "
                f"has ({type(error).__name__}: {str(error)[:120]}). Compare them with the layout, or get them again."
            ) from error

    def reader(self, split: Literal["train", "val", "test", "predict"]) -> Reader | None:
        """See `VideoDataModule.reader`."""
        name = self.splits[split]
        return None if name is None else self.open(name)
