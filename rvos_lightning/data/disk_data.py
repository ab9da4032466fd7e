"""The data module of a layout on disk: which of its splits serves which of the trainer's tasks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rvos_lightning.data.errors import in_words
from rvos_lightning.data.reader import Reader
from rvos_lightning.data.shared_pictures import Pictures
from rvos_lightning.data.video_data import VideoData


class DiskData(VideoData):
    """Splits by name, opened by a reader.

    A subclass states the reader, the usual splits, and the options that its reader has besides.

    Attributes:
        opens: the reader, called with root, split and options.
        licence: name and terms.

    Args:
        root: the data set's folder.
        splits: of the data set, for training, validation, test and prediction; None for none.
        options: what the reader is told besides root and split.
        kwargs: see `VideoData`.
    """

    opens: type[Reader]
    licence: str

    def __init__(
        self, root: Path | str, splits: Sequence[str | None], options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.options = Path(root).expanduser(), options or {}
        self._judged: list[Pictures] | None = None
        self.splits = dict(zip(("train", "val", "test", "predict"), splits, strict=True))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """The licence is the reader's."""
        super().__init_subclass__(**kwargs)
        cls.licence = cls.opens.licence

    def open(self, split: str) -> Reader:
        """The reader of a split of this data set."""
        what = f"{self.root}: the annotation files of split {split} hold something of another kind"
        with in_words(f"{what} than their layout has", "Compare them with the layout, or get them again."):
            return self.make(split)

    def make(self, split: str) -> Reader:
        """Calls the reader; a data set whose splits have several replaces this."""
        return self.opens(self.root, split, **self.options)

    def judged_pictures(self) -> list[Pictures]:
        """See `VideoData.judged_pictures`; the files are read once."""
        if self._judged is None:
            self._judged = self.opens.judged_pictures(self.root, **self.options)
        return self._judged

    def reader(self, split: Literal["train", "val", "test", "predict"]) -> Reader | None:
        """See `VideoData.reader`."""
        name = self.splits[split]
        return None if name is None else self.open(name)
