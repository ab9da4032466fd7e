"""Long lists of videos and items as two arrays, so that workers share them instead of copying objects."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar, overload

import numpy as np

from rvos_lightning.core.types import Facts
from rvos_lightning.data.reader import Item, Video

Record = TypeVar("Record", Video, Item)


class Packed(Sequence, Generic[Record]):
    """A sequence of `Video` or `Item`, each decoded from its bytes when asked for.

    A Python list of objects is copied page by page into every forked worker, as soon as reference counts are
    written; arrays are not.
    """

    def __init__(self, kind: type[Record], records: Iterable[Record]) -> None:
        """Packs records; of their facts only those that are known."""
        self.kind = kind
        self._tuples = tuple(f.name for f in fields(kind) if f.name in ("frames", "size", "objects", "subsets"))
        blobs = [json.dumps(_values(record), separators=(",", ":")).encode() for record in records]
        self._ends = np.cumsum([0] + [len(blob) for blob in blobs])
        self._bytes = np.frombuffer(b"".join(blobs), np.uint8)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """One record, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index = int(index) % len(self)
        values = json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())
        named = dict(zip((f.name for f in fields(self.kind)), values, strict=True))
        for name in self._tuples:
            if named[name] is not None:
                named[name] = tuple(named[name])
        if "facts" in named:
            named["facts"] = Facts(**named["facts"])
        return self.kind(**named)

    def __iter__(self) -> Iterator[Record]:
        """All records in order."""
        return (self[i] for i in range(len(self)))


def _values(record: Item | Video) -> list[Any]:
    values = [getattr(record, entry.name) for entry in fields(record)]
    return [value.known() if isinstance(value, Facts) else value for value in values]
